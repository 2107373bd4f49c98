package oci_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/executable"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/oci"
	"golang.org/x/sys/unix"
)

func TestLife(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	for range 2 { // everything twice: "already so" is success
		_, err := l.Create(ctx, spec("one"))
		must(t, err)
	}
	if got := l.status("one"); got != vmm.StatusCreated {
		t.Errorf("status %q after Create", got)
	}
	if _, err := l.Dial(ctx, "one", vmm.AgentPort); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("Dial before Start: %v", err)
	}
	for range 2 {
		must(t, l.Start(ctx, "one"))
	}
	if got := l.status("one"); got != vmm.StatusRunning {
		t.Errorf("status %q after Start", got)
	}
	l.sh("one", "echo kept > /root/kept; echo changed > /var/lib/dir/file; rm /etc/group")
	for range 2 {
		must(t, l.Stop(ctx, "one", 5*time.Second))
	}
	exit, err := l.Wait(ctx, "one")
	must(t, err)
	if exit.OOM || exit.Known && exit.Code != 7 {
		t.Errorf("the agent ends with 7 when asked to: %+v", exit)
	}
	if got := l.status("one"); got != vmm.StatusCreated {
		t.Errorf("status %q after Stop", got)
	}
	must(t, l.Start(ctx, "one"))
	if got := l.sh("one", "cat /root/kept /var/lib/dir/file; test -e /etc/group || echo gone"); got != "kept\nchanged\ngone" {
		t.Errorf("the disk after a restart: %q", got)
	}
	if got, err := os.ReadFile(shared.template + "/var/lib/dir/file"); err != nil || string(got) != "template\n" {
		t.Errorf("the template changed: %q, %v", got, err)
	}
	for range 2 {
		must(t, l.Delete(ctx, "one"))
	}
	if got := l.status("one"); got != "absent" {
		t.Errorf("status %q after Delete", got)
	}
	for name, err := range map[string]error{
		"Start": l.Start(ctx, "one"),
		"Wait":  func() error { _, err := l.Wait(ctx, "one"); return err }(),
		"Dial":  func() error { _, err := l.Dial(ctx, "one", 80); return err }(),
		"Pause": l.Pause(ctx, "one", domain.PauseFreeze),
	} {
		if !errors.HasCode(err, errors.NotFound) {
			t.Errorf("%s of a deleted machine: %v", name, err)
		}
	}
	if err := l.Stop(ctx, "one", 0); err != nil {
		t.Errorf("Stop of a deleted machine: %v", err)
	}
}

