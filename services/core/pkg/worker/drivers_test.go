package worker_test

import (
	"context"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// slow is a driver whose trial takes until it is allowed to end.
type slow struct {
	*fake.Driver
	allowed <-chan struct{}
}

func (s slow) Info(ctx context.Context) domain.DriverInfo {
	info := s.Driver.Info(ctx)
	info.Name, info.Isolation = "qemu", domain.IsolationMicroVM
	select {
	case <-s.allowed:
	case <-ctx.Done():
		info.Usable, info.Reason = false, "cut short"
	}
	return info
}

// awaitDriver waits until the worker's row says something of a driver.
func (b *bed) awaitDriver(name string, is func(domain.DriverInfo) bool) {
	b.t.Helper()
	for b.ctx.Err() == nil {
		var row *domain.Worker
		must(b.t, b.store.View(b.ctx, func(tx storage.Tx) (err error) { row, err = tx.Workers().ByName(b.ctx, "node"); return err }))
		for _, d := range row.Drivers {
			if d.Name == name && is(d) {
				return
			}
		}
	}
	b.t.Fatalf("the worker's row never said it of %s", name)
}

// A driver that takes long to try out keeps nothing waiting.
func TestALateDriver(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.down()
	allowed := make(chan struct{})
	node := fake.NewNode(t.TempDir())
	t.Cleanup(func() { must(t, node.Close()) })
	b.config.Late = []string{"qemu"}
	b.deps = func(d *worker.Deps) { d.Drivers["qemu"] = slow{fake.New(node), allowed} }
	b.up()
	b.running(vmm.CreateVM{})
	_, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Driver: "qemu"})
	if !errors.HasCode(err, errors.Unsupported) || !strings.Contains(err.Error(), "tried out") {
		t.Errorf("while it is tried out: %v", err)
	}
	// A worker that ends meanwhile does not take the trial's end for its result.
	b.down()
	b.up()
	close(allowed)
	b.awaitDriver("qemu", func(d domain.DriverInfo) bool { return d.Usable })
	vm := b.running(vmm.CreateVM{MinIsolation: domain.IsolationMicroVM})
	if vm.Spec.Driver != "qemu" || vm.Isolation != domain.IsolationMicroVM {
		t.Errorf("%+v", vm)
	}
	// What was found out counts at the next start, until it is found out again.
	b.down()
	never := make(chan struct{})
	b.deps = func(d *worker.Deps) { d.Drivers["qemu"] = slow{fake.New(node), never} }
	b.up()
	if out, _ := b.sh(vm.ID, "echo on"); out != "on\n" {
		t.Errorf("%q", out)
	}
	b.running(vmm.CreateVM{Driver: "qemu"})
	// But not why it could not be used: that may have been mended since.
	b.deps = func(d *worker.Deps) {
		delete(d.Drivers, "qemu")
		d.Absent = []domain.DriverInfo{{Name: "qemu", Reason: "there is no kernel", Capabilities: []string{}}}
	}
	b.down()
	b.up()
	b.deps = func(d *worker.Deps) { d.Drivers["qemu"] = slow{fake.New(node), never} }
	b.down()
	b.up()
	_, err = b.CreateVM(b.ctx, b.by, vmm.CreateVM{Driver: "qemu"})
	if !errors.HasCode(err, errors.Unsupported) || !strings.Contains(err.Error(), "tried out") {
		t.Errorf("once it can be opened: %v", err)
	}
}

// A driver that cannot be opened keeps its VMs, as they were, for when it can.
func TestAnAbsentDriver(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.down()
	node := fake.NewNode(t.TempDir())
	t.Cleanup(func() { must(t, node.Close()) })
	allowed := make(chan struct{})
	close(allowed)
	with := func(d *worker.Deps) { d.Drivers["qemu"] = slow{fake.New(node), allowed} }
	b.deps = with
	b.up()
	vm := b.running(vmm.CreateVM{Driver: "qemu"})
	b.down()
	b.deps = func(d *worker.Deps) {
		d.Absent = []domain.DriverInfo{{Name: "qemu", Isolation: domain.IsolationMicroVM, Reason: "its engine is away", Capabilities: []string{}}}
	}
	b.up()
	if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Driver: "qemu"}); !errors.HasCode(err, errors.Unsupported) || !strings.Contains(err.Error(), "away") {
		t.Errorf("creating: %v", err)
	}
	if err := b.worker.Drain(b.ctx, "shutdown"); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("ending what cannot be ended: %v", err)
	}
	if row, err := b.GetVM(b.ctx, b.by, vm.ID); err != nil || row.Observed != domain.Running {
		t.Errorf("%+v, %v", row, err)
	}
	b.down()
	b.deps = with
	b.up()
	if out, _ := b.sh(vm.ID, "echo back"); out != "back\n" {
		t.Errorf("%q", out)
	}
}
