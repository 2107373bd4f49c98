package cgroup_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	aerrors "github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/cgroup"
	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// newGroup makes a group as a runtime would, with every controller in it, and
// one below it that processes are put into.
func newGroup(t *testing.T) (h *cgroup.Host, g cgroup.Group, dirs []string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("control groups need root")
	}
	h, err := cgroup.Detect()
	if err != nil {
		t.Skip(err)
	}
	parent := fmt.Sprintf("/aetherium-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	g = h.Group(parent + "/one")
	t.Cleanup(func() {
		ctx := context.Background()
		if err := errors.Join(g.Kill(ctx), h.Group(parent).Remove(ctx)); err != nil {
			t.Error(err)
		}
		if h.Group(parent).Exists() {
			t.Error("the group is still there")
		}
	})
	for range 2 {
		must(t, g.Make())
	}
	return h, g, g.Dirs()
}

// start runs a shell script in the group.
func start(t *testing.T, dirs []string, script string) *exec.Cmd {
	t.Helper()
	join := ""
	for _, d := range dirs {
		join += "echo $$ > " + d + "/cgroup.procs && "
	}
	cmd := exec.Command("sh", "-c", join+"echo ready && "+script)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	buf := make([]byte, len("ready\n"))
	if _, err := out.Read(buf); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestGroupOfAHost(t *testing.T) {
	t.Parallel()
	h, g, dirs := newGroup(t)
	ctx := t.Context()
	must(t, g.SetLimits(cgroup.Limits{MilliCPU: 300, Memory: 64 * mib, PIDs: 20}))
	must(t, g.SetLimits(cgroup.Limits{MilliCPU: 200, Memory: 32 * mib, PIDs: 10}))
	must(t, g.SetLimits(cgroup.Limits{Memory: 48 * mib}))
	cmd := start(t, dirs, "i=0; while :; do i=$((i+1)); done")

	names, err := h.Children(filepath.Dir(g.Path()))
	if err != nil || !slices.Equal(names, []string{"one"}) || !g.Exists() {
		t.Errorf("children %v, %v", names, err)
	}
	pids, err := g.Processes()
	if err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("processes %v, %v, want %d", pids, err, cmd.Process.Pid)
	}
	var s cgroup.Stat
	for s.CPU == 0 { // the test's limit ends it
		s, err = g.Stat()
		must(t, err)
	}
	if s.MemoryLimit != 48*mib || s.PIDs != 1 || s.OOMKills != 0 || s.Memory <= 0 || s.MemoryPeak != 0 && s.MemoryPeak < s.Memory/2 {
		t.Errorf("%+v", s)
	}

	for range 2 {
		must(t, g.Freeze(ctx))
	}
	if !g.Frozen() {
		t.Error("not frozen")
	}
	a, err := g.Stat()
	must(t, err)
	for range 100 {
		_, err = g.Stat()
		must(t, err)
	}
	b, err := g.Stat()
	must(t, err)
	if a.CPU != b.CPU {
		t.Errorf("a frozen group used CPU time: %v, then %v", a.CPU, b.CPU)
	}
	for range 2 {
		must(t, g.Thaw())
	}
	if g.Frozen() {
		t.Error("still frozen")
	}
	for c := b; c.CPU == b.CPU; {
		c, err = g.Stat()
		must(t, err)
	}

	must(t, g.Freeze(ctx))
	must(t, g.Kill(ctx)) // frozen or not
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Sys().(interface{ Signal() unix.Signal }).Signal() != unix.SIGKILL {
		t.Errorf("the process ended by %v", cmd.ProcessState)
	}
	must(t, g.Remove(ctx))
	must(t, g.Remove(ctx))
	must(t, g.Kill(ctx))
	must(t, g.Thaw())
	if g.Frozen() || g.Exists() {
		t.Error("a group that is gone is frozen, or exists")
	}
	for name, err := range map[string]error{
		"Freeze": g.Freeze(ctx), "SetLimits": g.SetLimits(cgroup.Limits{PIDs: 5}),
		"Stat": func() error { _, err := g.Stat(); return err }(),
	} {
		if !aerrors.HasCode(err, aerrors.NotFound) {
			t.Errorf("%s of a group that is gone: %v", name, err)
		}
	}
}

// A process that takes too much memory is killed and counted; the others live.
// A group that cannot be removed is named, with who is in it.
func TestAGroupInUse(t *testing.T) {
	t.Parallel()
	_, g, dirs := newGroup(t)
	cmd := start(t, dirs, "sleep 1000; true")
	err := g.Remove(t.Context())
	var e *aerrors.Error
	if !errors.As(err, &e) || !strings.Contains(e.Message, g.Path()) || !strings.Contains(e.Hint, fmt.Sprintf("%d sh", cmd.Process.Pid)) {
		t.Errorf("%v, %+v", err, e)
	}
}

func TestMemoryLimitOfAHost(t *testing.T) {
	t.Parallel()
	_, g, dirs := newGroup(t)
	must(t, g.SetLimits(cgroup.Limits{Memory: 16 * mib}))
	cmd := start(t, dirs, "dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null; exit 3")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("the shell ended by %v, %v", cmd.ProcessState, err)
	}
	s, err := g.Stat()
	must(t, err)
	kills, err := g.OOMKills()
	must(t, err)
	if s.OOMKills != 1 || kills != 1 {
		t.Errorf("%d and %d kills, want 1", s.OOMKills, kills)
	}
}

// A full group has no room for another process.
func TestProcessLimitOfAHost(t *testing.T) {
	t.Parallel()
	_, g, dirs := newGroup(t)
	must(t, g.SetLimits(cgroup.Limits{PIDs: 5}))
	script := "trap 'exit 4' EXIT; for i in 1 2 3 4 5 6 7 8; do sleep 100 & done 2>/dev/null; exit 0"
	cmd := start(t, dirs, script)
	_ = cmd.Wait()
	s, err := g.Stat()
	must(t, err)
	if s.PIDs < 1 || s.PIDs > 5 {
		t.Errorf("%d processes of 5", s.PIDs)
	}
}

// A busy group gets what its quota says, in the kernel's own account.
func TestCPULimitOfAHost(t *testing.T) {
	t.Parallel()
	h, g, dirs := newGroup(t)
	must(t, g.SetLimits(cgroup.Limits{MilliCPU: 100}))
	start(t, dirs, "i=0; while :; do i=$((i+1)); done")
	file := ""
	for _, d := range dirs {
		if h.Unified() || strings.Contains(d, "/cpu/") || strings.Contains(d, "/cpu,") {
			file = d + "/cpu.stat"
			break
		}
	}
	for { // the test's limit ends it
		raw, err := os.ReadFile(file)
		must(t, err)
		_, after, _ := strings.Cut(string(raw), "nr_throttled ")
		line, _, _ := strings.Cut(after, "\n")
		if n, err := strconv.Atoi(line); err != nil || n > 0 {
			must(t, err)
			return
		}
	}
}
