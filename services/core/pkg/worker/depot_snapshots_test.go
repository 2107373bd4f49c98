package worker_test

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/blob"
	"github.com/aetherium/aetherium/services/core/pkg/depot"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// shared is a depot that counts what is fetched, and can have its calls not come back.
type shared struct {
	*depot.Depot
	sent                       chan error // how each call ended
	fetched                    atomic.Int32
	holdSent, holdGet, holdGot atomic.Pointer[held]
}

// held tells that a call was made. It comes back when its context ends.
type held struct{ done chan struct{} }

func hold(at *atomic.Pointer[held]) <-chan struct{} {
	h := &held{make(chan struct{})}
	at.Store(h)
	return h.done
}

func (h *held) wait(ctx context.Context) {
	if h != nil {
		close(h.done)
		<-ctx.Done()
	}
}

func (s *shared) SendSnapshot(ctx context.Context, snap *domain.Snapshot, pack func(io.Writer) error) (domain.Packed, error) {
	p, err := s.Depot.SendSnapshot(ctx, snap, pack)
	s.holdSent.Swap(nil).wait(ctx)
	select {
	case s.sent <- err:
	default: // nobody looks
	}
	return p, err
}

func (s *shared) FetchSnapshot(ctx context.Context, snap *domain.Snapshot, unpack func(io.Reader) error) error {
	s.fetched.Add(1)
	if h := s.holdGet.Swap(nil); h != nil {
		h.wait(ctx)
		return ctx.Err()
	}
	err := s.Depot.FetchSnapshot(ctx, snap, unpack)
	s.holdGot.Swap(nil).wait(ctx)
	return err
}

// depots is two workers over one storage, with a template that both can have.
type depots struct {
	*fleet
	dir    string
	depot  map[*bed]*shared
	origin *bed // that has built the template
	far    *bed
}

func newDepots(t *testing.T) *depots {
	t.Helper()
	f := newFleet(t)
	d := &depots{fleet: f, dir: filepath.Join(t.TempDir(), "shared"), depot: map[*bed]*shared{}}
	for _, b := range []*bed{f.one, f.other} {
		blobs, err := blob.OpenDir(d.dir)
		must(t, err)
		d.depot[b] = &shared{Depot: depot.New(blobs, &packing{images: b.images}, t.TempDir()), sent: make(chan error, 16)}
		f.cut(b)
		b.down()
		before := b.deps
		b.deps = func(deps *worker.Deps) { before(deps); deps.Depot = d.depot[b] }
		f.again(b)
	}
	f.one.template("shared", "/")
	info, err := f.GetTemplate(f.one.ctx, f.one.by, "shared")
	must(t, err)
	d.origin, d.far = f.one, f.other
	if info.Builds[0].WorkerID == d.far.worker.ID() {
		d.origin, d.far = d.far, d.origin
	}
	return d
}

// blobs counts those in the storage.
func (d *depots) blobs() (n int) {
	d.one.t.Helper()
	must(d.one.t, filepath.WalkDir(d.dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return err
	}))
	return n
}

// kept is a snapshot of a new VM on the origin, with a file in it.
func (d *depots) kept(name string) *domain.Snapshot {
	d.one.t.Helper()
	vm := d.origin.running(vmm.CreateVM{Template: "shared"})
	if vm.WorkerID != d.origin.worker.ID() {
		d.one.t.Fatalf("a VM is on %s", vm.WorkerID)
	}
	d.origin.sh(vm.ID, "echo "+name+" > file")
	snap, err := d.CreateSnapshot(d.one.ctx, d.one.by, vm.ID, vmm.CreateSnapshot{Name: name})
	must(d.one.t, err)
	return snap
}

func (d *depots) stored(b *bed, snap *domain.Snapshot) *domain.Packed {
	d.one.t.Helper()
	p, err := b.worker.AwaitStored(d.one.ctx, snap.ID)
	must(d.one.t, err)
	return p
}

// has checks that a VM of a snapshot on a worker has its file.
func (d *depots) has(b *bed, vm *domain.VM, name string) {
	d.one.t.Helper()
	if vm.WorkerID != b.worker.ID() {
		d.one.t.Errorf("the VM is on %s", vm.WorkerID)
	}
	if out, x := b.sh(vm.ID, "cat file"); out != name+"\n" || x.State != domain.ExecutionExited {
		d.one.t.Errorf("%q, %s", out, x.State)
	}
}

// lost has the origin's process die and be taken for away.
func (d *depots) lost() {
	d.one.t.Helper()
	d.crash(d.origin)
	d.silent(d.far)
}

func (b *bed) disks() []string {
	b.t.Helper()
	ids, err := b.node.Snapshots()
	must(b.t, err)
	return ids
}

