package worker_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// newMemoryBed is a bed whose driver keeps memory.
func newMemoryBed(t *testing.T, options ...func(*worker.Config)) *bed {
	t.Helper()
	b := newBed(t, options...)
	b.node.KeepMemory()
	b.down()
	b.up() // the worker asks its drivers what they can when it starts
	return b
}

// talker says that it is ready, and then what it is told.
var talker = domain.Command{
	Args: []string{"sh", "-c", `echo "ready $TALKER"; cat; exit 7`}, Stdin: true, Env: map[string]string{"TALKER": "one"},
}

const greeting = "ready one\n"

// talk starts a talker and waits until it is ready.
func (b *bed) talk(vm domain.ID) domain.ID {
	b.t.Helper()
	x, err := b.StartExecution(b.ctx, b.by, vm, vmm.StartExecution{Command: talker})
	must(b.t, err)
	b.said(x.ID, greeting)
	return x.ID
}

// said waits until an execution's output is text.
func (b *bed) said(x domain.ID, text string) {
	b.t.Helper()
	r, err := b.Output(b.ctx, b.by, x, 0, true)
	must(b.t, err)
	defer func() { _ = r.Close() }()
	for got := ""; got != text; {
		ev, err := r.Next(b.ctx)
		must(b.t, err)
		if got += string(ev.Data); len(got) > len(text) || ev.End != nil {
			b.t.Fatalf("it said %q, want %q", got, text)
		}
	}
}

// endTalk tells a talker something and checks that it ends as it must.
func (b *bed) endTalk(x domain.ID, text, want string) {
	b.t.Helper()
	must(b.t, b.WriteStdin(b.ctx, b.by, x, -1, []byte(text)))
	must(b.t, b.CloseStdin(b.ctx, b.by, x))
	if out := b.output(x); out != want {
		b.t.Errorf("it said %q, want %q", out, want)
	}
	if row := b.ended(x); row.ExitCode == nil || *row.ExitCode != 7 {
		b.t.Errorf("it ended with %+v", row)
	}
}

// pause pauses a VM and waits until it is.
func (b *bed) pause(vm domain.ID, mode domain.PauseMode) *domain.VM {
	b.t.Helper()
	_, err := b.PauseVM(b.ctx, b.by, vm, mode)
	must(b.t, err)
	paused, err := b.WaitVM(b.ctx, b.by, vm)
	must(b.t, err)
	if paused.Observed != domain.Paused {
		b.t.Fatalf("it is %s: %s", paused.Observed, paused.Reason)
	}
	return paused
}

func (b *bed) resume(vm domain.ID) *domain.VM {
	b.t.Helper()
	_, err := b.ResumeVM(b.ctx, b.by, vm)
	must(b.t, err)
	resumed, err := b.WaitVM(b.ctx, b.by, vm)
	must(b.t, err)
	return resumed
}

// await waits until a VM is as it should be.
func (b *bed) await(vm domain.ID, is func(*domain.VM) bool) *domain.VM {
	b.t.Helper()
	sub := b.changes.Subscribe(vm)
	defer sub.Done()
	for {
		changed := sub.Changed()
		row, err := b.GetVM(b.ctx, b.by, vm)
		must(b.t, err)
		if is(row) {
			return row
		}
		select {
		case <-changed:
		case <-b.ctx.Done():
			b.t.Fatalf("it is %s, wanted %s: %s", row.Observed, row.Desired, row.Reason)
		}
	}
}

func (b *bed) reserved() domain.Resources {
	b.t.Helper()
	w := &domain.Worker{ID: b.worker.ID()}
	must(b.t, b.store.View(b.ctx, func(tx storage.Tx) error { _, err := tx.Workers().Count(b.ctx, w); return err }))
	return w.Reserved
}

func (b *bed) executions(vm domain.ID) []*domain.Execution {
	b.t.Helper()
	list, err := b.ListExecutions(b.ctx, b.by, vm, vmm.Page{})
	must(b.t, err)
	return list.Items
}

// snapshots are those that the driver has.
func (b *bed) snapshots() []string {
	b.t.Helper()
	ids, err := b.node.Snapshots()
	must(b.t, err)
	return ids
}

// stepped waits until the step that made a VM what it is has come to its end.
func (b *bed) stepped(vm domain.ID) {
	b.t.Helper()
	var none time.Duration
	_, err := b.PatchVM(b.ctx, b.by, vm, vmm.PatchVM{Timeout: &none})
	must(b.t, err)
	b.await(vm, func(vm *domain.VM) bool { return vm.DeadlineAck == vm.DeadlineGen })
}

func yes() *bool { v := true; return &v }
func no() *bool  { v := false; return &v }

