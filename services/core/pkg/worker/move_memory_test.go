package worker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
)

// newDrainedWithMemory is two workers whose driver keeps memory, and a VM on the one
// that is drained, with a file and an execution in it, which waits for a file.
func newDrainedWithMemory(t *testing.T) (d *drained, vm *domain.VM, waits *domain.Execution) {
	t.Helper()
	d = newDrained(t)
	for _, b := range []*bed{d.origin, d.far} {
		b.node.KeepMemory()
		d.crash(b)
		d.again(b)
	}
	vm = d.origin.running(vmm.CreateVM{Template: "shared", Name: "kept", OnTimeout: domain.TimeoutPause})
	if vm.WorkerID != d.origin.worker.ID() {
		t.Fatalf("a VM is on %s", vm.WorkerID)
	}
	d.origin.sh(vm.ID, "echo kept > file")
	waits, err := d.StartExecution(d.one.ctx, d.one.by, vm.ID, vmm.StartExecution{Command: domain.Command{
		Args: []string{"sh", "-c", "until test -e go; do sleep 0.02; done; echo went on; exit 7"},
	}})
	must(t, err)
	return d, vm, waits
}

// updated restarts workers with another version of their driver.
func (d *drained) updated(all ...*bed) {
	d.one.t.Helper()
	for _, b := range all {
		b.node.SetVersion("2")
		d.crash(b)
		d.again(b)
	}
}

// leavesWithMemory drains the origin, and waits until a VM has left it, paused.
func (d *drained) leavesWithMemory(id domain.ID) {
	d.one.t.Helper()
	d.drain()
	d.until(id, (*domain.VM).KeepsMemory)
	d.beat()
	d.restsWithMemory(id)
}

// restsWithMemory waits until a VM has left, paused.
func (d *drained) restsWithMemory(id domain.ID) *domain.VM {
	d.one.t.Helper()
	for !d.one.vm(id).InStorage() { // what was in the way is looked at again with each sign of life
		if d.one.ctx.Err() != nil {
			d.one.t.Fatalf("the VM stays %+v", d.one.vm(id))
		}
		d.beat()
	}
	vm := d.one.vm(id)
	if !vm.KeepsMemory() || vm.WorkerID != d.far.worker.ID() || vm.Reason != "" || vm.Tombstone != nil {
		d.one.t.Errorf("%+v", vm)
	}
	return vm
}

// goesOn resumes a VM, and checks that it is on a worker with what ran in it.
func (d *drained) goesOn(b *bed, vm *domain.VM, waits *domain.Execution) {
	d.one.t.Helper()
	ctx, by := d.one.ctx, d.one.by
	_, err := d.ResumeVM(ctx, by, vm.ID)
	must(d.one.t, err)
	d.went(b, vm, waits)
}

// went waits until a VM runs, and checks the same.
func (d *drained) went(b *bed, vm *domain.VM, waits *domain.Execution) {
	d.one.t.Helper()
	ctx, by := d.one.ctx, d.one.by
	got, err := d.WaitVM(ctx, by, vm.ID)
	must(d.one.t, err)
	if got.Observed != domain.Running || got.Epoch != vm.Epoch || got.StoredID != "" || got.Reason != "" {
		d.one.t.Fatalf("%+v", got)
	}
	if x, err := d.GetExecution(ctx, by, waits.ID); err != nil || x.State != domain.ExecutionRunning {
		d.one.t.Errorf("%+v, %v", x, err)
	}
	d.has(b, got, "kept")
	b.sh(vm.ID, "touch go")
	x, err := d.WaitExecution(ctx, by, waits.ID)
	must(d.one.t, err)
	if x.ExitCode == nil || *x.ExitCode != 7 {
		d.one.t.Errorf("%+v", x)
	}
	if out := b.output(waits.ID); out != "went on\n" {
		d.one.t.Errorf("%q", out)
	}
}

