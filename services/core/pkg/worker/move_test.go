package worker_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
)

// drained is two workers over one storage, of which the origin is drained and its
// VMs are to leave it.
type drained struct{ *depots }

func newDrained(t *testing.T) *drained { t.Helper(); return &drained{newDepots(t)} }

// made is a VM on the origin that is at rest, with a file in it, and the execution
// that wrote it.
func (d *drained) made(name string, req vmm.CreateVM) (*domain.VM, *domain.Execution) {
	d.one.t.Helper()
	req.Template, req.Name = "shared", name
	vm := d.origin.running(req)
	if vm.WorkerID != d.origin.worker.ID() {
		d.one.t.Fatalf("a VM is on %s", vm.WorkerID)
	}
	_, x := d.origin.sh(vm.ID, "echo "+name+" | tee file")
	_, err := d.StopVM(d.one.ctx, d.one.by, vm.ID)
	must(d.one.t, err)
	vm, err = d.WaitVM(d.one.ctx, d.one.by, vm.ID)
	must(d.one.t, err)
	return vm, x
}

// drain asks for it, and lets the worker know.
func (d *drained) drain() {
	d.one.t.Helper()
	_, err := d.DrainWorker(d.one.ctx, d.one.by, d.origin.worker.ID().String(), vmm.DrainWorker{Move: true})
	must(d.one.t, err)
	d.beat()
}

func (d *drained) beat() {
	d.one.t.Helper()
	_, err := d.origin.worker.Heartbeat(d.one.ctx)
	must(d.one.t, err)
}

// until waits for what a VM's row says.
func (d *drained) until(id domain.ID, so func(*domain.VM) bool) *domain.VM {
	d.one.t.Helper()
	for {
		vm := d.one.vm(id)
		if so(vm) {
			return vm
		}
		if d.one.ctx.Err() != nil {
			d.one.t.Fatalf("the VM stays %+v", vm)
		}
		time.Sleep(time.Millisecond)
	}
}

func (d *drained) left(id domain.ID) *domain.VM {
	d.one.t.Helper()
	return d.until(id, (*domain.VM).InStorage)
}

// start starts a VM, and checks where it runs and that it has its file.
func (d *drained) start(b *bed, id domain.ID, name string) {
	d.one.t.Helper()
	_, err := d.StartVM(d.one.ctx, d.one.by, id)
	must(d.one.t, err)
	vm, err := d.WaitVM(d.one.ctx, d.one.by, id)
	must(d.one.t, err)
	d.has(b, vm, name)
}

// clean waits until nothing is on a worker's node.
func (d *drained) clean(b *bed) {
	d.one.t.Helper()
	for len(b.node.Leaks())+len(b.disks()) > 0 {
		if d.one.ctx.Err() != nil {
			d.one.t.Fatalf("%v, %v are left", b.node.Leaks(), b.disks())
		}
		time.Sleep(time.Millisecond)
	}
}

// only waits until there are so many blobs, and no disks beside those of machines
// on a worker: they go after the VM's row has told.
func (d *drained) only(b *bed, blobs int) {
	d.one.t.Helper()
	for d.blobs() != blobs || len(b.disks()) > 0 {
		if d.one.ctx.Err() != nil {
			d.one.t.Fatalf("%d blobs, not %d, and %v", d.blobs(), blobs, b.disks())
		}
		time.Sleep(time.Millisecond)
	}
}