// A VM that is paused with its memory saved holds none, and goes on where it
// was: its executions, their streams, their ends, in the same epoch; also after
// the worker was away meanwhile.
func TestPausedWithItsMemorySaved(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	vm := b.running(vmm.CreateVM{})
	x := b.talk(vm.ID)
	must(t, b.WriteStdin(b.ctx, b.by, x, 0, []byte("before ")))
	b.said(x, greeting+"before ")
	waited := make(chan *domain.Execution, 1)
	go func() {
		if row, err := b.WaitExecution(b.ctx, b.by, x); err == nil {
			waited <- row
		}
	}()
	if paused := b.pause(vm.ID, ""); paused.PauseMode != domain.PauseMemory {
		t.Errorf("it is paused by %s", paused.PauseMode)
	}
	if r := b.reserved(); r.MemoryBytes != 0 || r.MilliCPU != 0 || r.DiskBytes == 0 {
		t.Errorf("it holds %+v", r)
	}
	if err := b.WriteStdin(b.ctx, b.by, x, -1, []byte("no")); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("input while it is paused: %v", err)
	}
	if _, err := b.VMUsage(b.ctx, b.by, vm.ID); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("its usage: %v", err)
	}
	resumed := b.resume(vm.ID)
	if resumed.Observed != domain.Running || resumed.Epoch != vm.Epoch || !resumed.StartedAt.Equal(*vm.StartedAt) {
		t.Errorf("%+v", resumed)
	}
	if r := b.reserved(); r.MemoryBytes == 0 {
		t.Errorf("it holds %+v", r)
	}
	must(t, b.WriteStdin(b.ctx, b.by, x, -1, []byte("between ")))
	b.said(x, greeting+"before between ")
	b.pause(vm.ID, domain.PauseMemory)
	select {
	case row := <-waited:
		t.Errorf("its end was told: %+v", row)
	default:
	}
	b.down() // which ends those who wait
	b.up()
	b.resume(vm.ID)
	b.endTalk(x, "after", greeting+"before between after")
	if list := b.executions(vm.ID); len(list) != 1 || list[0].Epoch != vm.Epoch {
		t.Errorf("%+v", list)
	}
}

// The death of the worker at any moment of a pause or its end loses nothing.
func TestPauseThatACrashInterrupts(t *testing.T) {
	t.Parallel()
	for name, op := range map[string]fake.Op{"pausing": fake.OpPause, "resuming": fake.OpResume} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newMemoryBed(t)
			vm := b.running(vmm.CreateVM{})
			x := b.talk(vm.ID)
			reached, release := b.node.StopNext(op)
			_, err := b.PauseVM(b.ctx, b.by, vm.ID, domain.PauseMemory)
			must(t, err)
			if op == fake.OpResume {
				_, err = b.WaitVM(b.ctx, b.by, vm.ID)
				must(t, err)
				_, err = b.ResumeVM(b.ctx, b.by, vm.ID)
				must(t, err)
			}
			<-reached
			if op == fake.OpPause {
				release() // the driver's process goes on to the end, or not at all
			} else {
				defer release()
			}
			b.crash()
			b.up()
			_, err = b.WaitVM(b.ctx, b.by, vm.ID)
			must(t, err)
			if op == fake.OpPause {
				b.resume(vm.ID)
			}
			b.endTalk(x, "after", greeting+"after")
		})
	}
}

func TestTrafficWakesASavedVM(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	vm := b.running(vmm.CreateVM{AutoResume: true})
	x := b.talk(vm.ID)
	b.pause(vm.ID, "")
	if out, _ := b.sh(vm.ID, "echo awake"); out != "awake\n" {
		t.Errorf("%q", out)
	}
	b.pause(vm.ID, "")
	b.endTalk(x, "awake", greeting+"awake")
}

func TestNoRoomToGoOn(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	most := vmm.CreateVM{Resources: domain.Resources{MemoryBytes: 5 << 30}}
	first := b.running(most)
	x := b.talk(first.ID)
	b.pause(first.ID, "")
	second := b.running(most)
	if _, err := b.ResumeVM(b.ctx, b.by, first.ID); !errors.HasCode(err, errors.CapacityExhausted) {
		t.Errorf("resuming without room: %v", err)
	}
	b.pause(second.ID, "")
	b.resume(first.ID)
	b.endTalk(x, "on", greeting+"on")
}

func TestDeadlinePausesByWhatKeepsMost(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	soon := 200 * time.Millisecond
	vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Timeout: &soon, OnTimeout: domain.TimeoutPause})
	must(t, err)
	paused := b.await(vm.ID, func(vm *domain.VM) bool { return vm.Observed == domain.Paused })
	if paused.PauseMode != domain.PauseMemory {
		t.Errorf("it is paused by %s", paused.PauseMode)
	}
}

