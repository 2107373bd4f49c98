package worker_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
)

// leaves is a fleet for a gateway that something happens to when its snapshot is to be
// made, or was made, or a VM's egress is to be put in force.
type leaves struct {
	*bed
	made   func() error
	asking func()
}

func (l leaves) Node(id domain.ID) (service.Node, error) {
	n, err := l.bed.Node(id)
	return leavesNode{n, l.made, l.asking}, err
}

func (l leaves) Here() service.Node { return nil }

type leavesNode struct {
	service.Node
	made   func() error
	asking func()
}

func (n leavesNode) Snapshot(ctx context.Context, vm *domain.VM, id domain.ID, kind domain.SnapshotKind) (vmm.SnapshotInfo, error) {
	if n.asking != nil {
		n.asking()
	}
	info, err := n.Node.Snapshot(ctx, vm, id, kind)
	if err != nil {
		return info, err
	}
	return info, n.made()
}

func (n leavesNode) ApplyEgress(context.Context, domain.ID) error { return n.made() }

// died calls CreateSnapshot by a gateway that dies.
func (b *bed) died(of leaves, vm domain.ID, name string) *domain.Snapshot {
	b.t.Helper()
	died := make(chan struct{})
	go func() {
		defer close(died)
		_, err := b.serve(of, b.changes).CreateSnapshot(b.ctx, b.by, vm, vmm.CreateSnapshot{Name: name})
		b.t.Errorf("it lives on: %v", err)
	}()
	<-died
	list, err := b.ListSnapshots(b.ctx, b.by, vm, vmm.Page{})
	must(b.t, err)
	if len(list.Items) != 1 {
		b.t.Fatalf("%+v", list.Items)
	}
	return list.Items[0]
}

// A gateway that is killed before it has a snapshot made leaves nothing for ever.
func TestASnapshotThatNobodyWaitsForGoes(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	snap := b.died(leaves{bed: b, asking: runtime.Goexit}, vm.ID, "kept")
	if snap.State != domain.BuildWaiting {
		t.Fatalf("%+v", snap)
	}
	b.worker.Sweep(b.ctx) // it may be about to be written down
	if _, err := b.GetSnapshot(b.ctx, b.by, snap.ID); err != nil {
		t.Fatal(err)
	}
	b.skip(20 * time.Minute)
	b.worker.Sweep(b.ctx)
	if _, err := b.GetSnapshot(b.ctx, b.by, snap.ID); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("its row: %v", err)
	}
	if left := b.disks(); len(left) > 0 {
		t.Errorf("disks %v are left", left)
	}
	_, err := b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "kept"})
	must(t, err)
	b.skip(20 * time.Minute)
	b.worker.Sweep(b.ctx)
	b.running(vmm.CreateVM{Template: "kept"})
}

// A snapshot is one once its worker has made it, whatever becomes of the gateway that
// asked for it.
func TestASnapshotOutlivesItsGateway(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	snap := b.died(leaves{bed: b, made: func() error { runtime.Goexit(); return nil }}, vm.ID, "kept")
	if snap.State != domain.BuildReady {
		t.Fatalf("%+v", snap)
	}
	b.skip(20 * time.Minute)
	b.worker.Sweep(b.ctx)
	b.running(vmm.CreateVM{Template: "kept"})

	// Nor does it end because the caller goes away.
	other := b.running(vmm.CreateVM{})
	reached, release := b.node.StopNext(fake.OpSnapshot)
	ctx, leave := context.WithCancel(b.ctx)
	made := make(chan error, 1)
	node, err := b.Node(other.WorkerID)
	must(t, err)
	row := &domain.Snapshot{
		ID: domain.NewID(), ProjectID: b.by.ProjectID, VMID: other.ID, Name: "left", BuildID: other.Spec.BuildID, Driver: "fake",
		Kind: domain.SnapshotDisk, Spec: other.Spec, WorkerID: other.WorkerID, State: domain.BuildWaiting, CreatedAt: time.Now().UTC(),
	}
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error { return tx.Snapshots().Insert(b.ctx, row) }))
	go func() {
		_, err := node.Snapshot(ctx, other, row.ID, domain.SnapshotDisk)
		made <- err
	}()
	<-reached
	leave()
	release()
	must(t, <-made)
	b.running(vmm.CreateVM{Template: "left"})
}

// The answer that says that a snapshot was made may be lost: it was.
func TestASnapshotWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	cut := errors.New(errors.Unavailable, "the link is cut")
	snap, err := b.serve(leaves{bed: b, made: func() error { return cut }}, b.changes).CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "kept"})
	if err != nil || snap.State != domain.BuildReady {
		t.Fatalf("%+v, %v", snap, err)
	}
	b.running(vmm.CreateVM{Template: "kept"})
}

// A snapshot that was given up while its worker made it leaves no data, storage or not.
func TestASnapshotThatIsGivenUpLeavesNoData(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	reached, release := b.node.StopNext(fake.OpSnapshot)
	made := make(chan error, 1)
	go func() {
		_, err := b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "kept"})
		made <- err
	}()
	<-reached
	list, err := b.ListSnapshots(b.ctx, b.by, vm.ID, vmm.Page{})
	must(t, err)
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error { return tx.Snapshots().Delete(b.ctx, b.by.ProjectID, list.Items[0].ID) }))
	release()
	if err := <-made; !errors.HasCode(err, errors.NotFound) {
		t.Errorf("it was made: %v", err)
	}
	b.worker.Sweep(b.ctx)
	if left := b.disks(); len(left) > 0 {
		t.Errorf("disks %v are left", left)
	}
}

// However long a snapshot takes, it is nobody's to remove while it is being made.
func TestASlowSnapshotStays(t *testing.T) {
	t.Parallel()
	for _, fork := range []bool{false, true} {
		b := newBed(t)
		vm := b.running(vmm.CreateVM{})
		reached, release := b.node.StopNext(fake.OpSnapshot)
		made := make(chan error, 1)
		go func() {
			var err error
			if fork {
				_, err = b.ForkVM(b.ctx, b.by, vm.ID, 1, vmm.CreateVM{})
			} else {
				_, err = b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "slow"})
			}
			made <- err
		}()
		<-reached
		b.skip(time.Hour)
		b.worker.Sweep(b.ctx)
		release()
		if err := <-made; err != nil {
			t.Errorf("fork %v: %v", fork, err)
		}
	}
}

// What is to be shown to a registry for a build that was never written down is forgotten.
func TestALoginThatNobodyUsesGoes(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	node, err := b.Node(b.worker.ID())
	must(t, err)
	must(t, node.KeepLogin(b.ctx, domain.NewID(), vmm.RegistryLogin{Username: "u", Password: "p"}))
	b.worker.Sweep(b.ctx)
	if n := b.worker.Logins(); n != 1 {
		t.Errorf("%d are held while its row may come", n)
	}
	b.skip(20 * time.Minute)
	b.worker.Sweep(b.ctx)
	if n := b.worker.Logins(); n != 0 {
		t.Errorf("%d are held", n)
	}
}