// What is paused, or would be by the drain, leaves with what is in its memory, and
// goes on elsewhere under the same IDs, in the same epoch.
func TestMemoryLeavesADrainedWorker(t *testing.T) {
	t.Parallel()
	d, vm, waits := newDrainedWithMemory(t)
	ctx, by, origin, far := d.one.ctx, d.one.by, d.origin, d.far
	before := d.blobs()
	_, done := origin.sh(vm.ID, "echo over")
	follower, err := origin.worker.Output(ctx, waits, 0, true)
	must(t, err)
	defer func() { _ = follower.Close() }()
	d.leavesWithMemory(vm.ID)
	if _, err := follower.Next(ctx); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("who follows what goes on elsewhere: %v", err)
	}
	d.clean(origin)
	if n := d.blobs(); n != before+1 {
		t.Errorf("%d blobs, %d before", n, before)
	}
	if w, err := d.GetWorker(ctx, by, far.worker.ID().String()); err != nil || w.VMs != 0 || w.Reserved != (domain.Resources{}) {
		t.Errorf("what rests in the storage holds %+v, %v", w, err)
	}
	_, err = d.CreateSnapshot(ctx, by, vm.ID, vmm.CreateSnapshot{Name: "snap"})
	refused(t, err, errors.Conflict)
	far.worker.Sweep(ctx)
	if n := d.blobs(); n != before+1 {
		t.Errorf("%d blobs after a sweep, %d before", n, before)
	}
	d.goesOn(far, vm, waits)
	d.only(far, before)
	if out := far.output(done.ID); out != "over\n" { // it stays where it ran
		t.Errorf("%q", out)
	}
	if x, err := d.GetExecution(ctx, by, done.ID); err != nil || x.State != domain.ExecutionExited {
		t.Errorf("%+v, %v", x, err)
	}
	// And back.
	_, err = d.UncordonWorker(ctx, by, origin.worker.ID().String())
	must(t, err)
	d.beat()
	d.origin, d.far = far, origin
	d.leavesWithMemory(vm.ID)
	_, err = d.DeleteVM(ctx, by, vm.ID)
	must(t, err)
	_, err = d.WaitVM(ctx, by, vm.ID)
	must(t, err)
	d.only(origin, before)
}

// Killed at any point of a move, the worker that a VM leaves has it paused or not at
// all; killed at any point of its resumption, the worker that takes it has it go on,
// once.
func TestMovesOfMemoryThatACrashInterrupts(t *testing.T) {
	t.Parallel()
	for name, stop := range leaving() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, vm, waits := newDrainedWithMemory(t)
			before := d.blobs()
			at := stop(d)
			d.drain()
			d.until(vm.ID, (*domain.VM).KeepsMemory)
			d.beat()
			<-at
			d.crash(d.origin)
			row := d.one.vm(vm.ID)
			if left := name == "gone"; row.InStorage() != left || (row.WorkerID == d.far.worker.ID()) != left || !row.KeepsMemory() {
				t.Errorf("%+v", row)
			}
			d.again(d.origin)
			d.beat()
			d.restsWithMemory(vm.ID)
			d.clean(d.origin)
			d.goesOn(d.far, vm, waits)
			d.far.skip(25 * time.Hour)
			d.far.worker.Sweep(d.one.ctx)
			d.only(d.far, before)
		})
	}
	for name, stop := range map[string]func(d *drained) <-chan struct{}{
		"unpacking": func(d *drained) <-chan struct{} { at, _ := d.far.node.StopNext(fake.OpUnpack); return at },
		"fetched":   func(d *drained) <-chan struct{} { return hold(&d.depot[d.far].holdGot) },
		"resuming":  func(d *drained) <-chan struct{} { at, _ := d.far.node.StopNext(fake.OpResume); return at },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, vm, waits := newDrainedWithMemory(t)
			before := d.blobs()
			d.leavesWithMemory(vm.ID)
			at := stop(d)
			_, err := d.ResumeVM(d.one.ctx, d.one.by, vm.ID)
			must(t, err)
			<-at
			d.crash(d.far)
			d.again(d.far)
			d.went(d.far, vm, waits)
			d.far.skip(25 * time.Hour)
			d.far.worker.Sweep(d.one.ctx)
			d.only(d.far, before)
		})
	}
}