// A pause that fails leaves a VM that runs, and one that cannot go on stays paused.
func TestPauseThatFails(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	vm := b.running(vmm.CreateVM{})
	x := b.talk(vm.ID)
	b.node.FailNext(fake.OpPause, errors.New(errors.NoSpace, "the disk is full"))
	_, err := b.PauseVM(b.ctx, b.by, vm.ID, domain.PauseMemory)
	must(t, err)
	running, err := b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	if running.Observed != domain.Running || running.Desired != domain.WantRunning {
		t.Errorf("%s, wanted %s", running.Observed, running.Desired)
	}
	b.pause(vm.ID, domain.PauseMemory)
	b.node.FailNext(fake.OpResume, errors.New(errors.Unsupported, "saved by another version"))
	paused := b.resume(vm.ID)
	if paused.Observed != domain.Paused || paused.Reason == "" {
		t.Errorf("%s: %q", paused.Observed, paused.Reason)
	}
	if r := b.resume(vm.ID); r.Observed != domain.Running || r.Reason != "" {
		t.Errorf("%s: %q", r.Observed, r.Reason)
	}
	b.endTalk(x, "on", greeting+"on")
}

func TestStopAndDeleteASavedVM(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	vm := b.running(vmm.CreateVM{})
	b.sh(vm.ID, "echo kept > f")
	x := b.talk(vm.ID)
	b.pause(vm.ID, domain.PauseMemory)
	_, err := b.StopVM(b.ctx, b.by, vm.ID)
	must(t, err)
	if stopped, err := b.WaitVM(b.ctx, b.by, vm.ID); err != nil || stopped.Observed != domain.Stopped {
		t.Fatalf("%v, %v", stopped, err)
	}
	if row := b.ended(x); row.State != domain.ExecutionLost {
		t.Errorf("what ran in it: %+v", row)
	}
	_, err = b.StartVM(b.ctx, b.by, vm.ID)
	must(t, err)
	if out, _ := b.sh(vm.ID, "cat f"); out != "kept\n" {
		t.Errorf("%q", out)
	}
	b.pause(vm.ID, domain.PauseMemory)
	_, err = b.DeleteVM(b.ctx, b.by, vm.ID)
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	if leaks := b.node.Leaks(); len(leaks) > 0 {
		t.Errorf("left: %v", leaks)
	}
}

// Forks go on from their origin's memory: what runs there runs in each, as an
// execution of its own that says whence it is.
func TestForksGoOnFromMemory(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	vm := b.running(vmm.CreateVM{Env: map[string]string{"SECRET": "s"}})
	x := b.talk(vm.ID)
	b.sh(vm.ID, "true") // which has ended, and is nobody's in a fork
	forks, err := b.ForkVM(b.ctx, b.by, vm.ID, 3, vmm.CreateVM{})
	must(t, err)
	for i, f := range forks {
		fork, err := b.WaitVM(b.ctx, b.by, f.ID)
		must(t, err)
		if !fork.Spec.Memory || fork.Epoch != 1 {
			t.Errorf("%+v", fork)
		}
		if i == 1 { // also after the worker was away
			b.down()
			b.up()
		}
		list := b.executions(fork.ID)
		if len(list) != 1 || list[0].ID == x || list[0].OriginID != x || list[0].State != domain.ExecutionRunning || list[0].PID == 0 {
			t.Fatalf("%+v", list)
		}
		if c := list[0].Command; !slices.Equal(c.Args, talker.Args) || !c.Stdin || c.Env["TALKER"] != "one" {
			t.Errorf("its command is %+v", c)
		}
		b.endTalk(list[0].ID, "fork", greeting+"fork")
		if out, _ := b.sh(fork.ID, "echo $SECRET"); out != "s\n" {
			t.Errorf("it was told %q", out)
		}
	}
	for _, f := range forks {
		b.stepped(f.ID)
	}
	if ids := b.snapshots(); len(ids) > 0 {
		t.Errorf("what the forks were made from is left: %v", ids)
	}
	b.endTalk(x, "origin", greeting+"origin")
}

func TestForkOfAFork(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	vm := b.running(vmm.CreateVM{})
	first := b.talk(vm.ID)
	for range 3 {
		forks, err := b.ForkVM(b.ctx, b.by, vm.ID, 1, vmm.CreateVM{})
		must(t, err)
		fork, err := b.WaitVM(b.ctx, b.by, forks[0].ID)
		must(t, err)
		list := b.executions(fork.ID)
		if len(list) != 1 || list[0].OriginID != first {
			t.Fatalf("%+v", list)
		}
		vm, first = fork, list[0].ID
	}
	b.pause(vm.ID, domain.PauseMemory)
	forks, err := b.ForkVM(b.ctx, b.by, vm.ID, 1, vmm.CreateVM{}) // of what sleeps
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, forks[0].ID)
	must(t, err)
	b.endTalk(b.executions(forks[0].ID)[0].ID, "last", greeting+"last")
}

