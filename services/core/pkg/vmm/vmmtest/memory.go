package vmmtest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

var memoryTests = []behaviour{
	{"a paused machine is gone from the host and goes on as it was", can("pause:memory"), testSleep},
	{"output that was on its way when it was paused", can("pause:memory"), testSleepMidway},
	{"a paused machine that is waited for", can("pause:memory"), testSleepWait},
	{"a paused machine outlives its driver", can("pause:memory"), testSleepReopen},
	{"a resume that is broken off loses nothing", can("pause:memory"), testResumeBrokenOff},
	{"a paused machine can be deleted", can("pause:memory"), testDeleteAsleep},
	{"a paused machine can be stopped", can("pause:memory"), testStopAsleep},
	{"delete while it is paused", can("pause:memory"), testDeleteWhilePausing},
	{"delete while its memory is kept", can("snapshot:memory"), testDeleteWhileKeeping},
	{"a paused machine's disk can be kept", canBoth("pause:memory", "snapshot:disk"), testSnapshotAsleep},
	{"a machine whose memory is kept goes on", can("snapshot:memory"), testKeepMemory},
	{"kept memory is a disk, too", can("snapshot:memory"), testMemoryAsDisk},
	{"the memory of a machine that does not run", can("snapshot:memory"), testMemoryOfStopped},
	{"a paused machine goes on where it is only known by what was packed of it", can("carry:memory"), testCarryMemory},
}

func canBoth(one, other string) func(Config, []string) bool {
	return func(c Config, has []string) bool { return can(one)(c, has) && can(other)(c, has) }
}

// sleep pauses a machine in mode memory, twice, after letting go of it as a worker does.
func (b *bed) sleep(t *testing.T, x *box) {
	t.Helper()
	x.detach()
	for range 2 {
		if err := b.pauser(t).Pause(timeout(t), x.id, domain.PauseMemory); err != nil {
			t.Fatalf("pausing: %v", err)
		}
	}
}

// wake resumes it, twice, and takes up what runs.
func (b *bed) wake(t *testing.T, x *box, known ...domain.ID) *box {
	t.Helper()
	b.resume(t, x.id)
	return b.attach(t, x.id, x.dir, known...)
}

// resume has a machine go on, twice.
func (b *bed) resume(t *testing.T, id string) {
	t.Helper()
	for range 2 {
		if err := b.pauser(t).Resume(timeout(t), id); err != nil {
			t.Fatalf("resuming: %v", err)
		}
	}
	if got := b.status(t, id); got != vmm.StatusRunning {
		t.Errorf("resumed: %s", got)
	}
}

// brokenOff resumes a machine for callers who go away sooner or later, until it
// runs: no such try may take from it what is in its memory.
func (b *bed) brokenOff(t *testing.T, id string) {
	t.Helper()
	for _, after := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(timeout(t), after)
		err := b.pauser(t).Resume(ctx, id)
		cancel()
		got := b.status(t, id)
		if got != vmm.StatusRunning && (err == nil || got != vmm.StatusPaused) {
			t.Fatalf("resumed for one who went away after %s: %s, %v", after, got, err)
		}
		if err == nil {
			return
		}
	}
}

func testResumeBrokenOff(t *testing.T, b *bed) {
	x, m := b.machine(t), newModel()
	h := x.hold(t)
	m.write(t, h, "before", 1, 3)
	b.sleep(t, x)
	b.brokenOff(t, x.id)
	x = b.wake(t, x, h.id)
	h = h.in(t, x, h.id)
	m.check(t, "resumed", h)
	h.leave(t, 7)
}

func testSleep(t *testing.T, b *bed) {
	x, m := b.machine(t), newModel()
	h := x.hold(t)
	m.write(t, h, "before", 1, 3)
	h.ask(t, "steady")
	ticks := x.start(t, shell("i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.02; done"))
	x.follow(t, ticks).until("tick 5\n")
	timer := x.start(t, shell("sleep 2; echo over"))
	pid := b.pid(t, x.id)
	b.sleep(t, x)
	b.checkAsleep(t, x.id, pid)
	x = b.wake(t, x, h.id, ticks, timer)
	h = h.in(t, x, h.id)
	m.check(t, "resumed", h)
	if got := h.ask(t, "files"); got != "still here, on a tmpfs" {
		t.Errorf("its open files: %q", got)
	}
	if got := h.ask(t, "steady"); got != "on" {
		t.Errorf("its monotonic clock went %s", got)
	}
	m.write(t, h, "after", 2, 5)
	m.check(t, "resumed and written to", h)
	h.leave(t, 7)
	if got := x.follow(t, timer).rest(); got.stdout != "over\n" || got.end != (domain.ExecutionEnd{}) {
		t.Errorf("the timer: %+v", got)
	}
	f := x.follow(t, ticks)
	f.until("tick 20\n")
	checkTicks(t, f.text.String())
	if err := x.session.Signal(timeout(t), ticks, 9); err != nil {
		t.Error(err)
	}
	if got := f.rest(); got.end.Signal != 9 {
		t.Errorf("%+v", got.end)
	}
}