// A snapshot outlives its worker, is fetched once, and goes everywhere when it is
// deleted.
func TestSnapshotsGoToOtherWorkers(t *testing.T) {
	t.Parallel()
	d := newDepots(t)
	ctx, origin, far := d.one.ctx, d.origin, d.far
	snap := d.kept("kept")
	p := d.stored(origin, snap)
	if p.Store != d.depot[origin].Name() || p.Bytes == 0 || d.blobs() != 2 {
		t.Errorf("%+v, %d blobs", p, d.blobs())
	}
	from := vmm.CreateVM{Template: "kept"}
	d.has(origin, origin.running(from), "kept") // though the other has more memory left

	d.lost()
	vms := make([]*domain.VM, 4)
	var all sync.WaitGroup
	for i := range vms {
		all.Go(func() { vms[i] = far.running(from) })
	}
	all.Wait()
	for _, vm := range vms {
		d.has(far, vm, "kept")
	}
	if n := d.depot[far].fetched.Load(); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
	var copies []domain.ID
	must(t, d.one.store.View(ctx, func(tx storage.Tx) (err error) {
		copies, err = tx.Snapshots().Copies(ctx, snap)
		return err
	}))
	if !slices.Equal(copies, []domain.ID{far.worker.ID()}) {
		t.Errorf("copies are at %v", copies)
	}

	// Deleted while its worker is away, it is gone there when that is back.
	must(t, d.DeleteSnapshot(ctx, d.one.by, snap.ID))
	if d.blobs() != 1 || len(far.disks()) > 0 {
		t.Errorf("%d blobs, %v on the other worker", d.blobs(), far.disks())
	}
	d.again(origin)
	if left := origin.disks(); len(left) > 0 {
		t.Errorf("%v on its worker", left)
	}
	d.has(far, vms[0], "kept")
	_, err := d.CreateVM(ctx, d.one.by, from)
	refused(t, err, errors.NotFound)
}

// What has no row is removed by the sweeps, and what has one stays.
func TestSnapshotsThatAreLeft(t *testing.T) {
	t.Parallel()
	d := newDepots(t)
	ctx, origin, far := d.one.ctx, d.origin, d.far
	snap, gone := d.kept("kept"), d.kept("gone")
	d.stored(origin, snap)
	d.stored(origin, gone)
	for _, name := range []string{"kept", "gone"} {
		d.depot[origin].fetched.Store(0)
		must(t, d.one.store.Update(ctx, func(tx storage.Tx) error { return cordon(ctx, tx, origin.worker.ID(), true) }))
		d.has(far, far.running(vmm.CreateVM{Template: name}), name)
	}
	must(t, d.one.store.Update(ctx, func(tx storage.Tx) error { // as a gateway that dies at once
		return tx.Snapshots().Delete(ctx, d.one.by.ProjectID, gone.ID)
	}))
	origin.worker.Sweep(ctx)
	far.worker.Sweep(ctx)
	for _, b := range []*bed{origin, far} {
		if ids := b.disks(); !slices.Equal(ids, []string{snap.ID.String()}) {
			t.Errorf("on %s there are %v", b.config.Name, ids)
		}
	}
	if n := d.blobs(); n != 3 {
		t.Errorf("%d blobs: what is new is not known to be used", n)
	}
	far.skip(25 * time.Hour)
	far.worker.Sweep(ctx)
	if n := d.blobs(); n != 2 {
		t.Errorf("%d blobs", n)
	}
	must(t, d.one.store.Update(ctx, func(tx storage.Tx) error { return cordon(ctx, tx, origin.worker.ID(), false) }))
	d.has(origin, origin.running(vmm.CreateVM{Template: "kept"}), "kept")
}

func cordon(ctx context.Context, tx storage.Tx, id domain.ID, yes bool) error {
	w, err := tx.Workers().Get(ctx, id)
	if err != nil {
		return err
	}
	w.Cordoned = yes
	w.State = w.Standing()
	return tx.Workers().Update(ctx, w)
}