func TestForksFromTheDiskAlone(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	vm := b.running(vmm.CreateVM{})
	b.talk(vm.ID)
	more := domain.Resources{MemoryBytes: 512 << 20}
	forks, err := b.ForkVM(b.ctx, b.by, vm.ID, 1, vmm.CreateVM{Memory: no(), Resources: more})
	must(t, err)
	fork, err := b.WaitVM(b.ctx, b.by, forks[0].ID)
	must(t, err)
	if list := b.executions(fork.ID); len(list) > 0 || fork.Spec.Memory {
		t.Errorf("%+v", list)
	}
	for name, bad := range map[string]vmm.CreateVM{
		"resources": {Resources: more}, "network": {Network: domain.NetworkNAT}, "tools": {Tools: []string{"node@20"}},
	} {
		_, err := b.ForkVM(b.ctx, b.by, vm.ID, 1, bad)
		var e *errors.Error
		if !errors.HasCode(err, errors.InvalidArgument) || !errors.As(err, &e) || e.Field != name || e.Hint == "" {
			t.Errorf("other %s: %v", name, err)
		}
	}
	b.pause(vm.ID, domain.PauseFreeze)
	if _, err := b.ForkVM(b.ctx, b.by, vm.ID, 1, vmm.CreateVM{Memory: yes()}); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("the memory of a frozen VM: %v", err)
	}
	plain := newBed(t)
	other := plain.running(vmm.CreateVM{})
	if _, err := plain.ForkVM(plain.ctx, plain.by, other.ID, 1, vmm.CreateVM{Memory: yes()}); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("a driver that keeps no memory: %v", err)
	}
	if _, err := plain.CreateSnapshot(plain.ctx, plain.by, other.ID, vmm.CreateSnapshot{Kind: domain.SnapshotMemory}); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("a driver that keeps no memory: %v", err)
	}
}

// The death of the worker while forks are being made leaves forks, each with
// what ran in the origin once.
func TestForksThatACrashInterrupts(t *testing.T) {
	t.Parallel()
	for _, op := range []fake.Op{fake.OpCreate, fake.OpStart, fake.OpRename} {
		t.Run(string(op), func(t *testing.T) {
			t.Parallel()
			b := newMemoryBed(t)
			vm := b.running(vmm.CreateVM{})
			x := b.talk(vm.ID)
			reached, release := b.node.StopNext(op)
			defer release()
			forks, err := b.ForkVM(b.ctx, b.by, vm.ID, 2, vmm.CreateVM{})
			must(t, err)
			<-reached
			b.crash()
			b.up()
			for _, f := range forks {
				_, err := b.WaitVM(b.ctx, b.by, f.ID)
				must(t, err)
				list := b.executions(f.ID)
				if len(list) != 1 || list[0].OriginID != x {
					t.Fatalf("%+v", list)
				}
				b.endTalk(list[0].ID, "fork", greeting+"fork")
				b.stepped(f.ID)
			}
			if ids := b.snapshots(); len(ids) > 0 {
				t.Errorf("what the forks were made from is left: %v", ids)
			}
		})
	}
}

func TestSnapshotsOfMemory(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	vm := b.running(vmm.CreateVM{})
	x := b.talk(vm.ID)
	b.sh(vm.ID, "echo kept > f")
	snap, err := b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "warm", Kind: domain.SnapshotMemory})
	must(t, err)
	if snap.Kind != domain.SnapshotMemory || snap.DriverVersion != "1" {
		t.Errorf("%+v", snap)
	}
	disk, err := b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "cold"})
	if err != nil || disk.Kind != domain.SnapshotDisk {
		t.Errorf("%+v, %v", disk, err)
	}
	_, err = b.DeleteVM(b.ctx, b.by, vm.ID)
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	warm := b.running(vmm.CreateVM{Template: "warm"})
	list := b.executions(warm.ID)
	if len(list) != 1 || list[0].OriginID != x || len(list[0].Command.Args) == 0 {
		t.Fatalf("%+v", list)
	}
	b.endTalk(list[0].ID, "on", greeting+"on")
	cold := b.running(vmm.CreateVM{Template: "warm", Memory: no(), Resources: domain.Resources{MilliCPU: 500}})
	if out, _ := b.sh(cold.ID, "cat f"); out != "kept\n" || len(b.executions(cold.ID)) != 1 {
		t.Errorf("from its disk alone: %q", out)
	}
	for name, tc := range map[string]struct {
		req  vmm.CreateVM
		code errors.Code
	}{
		"other resources": {vmm.CreateVM{Template: "warm", Resources: domain.Resources{MilliCPU: 500}}, errors.InvalidArgument},
		"other network":   {vmm.CreateVM{Template: "warm", Network: domain.NetworkNAT}, errors.InvalidArgument},
		"no memory":       {vmm.CreateVM{Template: "cold", Memory: yes()}, errors.Unsupported},
		"a template":      {vmm.CreateVM{Template: "base", Memory: yes()}, errors.Unsupported},
	} {
		if _, err := b.CreateVM(b.ctx, b.by, tc.req); !errors.HasCode(err, tc.code) {
			t.Errorf("%s: %v, want %s", name, err, tc.code)
		}
	}
	// What another version of the driver saved is not guessed at.
	b.down()
	b.node.SetVersion("2")
	b.up()
	_, err = b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "warm"})
	var e *errors.Error
	if !errors.HasCode(err, errors.Unsupported) || !errors.As(err, &e) || e.Field != "memory" || e.Hint == "" {
		t.Errorf("another version: %v", err)
	}
	b.running(vmm.CreateVM{Template: "warm", Memory: no()})
	must(t, b.DeleteSnapshot(b.ctx, b.by, snap.ID))
	must(t, b.DeleteSnapshot(b.ctx, b.by, disk.ID))
	if ids := b.snapshots(); len(ids) > 0 {
		t.Errorf("left: %v", ids)
	}
}