// A VM of a drained worker leaves it, and goes on where there is room with all that
// it had; what stays with the worker is said.
func TestVMsLeaveADrainedWorker(t *testing.T) {
	t.Parallel()
	d := newDrained(t)
	ctx, by, origin, far := d.one.ctx, d.one.by, d.origin, d.far
	vm, x := d.made("kept", vmm.CreateVM{Env: map[string]string{"MINE": "yes"}, Metadata: map[string]string{"a": "b"}})
	before := d.blobs()
	d.drain()
	vm = d.left(vm.ID)
	if vm.WorkerID != far.worker.ID() || vm.Observed != domain.Stopped || vm.Reason != "" || vm.Generation == 0 {
		t.Errorf("%+v", vm)
	}
	d.clean(origin)
	if n := d.blobs(); n != before+1 {
		t.Errorf("%d blobs, %d before", n, before)
	}
	w, err := d.GetWorker(ctx, by, origin.worker.ID().String())
	if err != nil || w.VMs != 0 || !w.Moving {
		t.Errorf("%+v, %v", w, err)
	}
	if w, err := d.GetWorker(ctx, by, far.worker.ID().String()); err != nil || w.VMs != 0 || w.Reserved != (domain.Resources{}) {
		t.Errorf("what rests in the storage holds %+v, %v", w, err)
	}
	if list, err := d.ListSnapshots(ctx, by, "", vmm.Page{}); err != nil || len(list.Items) > 0 {
		t.Errorf("%v are shown, %v", list.Items, err)
	}
	refused(t, d.DeleteSnapshot(ctx, by, vm.StoredID), errors.Conflict)
	_, err = d.CreateVM(ctx, by, vmm.CreateVM{Template: vm.StoredID.String()})
	refused(t, err, errors.NotFound)
	_, err = d.CreateSnapshot(ctx, by, vm.ID, vmm.CreateSnapshot{Name: "snap"})
	refused(t, err, errors.Conflict)
	_, err = d.StartExecution(ctx, by, vm.ID, vmm.StartExecution{Command: domain.Command{Args: []string{"true"}}})
	refused(t, err, errors.Conflict)
	if list, err := d.ListExecutions(ctx, by, vm.ID, vmm.Page{}); err != nil || len(list.Items) != 1 {
		t.Errorf("%v, %v", list.Items, err)
	}

	d.start(far, vm.ID, "kept")
	if out, _ := far.sh(vm.ID, "echo $MINE"); out != "yes\n" {
		t.Errorf("%q", out)
	}
	got, err := d.ResolveVM(ctx, by, "kept")
	if err != nil || got.ID != vm.ID || got.Epoch != vm.Epoch+1 || got.StoredID != "" || got.Metadata["a"] != "b" {
		t.Errorf("%+v, %v", got, err)
	}
	d.only(far, before)

	// What was written on the first worker is read there, while it is there.
	if out := far.output(x.ID); out != "kept\n" {
		t.Errorf("%q", out)
	}
	d.lost()
	if got, err := d.GetExecution(ctx, by, x.ID); err != nil || got.State != domain.ExecutionExited {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = d.Output(ctx, by, x.ID, 0, false)
	refused(t, err, errors.Unavailable)
	must(t, d.one.store.Update(ctx, func(tx storage.Tx) error { return tx.Workers().Delete(ctx, w.ID) }))
	_, err = d.Output(ctx, by, x.ID, 0, false)
	refused(t, err, errors.Gone)
	if out, _ := far.sh(vm.ID, "echo new"); out != "new\n" {
		t.Errorf("%q", out)
	}
	d.again(origin)
}

// What its owner, its place or its driver bind to the worker stays, and says why;
// what is paused gives up its memory only where it leaves, at the drain's time.
func TestVMsThatStayOnADrainedWorker(t *testing.T) {
	t.Parallel()
	d := newDrained(t)
	ctx, by, origin := d.one.ctx, d.one.by, d.origin
	origin.node.KeepMemory()
	d.crash(origin)
	d.again(origin)
	killed := origin.running(vmm.CreateVM{Template: "shared"})
	stopped := origin.running(vmm.CreateVM{Template: "shared", OnTimeout: domain.TimeoutStop})
	atEnd := origin.running(vmm.CreateVM{Template: "shared", OnTimeout: domain.TimeoutPause})
	paused := origin.running(vmm.CreateVM{Template: "shared"})
	_, err := d.PauseVM(ctx, by, paused.ID, domain.PauseMemory)
	must(t, err)
	_, err = d.WaitVM(ctx, by, paused.ID)
	must(t, err)
	bound, _ := d.made("bound", vmm.CreateVM{})
	must(t, d.one.store.Update(ctx, func(tx storage.Tx) error {
		row, err := tx.VMs().Get(ctx, storage.System, bound.ID)
		if err != nil {
			return err
		}
		row.Spec.Mounts = []domain.Mount{{Source: "data", VolumeID: domain.NewID(), Target: "/data"}}
		return tx.VMs().Update(ctx, row)
	}))
	_, err = d.DrainWorker(ctx, by, origin.worker.ID().String(), vmm.DrainWorker{Within: time.Hour, Move: true})
	must(t, err)
	d.beat()
	row := d.until(bound.ID, func(vm *domain.VM) bool { return vm.Reason != "" })
	if row.InStorage() || !strings.Contains(row.Reason, "volume data") {
		t.Errorf("%+v", row)
	}
	_, err = d.StartVM(ctx, by, bound.ID)
	refused(t, err, errors.CapacityExhausted)
	if vm := d.one.vm(paused.ID); vm.Observed != domain.Paused {
		t.Errorf("its memory was given up before the time: %+v", vm)
	}
	if vm := d.one.vm(stopped.ID); vm.Desired != domain.WantRunning {
		t.Errorf("ended before its time: %+v", vm)
	}

	d.silent(origin, d.far)
	d.one.late.Add(int64(time.Hour))
	d.beat()
	for _, vm := range []*domain.VM{stopped, atEnd, paused} {
		_, err := d.WaitVM(ctx, by, vm.ID)
		must(t, err)
		d.beat()
		got := d.left(vm.ID)
		if got.Tombstone == nil || got.Tombstone.Cause != domain.CauseDrained {
			t.Errorf("%+v", got.Tombstone)
		}
		if forgot := strings.Contains(got.Tombstone.Detail, "memory"); forgot != (vm != stopped) {
			t.Errorf("%q", got.Tombstone.Detail)
		}
	}
	if vm := d.until(killed.ID, func(vm *domain.VM) bool { return vm.Observed == domain.Deleted }); vm.StoredID != "" {
		t.Errorf("%+v", vm)
	}
	for {
		d.beat()
		w, err := d.GetWorker(ctx, by, origin.worker.ID().String())
		must(t, err)
		if w.VMs == 1 && w.Staying == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	// Deleted, nothing is left of what rests in the storage.
	for _, vm := range []*domain.VM{stopped, atEnd, paused} {
		_, err := d.DeleteVM(ctx, by, vm.ID)
		must(t, err)
		_, err = d.WaitVM(ctx, by, vm.ID)
		must(t, err)
	}
	d.only(origin, 1)
	// Taken back, the VM that stayed is as before.
	_, err = d.UncordonWorker(ctx, by, origin.worker.ID().String())
	must(t, err)
	d.beat()
	d.until(bound.ID, func(vm *domain.VM) bool { return vm.Reason == "" })
	d.start(origin, bound.ID, "bound")
}

// leaving are the points of a VM's way from its worker, "gone" the one where it has
// left; each stops the worker there, and tells when.
func leaving() map[string]func(*drained) <-chan struct{} {
	return map[string]func(*drained) <-chan struct{}{
		"snapshot": func(d *drained) <-chan struct{} { at, _ := d.origin.node.StopNext(fake.OpSnapshot); return at },
		"packing":  func(d *drained) <-chan struct{} { at, _ := d.origin.node.StopNext(fake.OpPack); return at },
		"sent":     func(d *drained) <-chan struct{} { return hold(&d.depot[d.origin].holdSent) },
		"gone":     func(d *drained) <-chan struct{} { at, _ := d.origin.node.StopNext(fake.OpDelete); return at },
	}
}

// Killed at any point of a move, the worker that a VM leaves has it whole or not at
// all, and leaves nothing.
func TestMovesThatACrashInterrupts(t *testing.T) {
	t.Parallel()
	for name, stop := range leaving() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDrained(t)
			vm, _ := d.made("kept", vmm.CreateVM{})
			before := d.blobs()
			at := stop(d)
			d.drain()
			<-at
			d.crash(d.origin)
			row := d.one.vm(vm.ID)
			if left := name == "gone"; row.InStorage() != left || (row.WorkerID == d.far.worker.ID()) != left {
				t.Errorf("%+v", row)
			}
			if row.InStorage() { // it goes on, though the machine is still where it was
				d.start(d.far, vm.ID, "kept")
			}
			d.again(d.origin)
			d.beat()
			if name != "gone" {
				d.left(vm.ID)
			}
			d.clean(d.origin)
			if name != "gone" {
				d.start(d.far, vm.ID, "kept")
			}
			d.far.skip(25 * time.Hour)
			d.far.worker.Sweep(d.one.ctx)
			d.only(d.far, before)
		})
	}
}

