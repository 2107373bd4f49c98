package worker_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
)

// leaves is a fleet for a gateway that something happens to when its snapshot was made,
// or a VM's egress is to be put in force.
type leaves struct {
	*bed
	made func() error
}

func (l leaves) Node(id domain.ID) (service.Node, error) {
	n, err := l.bed.Node(id)
	return leavesNode{n, l.made}, err
}

func (l leaves) Here() service.Node { return nil }

type leavesNode struct {
	service.Node
	made func() error
}

func (n leavesNode) Snapshot(ctx context.Context, vm *domain.VM, id domain.ID, kind domain.SnapshotKind) (vmm.SnapshotInfo, error) {
	info, err := n.Node.Snapshot(ctx, vm, id, kind)
	if err != nil {
		return info, err
	}
	return info, n.made()
}

func (n leavesNode) ApplyEgress(context.Context, domain.ID) error { return n.made() }

// A gateway that is killed while it has a snapshot made leaves nothing for ever.
func TestASnapshotThatNobodyWaitsForGoes(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	died := make(chan struct{})
	go func() {
		defer close(died)
		_, err := b.serve(leaves{b, func() error { runtime.Goexit(); return nil }}, b.changes).
			CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "kept"})
		t.Errorf("it lives on: %v", err)
	}()
	<-died
	list, err := b.ListSnapshots(b.ctx, b.by, vm.ID, vmm.Page{})
	must(t, err)
	if len(list.Items) != 1 || list.Items[0].State != domain.BuildWaiting || len(b.disks()) != 1 {
		t.Fatalf("%+v, disks %v", list.Items, b.disks())
	}
	b.worker.Sweep(b.ctx) // it may be about to be written down
	if _, err := b.GetSnapshot(b.ctx, b.by, list.Items[0].ID); err != nil {
		t.Fatal(err)
	}
	b.skip(20 * time.Minute)
	b.worker.Sweep(b.ctx)
	if _, err := b.GetSnapshot(b.ctx, b.by, list.Items[0].ID); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("its row: %v", err)
	}
	if left := b.disks(); len(left) > 0 {
		t.Errorf("disks %v are left", left)
	}
	_, err = b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "kept"})
	must(t, err)
	b.skip(20 * time.Minute)
	b.worker.Sweep(b.ctx)
	b.running(vmm.CreateVM{Template: "kept"})
}

// A snapshot whose gateway was told that it failed leaves no data, storage or not.
func TestASnapshotThatFailedOnTheWayBackLeavesNoData(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	cut := errors.New(errors.Unavailable, "the link is cut")
	_, err := b.serve(leaves{b, func() error { return cut }}, b.changes).CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "kept"})
	if !errors.Is(err, cut) || len(b.disks()) != 1 {
		t.Fatalf("%v, disks %v", err, b.disks())
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