// checkTicks compares whole lines "tick N", from 0 on.
func checkTicks(t *testing.T, text string) {
	t.Helper()
	lines := strings.Split(text, "\n")
	for i, line := range lines[:len(lines)-1] {
		if line != fmt.Sprintf("tick %d", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
}

// checkAsleep looks whether a paused machine is gone from the host. pid was its process.
func (b *bed) checkAsleep(t *testing.T, id string, pid int) {
	t.Helper()
	states, err := b.Driver.List(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(states, func(s vmm.State) bool { return s.MachineID == id })
	if at < 0 || states[at].Status != vmm.StatusPaused || states[at].PID != 0 {
		t.Errorf("it is %+v", states)
	}
	if err := syscall.Kill(pid, 0); pid != os.Getpid() && !errors.Is(err, syscall.ESRCH) {
		t.Errorf("its process %d is still there: %v", pid, err)
	}
	if _, err := b.Driver.Dial(timeout(t), id, vmm.AgentPort); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("dial: %v, want conflict", err)
	}
	if m, ok := b.Driver.(vmm.Meter); ok {
		if u, err := m.Usage(timeout(t), id); !errors.HasCode(err, errors.Conflict) {
			t.Errorf("it uses %+v, %v; want conflict", u, err)
		}
	}
}

func testSleepMidway(t *testing.T, b *bed) {
	x := b.machine(t)
	const last = 20_000
	id := x.start(t, shell(fmt.Sprintf("i=0; while [ $i -le %d ]; do echo tick $i; i=$((i+1)); done; exit 3", last)))
	x.follow(t, id).until("tick 100\n")
	for range 2 {
		b.sleep(t, x)
		x = b.wake(t, x, id)
	}
	got := x.follow(t, id).rest()
	checkTicks(t, got.stdout)
	if n := strings.Count(got.stdout, "\n"); n != last+1 || got.end.ExitCode != 3 {
		t.Errorf("%d lines, %+v", n, got.end)
	}
}

func testSleepWait(t *testing.T, b *bed) {
	x := b.machine(t)
	ended := make(chan error, 1)
	go func(ctx context.Context, id string) {
		_, err := b.Driver.Wait(ctx, id)
		ended <- err
	}(timeout(t), x.id)
	b.sleep(t, x)
	x = b.wake(t, x)
	x.sh(t, "true")
	select {
	case err := <-ended:
		t.Fatalf("it is said to have ended: %v", err)
	default:
	}
	x.detach()
	if err := b.Driver.Stop(timeout(t), x.id, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func testSleepReopen(t *testing.T, b *bed) {
	x, m := b.machine(t), newModel()
	h := x.hold(t)
	m.write(t, h, "kept", 1, 7)
	b.sleep(t, x)
	b.Driver = b.Reopen(t)
	if got := b.status(t, x.id); got != vmm.StatusPaused {
		t.Errorf("after the restart: %s", got)
	}
	x = b.wake(t, x, h.id)
	// And once more with a machine that has been restored, which runs on.
	b.Driver = b.Reopen(t)
	x.detach()
	x = b.attach(t, x.id, x.dir, h.id)
	h = h.in(t, x, h.id)
	m.check(t, "resumed", h)
	b.sleep(t, x)
	x = b.wake(t, x, h.id)
	h = h.in(t, x, h.id)
	m.write(t, h, "again", 0, 11)
	m.check(t, "resumed twice", h)
	h.leave(t, 0)
}

func testDeleteAsleep(t *testing.T, b *bed) {
	x := b.machine(t)
	b.sleep(t, x)
	if err := b.Driver.Delete(timeout(t), x.id); err != nil {
		t.Error(err)
	}
}

func testStopAsleep(t *testing.T, b *bed) {
	x := b.machine(t)
	x.sh(t, "echo kept > file; sync")
	id := x.start(t, shell("echo up; exec sleep 1000"))
	x.follow(t, id).until("up")
	b.sleep(t, x)
	for range 2 {
		if err := b.Driver.Stop(timeout(t), x.id, time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.status(t, x.id); got != vmm.StatusCreated {
		t.Errorf("stopped: %s", got)
	}
	// It is started from its disk: nothing of its memory comes back.
	b.start(t, x.id)
	x = b.greet(t, x.id, t.TempDir())
	if left, err := x.client.Remembered(timeout(t)); err != nil || len(left) > 0 {
		t.Errorf("it runs %+v, %v", left, err)
	}
	x.open(t)
	if got := x.sh(t, "cat file"); got != "kept" {
		t.Errorf("its disk has %q", got)
	}
}

// deleteDuring deletes machines at different moments of something else.
func (b *bed) deleteDuring(t *testing.T, what func(machine string) error) {
	t.Helper()
	for i := range 3 {
		x := b.machine(t)
		x.hold(t)
		x.detach()
		begun, done := make(chan struct{}), make(chan error, 1)
		go func() {
			close(begun)
			done <- what(x.id)
		}()
		<-begun
		time.Sleep(time.Duration(i*i) * 20 * time.Millisecond) // somewhere in it
		if err := b.Driver.Delete(timeout(t), x.id); err != nil {
			t.Errorf("delete: %v", err)
		}
		if err := <-done; err != nil { // as good as none
			t.Logf("it ended with %v", err)
		}
		if err := b.Driver.Delete(timeout(t), x.id); err != nil {
			t.Errorf("delete afterwards: %v", err)
		}
		if got := b.status(t, x.id); got != "" {
			t.Errorf("it is still there, %s", got)
		}
	}
}

func testDeleteWhilePausing(t *testing.T, b *bed) {
	b.deleteDuring(t, func(id string) error { return b.pauser(t).Pause(timeout(t), id, domain.PauseMemory) })
}

func testDeleteWhileKeeping(t *testing.T, b *bed) {
	s := b.snapshotter(t)
	b.deleteDuring(t, func(id string) error {
		snap := string(domain.NewID())
		_, err := s.Snapshot(timeout(t), id, snap, domain.SnapshotMemory)
		if derr := s.DeleteSnapshot(timeout(t), snap); derr != nil {
			t.Errorf("deleting the snapshot: %v", derr)
		}
		if ids, lerr := s.ListSnapshots(timeout(t)); lerr != nil || slices.Contains(ids, snap) {
			t.Errorf("the snapshot is left: %v, %v", ids, lerr)
		}
		return err
	})
}

func testSnapshotAsleep(t *testing.T, b *bed) {
	x := b.machine(t)
	x.sh(t, "echo kept > file; sync")
	b.sleep(t, x)
	snap := b.snapshot(t, x.id)
	if got := b.status(t, x.id); got != vmm.StatusPaused {
		t.Errorf("after the snapshot: %s", got)
	}
	if got := b.machine(t, from(snap)).sh(t, "cat file"); got != "kept" {
		t.Errorf("%q", got)
	}
	if got := b.wake(t, x).sh(t, "cat file"); got != "kept" {
		t.Errorf("resumed: %q", got)
	}
}

func testKeepMemory(t *testing.T, b *bed) {
	x, m := b.machine(t), newModel()
	h := x.hold(t)
	m.write(t, h, "before", 0, 4)
	ticks := x.start(t, shell("i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.02; done"))
	f := x.follow(t, ticks)
	f.until("tick 5\n")
	for range 2 {
		snap := b.snapshotOf(t, x.id, domain.SnapshotMemory)
		if ids, err := b.snapshotter(t).ListSnapshots(timeout(t)); err != nil || !slices.Contains(ids, snap) {
			t.Errorf("the list: %v, %v", ids, err)
		}
		if got := b.status(t, x.id); got != vmm.StatusRunning {
			t.Errorf("after the snapshot: %s", got)
		}
		m.check(t, "after the snapshot", h)
		m.write(t, h, "later", 1, 4)
		m.check(t, "written to after the snapshot", h)
	}
	f.until("tick 20\n")
	checkTicks(t, f.text.String())
	if err := x.session.Signal(timeout(t), ticks, 9); err != nil {
		t.Error(err)
	}
	h.leave(t, 0)
}

func testMemoryAsDisk(t *testing.T, b *bed) {
	x := b.machine(t)
	id := x.start(t, shell("echo kept > file; sync; echo up; exec sleep 1000"))
	x.follow(t, id).until("up")
	snap := b.snapshotOf(t, x.id, domain.SnapshotMemory)
	s := b.spec()
	s.DiskFrom = snap
	b.create(t, s)
	b.start(t, s.MachineID)
	cold := b.greet(t, s.MachineID, t.TempDir())
	if left, err := cold.client.Remembered(timeout(t)); err != nil || len(left) > 0 {
		t.Errorf("it runs %+v, %v", left, err)
	}
	cold.open(t)
	if got := cold.sh(t, "cat file"); got != "kept" {
		t.Errorf("%q", got)
	}
}

func testMemoryOfStopped(t *testing.T, b *bed) {
	s := b.spec()
	b.create(t, s)
	_, err := b.snapshotter(t).Snapshot(timeout(t), s.MachineID, string(domain.NewID()), domain.SnapshotMemory)
	if !errors.HasCode(err, errors.Conflict) {
		t.Errorf("%v, want conflict", err)
	}
}