// Killed at any point of a start from the storage, a worker makes the VM when it is
// back; where it does not come back before it has begun, another one does.
func TestStartsFromTheStorageThatACrashInterrupts(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(d *drained) <-chan struct{}{
		"unpacking": func(d *drained) <-chan struct{} { at, _ := d.far.node.StopNext(fake.OpUnpack); return at },
		"fetched":   func(d *drained) <-chan struct{} { return hold(&d.depot[d.far].holdGot) },
		"creating":  func(d *drained) <-chan struct{} { at, _ := d.far.node.StopNext(fake.OpCreate); return at },
		"starting":  func(d *drained) <-chan struct{} { at, _ := d.far.node.StopNext(fake.OpStart); return at },
		"greeting":  func(d *drained) <-chan struct{} { at, _ := d.far.node.StopNext(fake.OpDial); return at },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDrained(t)
			ctx, by := d.one.ctx, d.one.by
			vm, _ := d.made("kept", vmm.CreateVM{})
			before := d.blobs()
			d.drain()
			d.left(vm.ID)
			at := stop(d)
			_, err := d.StartVM(ctx, by, vm.ID)
			must(t, err)
			<-at
			d.crash(d.far)
			if name == "unpacking" {
				// Nothing of it is there yet: the first worker may have it again.
				_, err := d.UncordonWorker(ctx, by, d.origin.worker.ID().String())
				must(t, err)
				d.silent(d.origin)
				d.start(d.origin, vm.ID, "kept")
				d.again(d.far)
				if row := d.one.vm(vm.ID); row.WorkerID != d.origin.worker.ID() || row.Observed != domain.Running {
					t.Errorf("%+v", row)
				}
				d.clean(d.far)
			} else {
				d.again(d.far)
				row, err := d.WaitVM(ctx, by, vm.ID)
				must(t, err)
				d.has(d.far, row, "kept")
			}
			d.far.skip(25 * time.Hour)
			d.far.worker.Sweep(d.one.ctx)
			d.only(d.far, before)
		})
	}
}