// Where what was in its memory cannot go on, the VM says why and keeps it, until it is
// stopped: then it is started from its disk.
func TestMemoryThatCannotGoOn(t *testing.T) {
	t.Parallel()
	d, vm, waits := newDrainedWithMemory(t)
	ctx, by, far := d.one.ctx, d.one.by, d.far
	before := d.blobs()
	d.leavesWithMemory(vm.ID)
	for _, op := range []fake.Op{fake.OpUnpack} {
		far.node.FailNext(op, errors.New(errors.NoSpace, "it is full"))
		_, err := d.ResumeVM(ctx, by, vm.ID)
		must(t, err)
		row := d.until(vm.ID, func(vm *domain.VM) bool { return vm.Reason != "" })
		if !row.InStorage() || !row.KeepsMemory() || !strings.Contains(row.Reason, "full") {
			t.Errorf("%s: %+v", op, row)
		}
		if leaks := far.node.Leaks(); len(leaks) > 0 {
			t.Errorf("%s: %v", op, leaks)
		}
	}
	// The workers have another version since, and are asked for nothing.
	d.updated(d.origin, far)
	_, err := d.ResumeVM(ctx, by, vm.ID)
	if refused(t, err, errors.Conflict); err != nil && !strings.Contains(err.Error(), "saved by fake 1") {
		t.Errorf("%v", err)
	}
	_, err = d.StopVM(ctx, by, vm.ID)
	must(t, err)
	_, err = d.WaitVM(ctx, by, vm.ID)
	must(t, err)
	if x, err := d.GetExecution(ctx, by, waits.ID); err != nil || x.State != domain.ExecutionLost {
		t.Errorf("%+v, %v", x, err)
	}
	d.start(far, vm.ID, "kept")
	if row := d.one.vm(vm.ID); row.Epoch != vm.Epoch+1 {
		t.Errorf("%+v", row)
	}
	d.only(far, before)
}

// Where no other worker could have it go on, what is in its memory is given up when
// the drain's time has come, and it is told why.
func TestMemoryThatNobodyTakes(t *testing.T) {
	t.Parallel()
	d, vm, _ := newDrainedWithMemory(t)
	d.updated(d.far)
	d.drain()
	d.until(vm.ID, func(vm *domain.VM) bool { return vm.Observed == domain.Stopped })
	d.beat()
	row := d.left(vm.ID)
	if row.Observed != domain.Stopped || row.Tombstone == nil || !strings.Contains(row.Tombstone.Detail, "no other worker has fake 1") {
		t.Errorf("%+v", row)
	}
	d.start(d.far, vm.ID, "kept")
}

// While a worker's driver is still being tried out, nothing is given up for it.
func TestMemoryIsKeptUntilItIsKnownWhoTakesIt(t *testing.T) {
	t.Parallel()
	d, vm, waits := newDrainedWithMemory(t)
	drivers := func(change func(*domain.DriverInfo)) {
		must(t, d.one.store.Update(d.one.ctx, func(tx storage.Tx) error {
			row, err := tx.Workers().Get(d.one.ctx, d.far.worker.ID())
			if err != nil {
				return err
			}
			for i := range row.Drivers {
				change(&row.Drivers[i])
			}
			return tx.Workers().Update(d.one.ctx, row)
		}))
	}
	var before domain.DriverInfo
	drivers(func(i *domain.DriverInfo) {
		before = *i
		*i = domain.DriverInfo{Name: i.Name, Reason: service.BeingTried, Capabilities: []string{}}
	})
	d.drain()
	d.until(vm.ID, (*domain.VM).KeepsMemory)
	d.beat()
	row := d.until(vm.ID, func(vm *domain.VM) bool { return vm.Reason != "" })
	if row.InStorage() || !row.KeepsMemory() || !strings.Contains(row.Reason, "can take its memory") {
		t.Errorf("%+v", row)
	}
	drivers(func(i *domain.DriverInfo) { *i = before })
	d.origin.skip(time.Hour)
	d.beat()
	d.restsWithMemory(vm.ID)
	d.goesOn(d.far, vm, waits)
}

