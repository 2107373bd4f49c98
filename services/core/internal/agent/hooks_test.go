package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/executable"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
)

// hook puts a script into a directory of hooks. What it says lands in a log
// that all of them share.
func hook(t *testing.T, dir, name, script string) {
	t.Helper()
	at := filepath.Join("/etc/aetherium", dir)
	must(t, os.MkdirAll(at, 0o755))
	must(t, executable.Install(strings.NewReader("#!/bin/sh\nexec 3>>/var/lib/log\n"+script+"\n"), filepath.Join(at, name), time.Time{}))
}

func TestHooks(t *testing.T) {
	if !inMachine(t) {
		return
	}
	c := ownKernel(t)
	// Without any, nothing happens.
	must(t, c.Quiesce(t.Context()))
	must(t, c.Thaw(t.Context()))

	hook(t, "quiesce.d", "20-second", "echo quiesce 2 >&3")
	hook(t, "quiesce.d", "10-first", `echo "quiesce 1 as $(id -u) in $PWD with $HOME" >&3`)
	hook(t, "resume.d", "10-first", "echo resume 1 >&3; exit 1") // the rest is run nonetheless
	hook(t, "resume.d", "20-second", "echo resume 2 >&3")
	hook(t, "quiesce.d", ".hidden", "echo hidden >&3")
	hook(t, "quiesce.d", "30-not-executable", "echo not executable >&3")
	must(t, os.Chmod("/etc/aetherium/quiesce.d/30-not-executable", 0o644))
	log := func(want string) {
		t.Helper()
		got, err := os.ReadFile("/var/lib/log")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		expect(t, "hooks", string(got), want)
		_ = os.Remove("/var/lib/log")
	}
	const before, after = "quiesce 1 as 0 in / with /root\nquiesce 2\n", "resume 1\nresume 2\n"
	must(t, c.Thaw(t.Context()))
	log("") // there is nothing to undo
	must(t, c.Quiesce(t.Context()))
	log(before)
	must(t, c.Thaw(t.Context()))
	log(after)
	must(t, c.Thaw(t.Context()))
	log("")

	// A machine that goes on from memory was quiesced; it goes on once.
	must(t, c.Assume(t.Context(), guest.Identity{Hostname: "first"}))
	log("")
	must(t, c.Quiesce(t.Context()))
	log(before)
	must(t, c.Assume(t.Context(), guest.Identity{Hostname: "first"}))
	must(t, c.Thaw(t.Context()))
	log(after)
	must(t, c.Assume(t.Context(), guest.Identity{Hostname: "fork", Fork: true}))
	log(after)

	// One that fails is told, what is behind it is not run, and what was done is undone.
	hook(t, "quiesce.d", "15-failing", "echo failing >&3; echo no room; echo for the dump >&2; exit 7")
	err := c.Quiesce(t.Context())
	if !errors.HasCode(err, errors.Conflict) || !strings.Contains(err.Error(), "/etc/aetherium/quiesce.d/15-failing") ||
		!strings.Contains(err.Error(), "exit code 7") || !strings.Contains(err.Error(), "no room") {
		t.Errorf("error: %v", err)
	}
	log("quiesce 1 as 0 in / with /root\nfailing\n" + after)
	hook(t, "quiesce.d", "15-failing", "kill -9 $$")
	if err := c.Quiesce(t.Context()); !errors.HasCode(err, errors.Conflict) || !strings.Contains(err.Error(), "signal 9") {
		t.Errorf("error: %v", err)
	}
	must(t, os.WriteFile("/etc/aetherium/quiesce.d/15-failing", []byte("#!/nowhere/sh\n"), 0o755))
	if err := c.Quiesce(t.Context()); !errors.HasCode(err, errors.Conflict) || !strings.Contains(err.Error(), "15-failing") {
		t.Errorf("error: %v", err)
	}
	_ = os.Remove("/var/lib/log")

	// Much output, and a process that is left behind with it, hold up nothing.
	hook(t, "quiesce.d", "15-failing", "head -c 1000000 /dev/zero | tr '\\0' x; sleep 60 & echo $! >/var/lib/left")
	must(t, c.Quiesce(t.Context()))
	left, err := strconv.Atoi(strings.TrimSpace(read(t, "/var/lib/left")))
	must(t, err)
	must(t, syscall.Kill(left, syscall.SIGKILL)) // it is still there
	must(t, c.Thaw(t.Context()))
	log(before + after)

	// One is ended when whoever asked for it goes, and what was done is undone.
	hook(t, "quiesce.d", "15-failing", "echo $$ >/var/lib/new; mv /var/lib/new /var/lib/running; exec sleep 60")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	quiesced := make(chan error, 1)
	go func() { quiesced <- c.Quiesce(ctx) }()
	awaitFile(t, "/var/lib/running")
	cancel()
	if err := <-quiesced; !errors.HasCode(err, errors.Canceled) {
		t.Errorf("error: %v", err)
	}
	must(t, c.Thaw(t.Context())) // comes after it
	log("quiesce 1 as 0 in / with /root\n" + after)
	running, err := strconv.Atoi(strings.TrimSpace(read(t, "/var/lib/running")))
	must(t, err)
	if err := syscall.Kill(running, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the hook runs on: %v", err)
	}
}

// Machines that share their host's kernel have hooks, too.
func TestHooksOfASharedKernel(t *testing.T) {
	if !inMachine(t) {
		return
	}
	r := newRig(t)
	hook(t, "quiesce.d", "10-only", "echo quiesced >&3")
	must(t, r.client().Quiesce(r.ctx))
	expect(t, "hooks", read(t, "/var/lib/log"), "quiesced\n")
}