// Without the storage a VM is as it was, or rests as it did; deleted or wanted
// otherwise meanwhile, it does not leave.
func TestMovesThatFail(t *testing.T) {
	t.Parallel()
	d := newDrained(t)
	ctx, by, origin, far := d.one.ctx, d.one.by, d.origin, d.far
	away := func() {
		must(t, os.Rename(d.dir, d.dir+"-away"))
		must(t, os.WriteFile(d.dir, nil, 0o600))
	}
	back := func() {
		must(t, os.Remove(d.dir))
		must(t, os.Rename(d.dir+"-away", d.dir))
	}
	vm, _ := d.made("kept", vmm.CreateVM{})
	away()
	d.drain()
	row := d.until(vm.ID, func(vm *domain.VM) bool { return vm.Reason != "" })
	if row.InStorage() || row.WorkerID != origin.worker.ID() {
		t.Errorf("%+v", row)
	}
	back()
	origin.skip(time.Hour)
	d.beat()
	d.left(vm.ID)
	before := d.blobs()

	away()
	_, err := d.StartVM(ctx, by, vm.ID)
	must(t, err)
	row = d.until(vm.ID, func(vm *domain.VM) bool { return vm.Desired == domain.WantStopped })
	if !row.InStorage() || row.Observed != domain.Stopped || row.Tombstone == nil || row.Tombstone.Cause != domain.CauseCreateFault {
		t.Errorf("%+v", row)
	}
	back()
	for _, op := range []fake.Op{fake.OpCreate, fake.OpStart} {
		far.node.FailNext(op, errors.New(errors.NoSpace, "it is full"))
		_, err = d.StartVM(ctx, by, vm.ID)
		must(t, err)
		row = d.until(vm.ID, func(vm *domain.VM) bool { return vm.Desired == domain.WantStopped && vm.Observed == domain.Stopped })
		if !row.InStorage() || !strings.Contains(row.Tombstone.Detail, "full") {
			t.Errorf("%s: %+v", op, row)
		}
		if leaks := far.node.Leaks(); len(leaks) > 0 {
			t.Errorf("%s: %v", op, leaks)
		}
	}
	d.start(far, vm.ID, "kept")

	// Taken back while it is packed, or deleted, or with a machine that is slow to go.
	_, err = d.UncordonWorker(ctx, by, origin.worker.ID().String())
	must(t, err)
	second, _ := d.made("second", vmm.CreateVM{})
	packing, release := origin.node.StopNext(fake.OpPack)
	d.drain()
	<-packing
	_, err = d.UncordonWorker(ctx, by, origin.worker.ID().String())
	must(t, err)
	d.start(origin, second.ID, "second")
	release()
	_, err = d.StopVM(ctx, by, second.ID)
	must(t, err)
	_, err = d.WaitVM(ctx, by, second.ID)
	must(t, err)
	packing, release = origin.node.StopNext(fake.OpPack)
	for {
		d.drain()
		select {
		case <-packing:
		case <-time.After(time.Millisecond):
			continue
		}
		break
	}
	_, err = d.DeleteVM(ctx, by, second.ID)
	must(t, err)
	_, err = d.WaitVM(ctx, by, second.ID)
	must(t, err)
	release()
	d.clean(origin)
	d.only(far, before-1)

	_, err = d.UncordonWorker(ctx, by, origin.worker.ID().String())
	must(t, err)
	third, _ := d.made("third", vmm.CreateVM{})
	origin.node.FailNext(fake.OpDelete, errors.New(errors.Internal, "it is busy"))
	d.drain()
	d.left(third.ID)
	d.beat()
	d.clean(origin)
	d.start(far, third.ID, "third")
}