// A worker that dies as it takes a VM out of the storage does not keep it: the VM
// rests there as before, and goes on elsewhere. When that worker is back, it has
// nothing of it.
func TestWhoNeverTookItInDoesNotKeepIt(t *testing.T) {
	t.Parallel()
	d, vm, waits := newDrainedWithMemory(t)
	ctx, by := d.one.ctx, d.one.by
	before := d.blobs()
	d.leavesWithMemory(vm.ID)
	at, _ := d.far.node.StopNext(fake.OpUnpack)
	_, err := d.ResumeVM(ctx, by, vm.ID)
	must(t, err)
	<-at
	if row := d.one.vm(vm.ID); row.InStorage() {
		t.Errorf("%+v", row)
	}
	d.crash(d.far)
	// Nobody waits for its end where it is.
	_, err = d.WaitExecution(ctx, by, waits.ID)
	refused(t, err, errors.Unavailable)
	_, err = d.UncordonWorker(ctx, by, d.origin.worker.ID().String())
	must(t, err)
	for d.one.vm(vm.ID).UnreachableSince == nil {
		d.silent(d.origin)
	}
	d.goesOn(d.origin, vm, waits)
	d.again(d.far)
	d.clean(d.far)
	d.only(d.origin, before)
}

// What was wanted of a VM while it is taken out of the storage is done to what it is:
// paused with its memory saved, however it was to be paused.
func TestPausedAsItIsTakenIn(t *testing.T) {
	t.Parallel()
	d, vm, waits := newDrainedWithMemory(t)
	ctx, by := d.one.ctx, d.one.by
	before := d.blobs()
	d.leavesWithMemory(vm.ID)
	if _, err := d.WaitExecution(ctx, by, waits.ID); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("waited for what rests: %v", err)
	}
	at, release := d.far.node.StopNext(fake.OpUnpack)
	_, err := d.ResumeVM(ctx, by, vm.ID)
	must(t, err)
	<-at
	_, err = d.PauseVM(ctx, by, vm.ID, domain.PauseFreeze)
	must(t, err)
	release()
	row, err := d.WaitVM(ctx, by, vm.ID)
	must(t, err)
	if !row.KeepsMemory() {
		t.Errorf("%+v", row)
	}
	d.goesOn(d.far, vm, waits)
	d.only(d.far, before)
}

// A drain of the worker that a VM was given to before it began gives up nothing.
func TestDrainedBeforeItIsTakenIn(t *testing.T) {
	t.Parallel()
	d, vm, waits := newDrainedWithMemory(t)
	ctx, by := d.one.ctx, d.one.by
	d.leavesWithMemory(vm.ID)
	far := d.crash(d.far).String()
	_, err := d.ResumeVM(ctx, by, vm.ID) // it is not known to be away
	must(t, err)
	_, err = d.DrainWorker(ctx, by, far, vmm.DrainWorker{})
	must(t, err)
	d.again(d.far)
	_, err = d.far.worker.Heartbeat(ctx)
	must(t, err)
	row := d.until(vm.ID, (*domain.VM).KeepsMemory)
	if row.Tombstone != nil {
		t.Errorf("%+v", row.Tombstone)
	}
	_, err = d.UncordonWorker(ctx, by, far)
	must(t, err)
	d.goesOn(d.far, vm, waits)
}

// Memory that was saved by the version before the worker's present one goes on
// nowhere, and is not sent there: it is told why the VM stays.
func TestMemoryOfAnEarlierVersionStays(t *testing.T) {
	t.Parallel()
	d, vm, _ := newDrainedWithMemory(t)
	ctx, by := d.one.ctx, d.one.by
	before := d.blobs()
	_, err := d.PauseVM(ctx, by, vm.ID, domain.PauseMemory)
	must(t, err)
	_, err = d.WaitVM(ctx, by, vm.ID)
	must(t, err)
	d.updated(d.origin, d.far)
	d.drain()
	row := d.until(vm.ID, func(vm *domain.VM) bool { return vm.Reason != "" || vm.InStorage() })
	if row.InStorage() || !row.KeepsMemory() || !strings.Contains(row.Reason, "saved by fake 1, and its worker has 2") {
		t.Errorf("%+v", row)
	}
	if n := d.blobs(); n != before {
		t.Errorf("%d blobs, %d before", n, before)
	}
	_, err = d.StopVM(ctx, by, vm.ID)
	must(t, err)
	d.until(vm.ID, func(vm *domain.VM) bool { return vm.Observed == domain.Stopped })
	d.origin.skip(time.Hour)
	d.beat()
	d.left(vm.ID)
	d.start(d.far, vm.ID, "kept")
}