// Snapshots, forks and templates are of the version that saved their memory, which
// need not be the one that the worker had when it started.
func TestMemoryIsOfTheVersionThatSavedIt(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	vm, old := b.running(vmm.CreateVM{}), b.running(vmm.CreateVM{})
	b.pause(old.ID, domain.PauseMemory)
	_, err := b.CreateSnapshot(b.ctx, b.by, old.ID, vmm.CreateSnapshot{Name: "old", Kind: domain.SnapshotMemory})
	must(t, err)
	b.node.SetVersion("2") // while the worker runs
	refused := func() {
		t.Helper()
		snap, err := b.CreateSnapshot(b.ctx, b.by, old.ID, vmm.CreateSnapshot{Kind: domain.SnapshotMemory})
		if err != nil || snap.DriverVersion != "1" {
			t.Errorf("of a memory of before: %+v, %v", snap, err)
		}
		before, kept := b.all(), b.snapshots()
		for _, memory := range []*bool{nil, yes()} {
			_, err = b.ForkVM(b.ctx, b.by, old.ID, 2, vmm.CreateVM{Memory: memory})
			var e *errors.Error
			if !errors.HasCode(err, errors.Unsupported) || !errors.As(err, &e) || e.Field != "memory" || e.Hint == "" {
				t.Errorf("forks of a memory of before: %v", err)
			}
		}
		_, err = b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "old"})
		if !errors.HasCode(err, errors.Unsupported) {
			t.Errorf("a VM from a memory of before: %v", err)
		}
		if after := b.all(); len(after) != len(before) {
			t.Errorf("%d VMs, %d before", len(after), len(before))
		}
		if after := b.snapshots(); len(after) != len(kept) {
			t.Errorf("kept are %v, before %v", after, kept)
		}
	}
	refused()
	snap, err := b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "new", Kind: domain.SnapshotMemory})
	if err != nil || snap.DriverVersion != "2" {
		t.Fatalf("%+v, %v", snap, err)
	}
	b.running(vmm.CreateVM{Template: "new"})
	b.down()
	b.up()
	refused()
	if fork := b.running(vmm.CreateVM{Template: "new"}); !fork.Spec.Memory {
		t.Error("it does not go on from memory")
	}
	forks, err := b.ForkVM(b.ctx, b.by, old.ID, 1, vmm.CreateVM{Memory: no()})
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, forks[0].ID)
	must(t, err)
	b.node.SetVersion("3")
	if task := b.build(vmm.BuildTemplate{Name: "warm", Warm: domain.WarmUp{Memory: true}}); task.State != domain.TaskSucceeded {
		t.Fatalf("%+v", task.Error)
	}
	info, err := b.GetTemplate(b.ctx, b.by, "warm")
	must(t, err)
	if m := info.Builds[0].Memory(); m == nil || m.DriverVersion != "3" {
		t.Errorf("%+v", m)
	}
	if vm := b.running(vmm.CreateVM{Template: "warm"}); !vm.Spec.Memory {
		t.Error("it does not go on from the template's memory")
	}
}

// A driver that has become another since the worker last asked is seen before a machine
// is made of a memory that it cannot use: the next VM is refused at once.
func TestMemoryOfBeforeIsNotTried(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	vm := b.running(vmm.CreateVM{})
	_, err := b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "old", Kind: domain.SnapshotMemory})
	must(t, err)
	b.node.SetVersion("2")
	made, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "old"})
	must(t, err)
	failed := b.await(made.ID, func(vm *domain.VM) bool { return vm.Observed == domain.Failed })
	if !strings.Contains(failed.Reason, "saved by fake 1, and this is 2") {
		t.Errorf("%+v", failed)
	}
	if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "old"}); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("%v", err)
	}
}