// Who looks after a VM that rests in the storage may leave as well, and be gone: it
// is deleted, started and ended in time all the same.
func TestKeepersOfVMsInTheStorage(t *testing.T) {
	t.Parallel()
	d := newDrained(t)
	ctx, by, origin, far := d.one.ctx, d.one.by, d.origin, d.far
	first, _ := d.made("first", vmm.CreateVM{})
	ends, _ := d.made("ends", vmm.CreateVM{Timeout: new(time.Hour)})
	gone, _ := d.made("gone", vmm.CreateVM{})
	d.drain()
	for _, vm := range []*domain.VM{first, ends, gone} {
		d.left(vm.ID)
	}
	d.until(ends.ID, func(vm *domain.VM) bool { return vm.DeadlineAck == vm.DeadlineGen }) // its keeper knows
	far.skip(2 * time.Hour)
	_, err := d.PatchVM(ctx, by, ends.ID, vmm.PatchVM{AutoResume: new(false)}) // it looks at its clock
	must(t, err)
	d.until(ends.ID, func(vm *domain.VM) bool { return vm.Observed == domain.Deleted })

	// The keeper is drained, too: there is nothing to be packed.
	_, err = d.UncordonWorker(ctx, by, origin.worker.ID().String())
	must(t, err)
	d.origin, d.far = far, origin
	before := d.blobs()
	d.drain()
	for _, vm := range []*domain.VM{first, gone} {
		d.until(vm.ID, func(vm *domain.VM) bool { return vm.InStorage() && vm.WorkerID == origin.worker.ID() })
	}
	if n := d.blobs(); n != before {
		t.Errorf("%d blobs, %d before", n, before)
	}
	_, err = d.UncordonWorker(ctx, by, far.worker.ID().String())
	must(t, err)

	// The keeper is gone.
	d.origin, d.far = origin, far
	d.lost()
	if vm := d.one.vm(first.ID); vm.UnreachableSince != nil {
		t.Errorf("%+v", vm)
	}
	d.start(far, first.ID, "first")
	_, err = d.DeleteVM(ctx, by, gone.ID)
	must(t, err)
	_, err = d.WaitVM(ctx, by, gone.ID)
	must(t, err)
	d.only(far, 1)
	d.again(origin)
	d.clean(origin)
}

// Where nothing can leave, it is not asked for in vain.
func TestMovesThatAreRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	_, err := f.DrainWorker(f.one.ctx, f.one.by, "other", vmm.DrainWorker{Move: true})
	refused(t, err, errors.Unsupported)
	if w, err := f.GetWorker(f.one.ctx, f.one.by, "other"); err != nil || w.DrainAt != nil {
		t.Errorf("%+v, %v", w, err)
	}
}

// A worker that does not know yet that a VM has left writes nothing of it.
func TestWhatHasLeftIsAnothersAlone(t *testing.T) {
	t.Parallel()
	d := newDrained(t)
	ctx, origin := d.one.ctx, d.origin
	vm, _ := d.made("kept", vmm.CreateVM{Timeout: new(time.Hour)})
	must(t, d.one.store.Update(ctx, func(tx storage.Tx) error { // as by another process of its own
		row, err := tx.VMs().Get(ctx, storage.System, vm.ID)
		if err != nil {
			return err
		}
		row.WorkerID = domain.NewID()
		return tx.VMs().Update(ctx, row)
	}))
	before := d.one.vm(vm.ID)
	origin.worker.Due(ctx, vm.ID)
	origin.skip(2 * time.Hour)
	origin.worker.Due(ctx, vm.ID)
	origin.worker.Wake(ctx, vm.ProjectID, vm.ID)
	origin.worker.Sweep(ctx)
	if after := d.one.vm(vm.ID); after.Revision != before.Revision {
		t.Errorf("%+v", after)
	}
}