// Killed at any point, a worker stores what it has not, and a VM that waits for a
// snapshot is made when its worker is back.
func TestSnapshotsThatACrashInterrupts(t *testing.T) {
	t.Parallel()
	d := newDepots(t)
	ctx, origin, far := d.one.ctx, d.origin, d.far
	packing, _ := origin.node.StopNext(fake.OpPack)
	snap := d.kept("packing")
	<-packing
	d.crash(origin)
	d.again(origin)
	d.stored(origin, snap)

	sent := hold(&d.depot[origin].holdSent)
	snap = d.kept("sent")
	<-sent
	d.crash(origin)
	before := d.blobs()
	d.again(origin)
	d.stored(origin, snap)
	if n := d.blobs(); n != before+1 {
		t.Errorf("%d blobs, %d before", n, before)
	}

	d.lost()
	create := func(name string) *domain.VM {
		t.Helper()
		vm, err := d.CreateVM(ctx, d.one.by, vmm.CreateVM{Template: name})
		must(t, err)
		return vm
	}
	again := func(vm *domain.VM, name string) {
		t.Helper()
		d.crash(far)
		d.again(far)
		vm, err := d.WaitVM(ctx, d.one.by, vm.ID)
		must(t, err)
		d.has(far, vm, name)
	}
	unpacking, _ := far.node.StopNext(fake.OpUnpack)
	vm := create("packing")
	<-unpacking
	again(vm, "packing")
	got := hold(&d.depot[far].holdGot)
	vm = create("sent")
	<-got
	again(vm, "sent")
	if n := d.depot[far].fetched.Load(); n != 3 {
		t.Errorf("there were %d fetches", n)
	}
	far.skip(25 * time.Hour)
	far.worker.Sweep(ctx)
	if n := d.blobs(); n != before {
		t.Errorf("%d blobs, %d before", n, before)
	}
}

// Without the storage a snapshot is as good as it would be with none, and goes
// there later; one that is deleted meanwhile leaves nothing.
func TestSnapshotsWithoutTheStorage(t *testing.T) {
	t.Parallel()
	d := newDepots(t)
	ctx, origin, far := d.one.ctx, d.origin, d.far
	must(t, os.Rename(d.dir, d.dir+"-away"))
	must(t, os.WriteFile(d.dir, nil, 0o600))
	snap := d.kept("kept")
	refused(t, <-d.depot[origin].sent, errors.Unavailable)
	d.has(origin, origin.running(vmm.CreateVM{Template: "kept"}), "kept")

	packing, release := origin.node.StopNext(fake.OpPack)
	origin.skip(time.Hour)
	origin.worker.Sweep(ctx)
	<-packing
	must(t, os.Remove(d.dir))
	must(t, os.Rename(d.dir+"-away", d.dir))
	release()
	d.stored(origin, snap)

	packing, release = origin.node.StopNext(fake.OpPack)
	gone := d.kept("gone")
	<-packing
	must(t, d.DeleteSnapshot(ctx, d.one.by, gone.ID))
	release()
	last := d.kept("last") // stored after it, as they are one at a time
	d.stored(origin, last)
	if n := d.blobs(); n != 3 {
		t.Errorf("%d blobs", n)
	}

	// What its driver refuses is not asked for all the time.
	origin.node.FailNext(fake.OpPack, errors.New(errors.TooLarge, "it has too many files"))
	large := d.kept("large")
	for _, name := range []string{"second", "third", "fourth"} { // by the next, all were looked at
		d.stored(origin, d.kept(name))
		origin.skip(time.Hour)
	}
	if n := d.blobs(); n != 6 {
		t.Errorf("%d blobs", n)
	}
	origin.skip(24 * time.Hour)
	origin.worker.Sweep(ctx)
	d.stored(origin, large)

	// What cannot be fetched is said.
	d.lost()
	must(t, os.RemoveAll(d.dir))
	must(t, os.WriteFile(d.dir, nil, 0o600))
	vm, err := d.CreateVM(ctx, d.one.by, vmm.CreateVM{Template: "kept"})
	if err == nil {
		_, err = d.WaitVM(ctx, d.one.by, vm.ID)
	}
	refused(t, err, errors.Conflict)
	if ids := far.disks(); len(ids) > 0 {
		t.Errorf("%v are half there", ids)
	}
}

// What is wanted meanwhile ends a fetch, and so does the end of the worker. The VM
// has not failed by that.
func TestAFetchThatIsInterrupted(t *testing.T) {
	t.Parallel()
	for name, interrupt := range map[string]func(d *depots, vm *domain.VM){
		"by a wish": func(d *depots, vm *domain.VM) {
			_, err := d.PauseVM(d.one.ctx, d.one.by, vm.ID, "")
			must(d.one.t, err)
		},
		"by the worker's end": func(d *depots, _ *domain.VM) {
			d.cut(d.far)
			d.far.down()
			d.again(d.far)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDepots(t)
			ctx, by := d.one.ctx, d.one.by
			d.stored(d.origin, d.kept("kept"))
			d.lost()
			got := hold(&d.depot[d.far].holdGet)
			vm, err := d.CreateVM(ctx, by, vmm.CreateVM{Template: "kept"})
			must(t, err)
			<-got
			interrupt(d, vm)
			vm, err = d.WaitVM(ctx, by, vm.ID)
			must(t, err)
			if vm.Observed != domain.Running && vm.Observed != domain.Paused {
				t.Fatalf("%+v", vm)
			}
			_, err = d.ResumeVM(ctx, by, vm.ID)
			must(t, err)
			vm, err = d.WaitVM(ctx, by, vm.ID)
			must(t, err)
			d.has(d.far, vm, "kept")
		})
	}
}