// all are the project's VMs.
func (b *bed) all() []*domain.VM {
	b.t.Helper()
	list, err := b.ListVMs(b.ctx, b.by, vmm.VMFilter{})
	must(b.t, err)
	return list.Items
}

// build builds a template and returns its task.
func (b *bed) build(req vmm.BuildTemplate) *domain.Task {
	b.t.Helper()
	req.Source = domain.TemplateSource{Dir: "/"}
	task, err := b.BuildTemplate(b.ctx, b.by, req)
	must(b.t, err)
	task, err = b.WaitTask(b.ctx, b.by, task.ID)
	must(b.t, err)
	return task
}

// starter is what a template starts: it says so, and when it may be used.
const starter = `echo started; touch ready; exec sleep 1000`

func TestTemplatesThatAreWarm(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	task := b.build(vmm.BuildTemplate{Name: "warm", Warm: domain.WarmUp{Start: starter, Ready: "test -e ready", Memory: true}})
	if task.State != domain.TaskSucceeded {
		t.Fatalf("%+v", task.Error)
	}
	info, err := b.GetTemplate(b.ctx, b.by, "warm")
	must(t, err)
	m := info.Builds[0].Memory()
	if m == nil || m.Driver != "fake" || m.DriverVersion != "1" || m.Shape == nil || m.Shape.Network != domain.NetworkNone {
		t.Fatalf("%+v", info.Builds[0])
	}
	if leaks := b.node.Leaks(); len(leaks) > 0 {
		t.Errorf("the build's machine is left: %v", leaks)
	}
	b.down() // the memory outlives the worker
	b.up()
	vm := b.running(vmm.CreateVM{Template: "warm"})
	list := b.executions(vm.ID)
	if !vm.Spec.Memory || len(list) != 1 || list[0].OriginID == "" || list[0].Command.Args[2] != starter {
		t.Fatalf("%v: %+v", vm.Spec.Memory, list)
	}
	b.said(list[0].ID, "started\n")
	if out, _ := b.sh(vm.ID, "cat /proc/self/cgroup >/dev/null; test -e ready && echo ready; echo $BOTH"); out != "ready\nimage\n" {
		t.Errorf("%q", out)
	}
	// Others start anew, and what the template starts is started in them.
	for _, req := range []vmm.CreateVM{{Memory: no()}, {Resources: domain.Resources{MilliCPU: 500}}} {
		req.Template = "warm"
		cold := b.running(req)
		list := b.executions(cold.ID)
		if cold.Spec.Memory || len(list) != 2 || list[0].OriginID != "" || list[1].Command.Args[2] != starter {
			t.Fatalf("%v: %+v", cold.Spec.Memory, list)
		}
		b.said(list[1].ID, "started\n")
		_, err := b.StopVM(b.ctx, b.by, cold.ID)
		must(t, err)
		_, err = b.WaitVM(b.ctx, b.by, cold.ID)
		must(t, err)
		_, err = b.StartVM(b.ctx, b.by, cold.ID)
		must(t, err)
		_, err = b.WaitVM(b.ctx, b.by, cold.ID)
		must(t, err)
		if again := b.executions(cold.ID); len(again) != 4 || again[1].State != domain.ExecutionRunning {
			t.Errorf("started again it runs %+v", again)
		}
	}
	if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "warm", Memory: yes(), Resources: domain.Resources{MilliCPU: 500}}); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("memory of another shape: %v", err)
	}
	// A fork of one has what its origin has, and does not start it again.
	forks, err := b.ForkVM(b.ctx, b.by, vm.ID, 1, vmm.CreateVM{})
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, forks[0].ID)
	must(t, err)
	if of := b.executions(forks[0].ID); len(of) != 1 || of[0].OriginID != list[0].ID {
		t.Errorf("%+v", of)
	}
	b.stepped(forks[0].ID)
	// The memory goes with the last of its build.
	must(t, b.DeleteTemplate(b.ctx, b.by, "warm"))
	if ids := b.snapshots(); len(ids) != 1 {
		t.Errorf("while VMs use the build: %v", ids)
	}
	all, err := b.ListVMs(b.ctx, b.by, vmm.VMFilter{})
	must(t, err)
	for _, vm := range all.Items {
		_, err := b.DeleteVM(b.ctx, b.by, vm.ID)
		must(t, err)
		_, err = b.WaitVM(b.ctx, b.by, vm.ID)
		must(t, err)
	}
	b.worker.Sweep(b.ctx)
	if ids := b.snapshots(); len(ids) > 0 {
		t.Errorf("left: %v", ids)
	}
}