func TestStopKillsWhatDoesNotListen(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.boot(spec("one"))
	must(t, l.Stop(t.Context(), "one", 0))
	exit, err := l.Wait(t.Context(), "one")
	must(t, err)
	if exit.OOM || exit.Known && exit.Signal != int(unix.SIGKILL) {
		t.Errorf("exit %+v, want killed", exit)
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.boot(spec("one"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Wait(ctx, "one"); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait of a running machine: %v", err)
	}
	_, _ = l.post("one", "/exit?code=5", "")
	exit, err := l.Wait(t.Context(), "one")
	must(t, err)
	if exit.OOM || exit.Known && (exit.Code != 5 || exit.Signal != 0) {
		t.Errorf("exit %+v, want code 5", exit)
	}
	if got := l.status("one"); got != vmm.StatusCreated {
		t.Errorf("status %q after its end", got)
	}
	must(t, l.Start(t.Context(), "one"))
	if got := l.sh("one", "echo up"); got != "up" {
		t.Errorf("after an exit and a start: %q", got)
	}
}

func TestRecover(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, id := range []string{"runs", "paused", "exits", "stopped"} {
		l.boot(spec(id))
	}
	must(t, l.Pause(t.Context(), "paused", domain.PauseFreeze))
	must(t, l.Stop(t.Context(), "stopped", time.Second))
	before := l.sh("runs", "echo mark > /root/mark; echo $$")
	l.reopen()
	for id, want := range map[string]vmm.Status{
		"runs": vmm.StatusRunning, "paused": vmm.StatusPaused, "exits": vmm.StatusRunning, "stopped": vmm.StatusCreated,
	} {
		if got := l.status(id); got != want {
			t.Errorf("%s: status %q, want %q", id, got, want)
		}
	}
	if after := l.sh("runs", "cat /root/mark; echo $$"); !strings.HasPrefix(after, "mark\n") || after == before {
		t.Errorf("the machine after a restart of the driver: %q", after)
	}
	must(t, l.Resume(t.Context(), "paused"))
	if got := l.sh("paused", "echo on"); got != "on" {
		t.Errorf("resumed: %q", got)
	}
	waited := make(chan vmm.Exit, 1)
	go func() {
		exit, err := l.Wait(context.Background(), "exits")
		if err != nil {
			t.Error(err)
		}
		waited <- exit
	}()
	_, _ = l.post("exits", "/exit?code=9", "")
	if exit := <-waited; exit.Known && exit.Code != 9 {
		t.Errorf("exit of a machine from before: %+v", exit)
	}
	must(t, l.Stop(t.Context(), "runs", time.Second))
	must(t, l.Start(t.Context(), "stopped"))
}

func TestPause(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.boot(spec("one"))
	ctx := t.Context()
	if err := l.Pause(ctx, "one", domain.PauseMemory); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("pause in mode memory: %v", err)
	}
	l.sh("one", "(i=0; while :; do i=$((i+1)); echo $i > /root/count; done) >/dev/null 2>&1 &")
	for range 2 {
		must(t, l.Pause(ctx, "one", domain.PauseFreeze))
	}
	if got := l.status("one"); got != vmm.StatusPaused {
		t.Errorf("status %q", got)
	}
	if _, err := l.Dial(ctx, "one", vmm.AgentPort); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("Dial of a paused machine: %v", err)
	}
	a, err := l.Usage(ctx, "one")
	must(t, err)
	for range 1000 {
		_, err = l.Usage(ctx, "one") // some work meanwhile
		must(t, err)
	}
	b, err := l.Usage(ctx, "one")
	must(t, err)
	if a.CPUTime != b.CPUTime {
		t.Errorf("a paused machine used CPU: %v then %v", a.CPUTime, b.CPUTime)
	}
	for range 2 {
		must(t, l.Resume(ctx, "one"))
	}
	if got := l.sh("one", "echo on"); got != "on" {
		t.Errorf("resumed: %q", got)
	}
	must(t, l.Pause(ctx, "one", domain.PauseFreeze))
	must(t, l.Stop(ctx, "one", 5*time.Second)) // thaws, asks, ends
	if exit, err := l.Wait(ctx, "one"); err != nil || exit.Known && exit.Code != 7 {
		t.Errorf("a paused machine was not asked to end: %+v, %v", exit, err)
	}
	must(t, l.Start(ctx, "one"))
	must(t, l.Pause(ctx, "one", domain.PauseFreeze))
	must(t, l.Delete(ctx, "one"))
}

// A driver that died while it took a snapshot left the machine frozen.
func TestForgottenFreeze(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.boot(spec("one"))
	must(t, l.Pause(t.Context(), "one", domain.PauseFreeze))
	// What a snapshot does: frozen, and no record of a pause.
	run := l.dir + "/run/p/one"
	raw, err := os.ReadFile(run)
	must(t, err)
	must(t, os.WriteFile(run, []byte(strings.Replace(string(raw), `,"paused":true`, "", 1)), 0o600))
	l.reopen()
	if got := l.sh("one", "echo on"); got != "on" {
		t.Errorf("still frozen: %q", got)
	}
}

