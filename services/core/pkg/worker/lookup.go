package worker

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

func (w *Worker) loadBuild(ctx context.Context, id domain.ID) (*domain.Build, error) {
	var b *domain.Build
	err := w.Store.Read(ctx, func(tx storage.Tx) (err error) {
		b, err = tx.Builds().Get(ctx, storage.System, id)
		return err
	})
	return b, err
}

// buildOf is loadBuild for what a VM is made from, which is there as long as the
// VM is. The value is not to be changed, and is without its source.
func (w *Worker) buildOf(ctx context.Context, id domain.ID) (*domain.Build, error) {
	if b := w.builds.remembered(id); b != nil {
		return b, nil
	}
	b, err := w.loadBuild(ctx, id)
	if err == nil && b.State == domain.BuildReady {
		w.builds.remember(b)
	}
	return b, err
}

func (w *Worker) loadMachine(ctx context.Context, id domain.ID) (*domain.Machine, error) {
	var m *domain.Machine
	err := w.Store.Read(ctx, func(tx storage.Tx) (err error) {
		m, err = tx.Machines().Get(ctx, id)
		return err
	})
	return m, err
}

// dropBuild removes a build's row; Conflict while something uses it.
func (w *Worker) dropBuild(ctx context.Context, b *domain.Build) error {
	return w.Store.Update(ctx, func(tx storage.Tx) error { return tx.Builds().Delete(ctx, b.ProjectID, b.ID) })
}

// spec says what a VM's machine is made from.
func (w *Worker) spec(ctx context.Context, vm *domain.VM) (vmm.Spec, error) {
	spec, err := w.shape(ctx, vm)
	if err == nil {
		err = w.fetchDisk(ctx, vm)
	}
	if err != nil {
		return vmm.Spec{}, err
	}
	spec.DiskFrom = string(diskOf(vm))
	if vm.StoredID != "" {
		return spec, nil // what it was first made from is in its disk, and its memory is given up
	}
	if vm.Spec.Memory && vm.Spec.SnapshotID != "" {
		snap, err := w.loadSnapshot(ctx, vm.ProjectID, vm.Spec.SnapshotID)
		if err != nil {
			return spec, err
		}
		// The service has looked; the driver may be another one since.
		w.lookAgain(ctx, vm.Spec.Driver)
		if now := w.info(vm.Spec.Driver).Version; now != snap.DriverVersion {
			return spec, service.OtherVersion(snap.Driver, snap.DriverVersion, now)
		}
		spec.Memory = true
	}
	if vm.Spec.Memory && vm.Spec.SnapshotID == "" {
		if err := w.fromBuildMemory(ctx, vm.Spec.Driver, domain.Shape{Resources: vm.Spec.Resources, Network: vm.Spec.Network}, &spec); err != nil {
			// It has been said that it would; but what is the same to its owner in the end helps more.
			w.Log.Warn("a VM is started anew that was to go on from its template's memory", "vm", vm.ID, "why", err)
		}
	}
	return spec, nil
}

// shape says what a VM's machine is, but for its disk and its tools.
func (w *Worker) shape(ctx context.Context, vm *domain.VM) (vmm.Spec, error) {
	r, err := w.rootFS(ctx, vm.Spec.BuildID)
	if err != nil {
		return vmm.Spec{}, err
	}
	spec := vmm.Spec{
		RootFS: r.RootFS, BuildID: string(vm.Spec.BuildID),
		Resources: vm.Spec.Resources, Network: vm.Spec.Network, Hostname: vm.Spec.Hostname, Platform: vm.Spec.Platform,
	}
	spec.Mounts, err = w.volumeMounts(ctx, vm)
	return spec, err
}

// dropForkSnapshot removes the frozen disk that forks were made from once all
// of them have disks of their own. A snapshot that a user made stays.
func (w *Worker) dropForkSnapshot(ctx context.Context, project, id domain.ID) {
	if id == "" {
		return
	}
	var snap *domain.Snapshot
	err := w.Store.Update(ctx, func(tx storage.Tx) (err error) {
		if snap, err = tx.Snapshots().Get(ctx, project, id); err != nil || !snap.Ephemeral {
			return err
		}
		return tx.Snapshots().Delete(ctx, project, id)
	})
	switch {
	case errors.HasCode(err, errors.NotFound), errors.HasCode(err, errors.Conflict):
		return // gone already, or another fork is being made from it
	case err != nil:
		w.Log.Warn("fork snapshot not removed", "snapshot", id, "error", err)
	case snap.Ephemeral:
		if err := w.DeleteSnapshot(ctx, snap); err != nil {
			w.Log.Warn("fork snapshot's data not removed; the next start does", "snapshot", id, "error", err)
		}
	}
}

// Drivers implements service.Node.
func (w *Worker) Drivers(context.Context) ([]domain.DriverInfo, error) { return w.offers.all(), nil }

// Live implements service.Node.
func (w *Worker) Live(id domain.ID) (*domain.VM, bool) {
	l := w.vms.find(id)
	if l == nil || l.suspended.Load() {
		return nil, false
	}
	vm := l.row()
	return vm, vm.Observed == domain.Running && vm.Desired == domain.WantRunning
}

// Trace implements service.Node.
func (w *Worker) Trace(_ context.Context, id domain.ID) ([]vmm.Phase, error) {
	if l := w.vms.find(id); l != nil {
		if p := l.phases.Load(); p != nil {
			return *p, nil
		}
	}
	return nil, nil
}

// Usage implements service.Node.
func (w *Worker) Usage(ctx context.Context, vm *domain.VM) (vmm.Usage, error) {
	d, err := w.driver(vm.Spec.Driver)
	if err != nil {
		return vmm.Usage{}, err
	}
	m, ok := d.(vmm.Meter)
	if !ok {
		return vmm.Usage{}, errors.New(errors.Unsupported, "the driver %s does not measure", vm.Spec.Driver)
	}
	return m.Usage(ctx, string(vm.MachineID))
}