// Machines of the pool are warm, too, and what runs in one is its VM's from
// the moment it has it.
func TestPoolOfWarmMachines(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t, func(c *worker.Config) { c.Pool = worker.PoolConfig{Size: 2, Kinds: 3} })
	b.build(vmm.BuildTemplate{Name: "warm", Warm: domain.WarmUp{Start: starter, Ready: "test -e ready", Memory: true}})
	b.running(vmm.CreateVM{Template: "warm"})
	seen := map[domain.ID]bool{}
	for i := range 4 {
		_, err := b.worker.PoolReady(b.ctx)
		must(t, err)
		if i == 2 { // machines that an earlier worker warmed
			b.crash()
			b.up()
			_, err := b.worker.PoolReady(b.ctx)
			must(t, err)
		}
		vm := b.running(vmm.CreateVM{Template: "warm"})
		phases, err := b.VMTrace(b.ctx, b.by, vm.ID)
		must(t, err)
		if phases[0].Name != "claim" {
			t.Errorf("it was not from the pool: %v", phases)
		}
		list := b.executions(vm.ID)
		if len(list) != 1 || seen[list[0].ID] || list[0].State != domain.ExecutionRunning || list[0].VMID != vm.ID {
			t.Fatalf("%+v", list)
		}
		seen[list[0].ID] = true
		b.said(list[0].ID, "started\n")
		must(t, b.SignalExecution(b.ctx, b.by, list[0].ID, 9))
		if row := b.ended(list[0].ID); row.Signal != 9 {
			t.Errorf("%+v", row)
		}
	}
}

func TestWarmUpsThatFail(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	for name, tc := range map[string]struct {
		warm domain.WarmUp
		code errors.Code
	}{
		"it ends":         {domain.WarmUp{Start: "echo why; exit 3", Ready: "false", Memory: true}, errors.InvalidArgument},
		"no such command": {domain.WarmUp{Start: "no-such-command-here", Ready: "false", Memory: true}, errors.InvalidArgument},
	} {
		task := b.build(vmm.BuildTemplate{Name: "bad", Warm: tc.warm})
		if task.State != domain.TaskFailed || task.Error.Code != string(tc.code) {
			t.Errorf("%s: %+v", name, task)
		}
	}
	b.node.FailNext(fake.OpSnapshot, errors.New(errors.NoSpace, "full"))
	if task := b.build(vmm.BuildTemplate{Name: "bad", Warm: domain.WarmUp{Start: starter, Memory: true}}); task.State != domain.TaskFailed {
		t.Errorf("no room: %+v", task)
	}
	if leaks, ids := b.node.Leaks(), b.snapshots(); len(leaks)+len(ids) > 0 {
		t.Errorf("left: %v, %v", leaks, ids)
	}
	for name, tc := range map[string]struct {
		warm domain.WarmUp
		code errors.Code
	}{
		"ready of nothing": {domain.WarmUp{Ready: "y"}, errors.InvalidArgument},
		"no such driver":   {domain.WarmUp{Memory: true, Driver: "nosuch"}, errors.Unsupported},
		"a NUL":            {domain.WarmUp{Start: "a\x00b"}, errors.InvalidArgument},
	} {
		_, err := b.BuildTemplate(b.ctx, b.by, vmm.BuildTemplate{Name: "bad", Source: domain.TemplateSource{Dir: "/"}, Warm: tc.warm})
		if !errors.HasCode(err, tc.code) {
			t.Errorf("%s: %v, want %s", name, err, tc.code)
		}
	}
	plain := newBed(t)
	if _, err := plain.BuildTemplate(plain.ctx, plain.by, vmm.BuildTemplate{
		Name: "m", Source: domain.TemplateSource{Dir: "/"}, Warm: domain.WarmUp{Memory: true},
	}); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("no driver keeps memory: %v", err)
	}
}

// The death of the worker while a template is warmed up leaves nothing of the
// try, and the next worker makes it.
func TestWarmUpThatACrashInterrupts(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	reached, release := b.node.StopNext(fake.OpSnapshot)
	defer release()
	task, err := b.BuildTemplate(b.ctx, b.by, vmm.BuildTemplate{
		Name: "warm", Source: domain.TemplateSource{Dir: "/"}, Warm: domain.WarmUp{Start: starter, Ready: "test -e ready", Memory: true},
	})
	must(t, err)
	<-reached
	b.crash()
	b.up()
	if done, err := b.WaitTask(b.ctx, b.by, task.ID); err != nil || done.State != domain.TaskSucceeded {
		t.Fatalf("%+v, %v", done, err)
	}
	if ids := b.snapshots(); len(ids) != 1 {
		t.Errorf("%v", ids)
	}
	if vm := b.running(vmm.CreateVM{Template: "warm"}); !vm.Spec.Memory || len(b.executions(vm.ID)) != 1 {
		t.Errorf("%+v", vm.Spec)
	}
}