func TestDeleteInterruptsStart(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for range 5 {
		_, err := l.Create(t.Context(), spec("one"))
		must(t, err)
		started := make(chan error, 1)
		go func() { started <- l.Start(context.Background(), "one") }()
		must(t, l.Delete(t.Context(), "one"))
		<-started                             // whatever it says
		must(t, l.Delete(t.Context(), "one")) // should Start have come after
		if got := l.status("one"); got != "absent" {
			t.Fatalf("status %q after Delete during Start", got)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for name, change := range map[string]func(*vmm.Spec){
		"machine ID":   func(s *vmm.Spec) { s.MachineID = "../x" },
		"build ID":     func(s *vmm.Spec) { s.BuildID = "" },
		"snapshot":     func(s *vmm.Spec) { s.DiskFrom = "a/b" },
		"root":         func(s *vmm.Spec) { s.RootFS = "rootfs" },
		"hostname":     func(s *vmm.Spec) { s.Hostname = "a b" },
		"no memory":    func(s *vmm.Spec) { s.Resources.MemoryBytes = 0 },
		"network":      func(s *vmm.Spec) { s.Network = "host" },
		"mount source": func(s *vmm.Spec) { s.Mounts = []vmm.HostMount{{Source: "x", Target: "/mnt"}} },
		"mount target": func(s *vmm.Spec) { s.Mounts = []vmm.HostMount{{Source: "/tmp", Target: "/mnt/../proc/x"}} },
	} {
		s := spec("bad")
		change(&s)
		if _, err := l.Create(t.Context(), s); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := spec("bad")
	s.Platform = "linux/s390x"
	if _, err := l.Create(t.Context(), s); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("another platform: %v", err)
	}
	s = spec("nodisk")
	s.DiskFrom = "nothere"
	if _, err := l.Create(t.Context(), s); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("a snapshot that is not there: %v", err)
	}
	if got := l.status("nodisk"); got != vmm.StatusBroken {
		t.Errorf("half made: status %q", got)
	}
	if err := l.Start(t.Context(), "nodisk"); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("Start of a half-made machine: %v", err)
	}
	must(t, l.Delete(t.Context(), "nodisk"))
	if err := l.Delete(t.Context(), "../../etc"); err != nil {
		t.Errorf("Delete of what cannot be: %v", err)
	}
}

func TestStartFailureLeavesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *oci.Config) { c.AgentPath = "/etc/passwd" }) // no program
	_, err := l.Create(t.Context(), spec("one"))
	must(t, err)
	if err := l.Start(t.Context(), "one"); err == nil {
		// A runtime learns that late whether the kernel takes the program.
		if exit, err := l.Wait(t.Context(), "one"); err != nil || exit.Known && exit.Code == 0 {
			t.Fatalf("without an agent it ended with %+v, %v", exit, err)
		}
	}
	if got := l.status("one"); got != vmm.StatusCreated {
		t.Errorf("status %q", got)
	}
	if info := l.Info(t.Context()); info.Usable || info.Reason == "" {
		t.Errorf("Info: %+v", info)
	}
}

func TestInfo(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for range 2 {
		info := l.Info(t.Context())
		if !info.Usable || info.Name != "oci" || info.Isolation != domain.IsolationContainer || !strings.Contains(info.Version, ociRuntime()) {
			t.Errorf("%+v", info)
		}
	}
	if states, err := l.List(t.Context()); err != nil || len(states) != 0 {
		t.Errorf("the trial left %v, %v", states, err)
	}
}

// Where crun is installed and cannot start a machine, runc does.
func TestAutoTriesTheRuntime(t *testing.T) {
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("runc is not installed")
	}
	auto := func(c *oci.Config) { c.Runtime = oci.RuntimeAuto }
	l := newLab(t, auto)
	if info := l.Info(t.Context()); !info.Usable || !strings.HasPrefix(info.Version, "crun") {
		t.Errorf("with a crun that works: %+v", info)
	}
	l.boot(spec("one"))

	bin := t.TempDir()
	const broken = "#!/bin/sh\n[ \"$1\" = --version ] && echo crun version 0 || exit 1\n"
	must(t, executable.Install(strings.NewReader(broken), bin+"/crun", time.Time{}))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	l.reopen()
	if info := l.Info(t.Context()); !info.Usable || !strings.HasPrefix(info.Version, "runc") {
		t.Errorf("with a crun that does not: %+v", info)
	}
	if got := l.status("one"); got != vmm.StatusRunning {
		t.Errorf("a machine that crun started is %s", got)
	}
	must(t, l.Stop(t.Context(), "one", 0))
	must(t, l.Start(t.Context(), "one"))
	must(t, l.Delete(t.Context(), "one"))
}