// The trace of a start tells where its time went, with what the driver saw of
// it, and so do the metrics.
func TestTraceOfAStart(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	vm := b.running(vmm.CreateVM{})
	b.talk(vm.ID)
	forks, err := b.ForkVM(b.ctx, b.by, vm.ID, 1, vmm.CreateVM{})
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, forks[0].ID)
	must(t, err)
	b.stepped(forks[0].ID)
	for id, want := range map[domain.ID][]string{
		vm.ID:       {"intent", "create", "start", "start.boot", "handshake", "configure", "session"},
		forks[0].ID: {"intent", "create", "start", "start.boot", "start.restore", "handshake", "configure", "inherit", "session"},
	} {
		phases, err := b.VMTrace(b.ctx, b.by, id)
		must(t, err)
		var names []string
		for _, p := range phases {
			names = append(names, p.Name)
		}
		if !slices.Equal(names, want) {
			t.Errorf("%v, want %v", names, want)
		}
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(b.worker.Collectors()...)
	for name, want := range map[string]int{"aetherium_vm_start_duration_seconds": 2, "aetherium_vm_start_phase_duration_seconds": 16} {
		if n, err := testutil.GatherAndCount(registry, name); err != nil || n != want {
			t.Errorf("%s has %d series, want %d: %v", name, n, want, err)
		}
	}
}

// What ends the worker's VMs for a shutdown of the host leaves alone what it
// survives.
func TestDrainLeavesWhatIsSaved(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	vm, other := b.running(vmm.CreateVM{}), b.running(vmm.CreateVM{})
	x := b.talk(vm.ID)
	b.pause(vm.ID, domain.PauseMemory)
	b.pause(other.ID, domain.PauseFreeze)
	must(t, b.worker.Drain(b.ctx, "shutdown"))
	if now, err := b.GetVM(b.ctx, b.by, other.ID); err != nil || now.Observed != domain.Stopped {
		t.Errorf("the frozen one: %+v, %v", now, err)
	}
	b.down()
	b.up()
	b.resume(vm.ID)
	b.endTalk(x, "on", greeting+"on")
}

// A snapshot and a pause that are asked for at once are carried out one after
// the other.
func TestSnapshotsTakeTurns(t *testing.T) {
	t.Parallel()
	b := newMemoryBed(t)
	vm := b.running(vmm.CreateVM{})
	x := b.talk(vm.ID)
	reached, release := b.node.StopNext(fake.OpSnapshot)
	defer release()
	taken := make(chan error, 1)
	go func() {
		_, err := b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Kind: domain.SnapshotMemory})
		taken <- err
	}()
	<-reached
	began, _ := b.node.StopNext(fake.OpPause)
	_, err := b.PauseVM(b.ctx, b.by, vm.ID, domain.PauseMemory)
	must(t, err)
	select {
	case <-began:
		t.Error("it is paused while its snapshot is taken")
	case <-time.After(100 * time.Millisecond): // only a pause that comes too soon is seen here
	}
	// Whoever wants it deleted does not wait for either.
	_, err = b.DeleteVM(b.ctx, b.by, vm.ID)
	must(t, err)
	gone, err := b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	if gone.Observed != domain.Deleted {
		t.Errorf("it is %s", gone.Observed)
	}
	if err := <-taken; err == nil {
		t.Error("a snapshot of a deleted VM was taken")
	}
	if row := b.ended(x); !row.State.Ended() {
		t.Errorf("%+v", row)
	}
	if leaks, ids := b.node.Leaks(), b.snapshots(); len(leaks)+len(ids) > 0 {
		t.Errorf("left: %v, %v", leaks, ids)
	}
}

// Idle time counts from the resumption on, whatever was before.
func TestIdleTimeAfterAPause(t *testing.T) {
	t.Parallel()
	for _, mode := range []domain.PauseMode{domain.PauseMemory, domain.PauseFreeze} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			b := newMemoryBed(t)
			vm := b.running(vmm.CreateVM{IdleTimeout: time.Hour, OnTimeout: domain.TimeoutPause})
			b.sh(vm.ID, "true")
			b.pause(vm.ID, mode)
			b.skip(2 * time.Hour)
			b.resume(vm.ID)
			b.stepped(vm.ID)
			b.skip(30 * time.Minute)
			b.stepped(vm.ID)
			if now, err := b.GetVM(b.ctx, b.by, vm.ID); err != nil || now.Desired != domain.WantRunning {
				t.Errorf("%+v, %v", now, err)
			}
			b.skip(time.Hour)
			_, err := b.PatchVM(b.ctx, b.by, vm.ID, vmm.PatchVM{Metadata: map[string]string{"look": "again"}})
			must(t, err)
			b.await(vm.ID, func(vm *domain.VM) bool { return vm.Observed == domain.Paused })
		})
	}
}
