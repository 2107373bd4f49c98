package service

import (
	"context"
	"slices"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// capForkMemory names a driver's power to make machines go on from a memory snapshot.
const capForkMemory = "fork:memory"

// capCarry names a driver's power to take the disks of snapshots to other workers.
const capCarry = "carry"

// driverOf is what a VM's driver on its worker says of itself.
func driverOf(ctx context.Context, tx storage.Tx, vm *domain.VM) (domain.DriverInfo, error) {
	w, err := tx.Workers().Get(ctx, vm.WorkerID)
	if err != nil {
		return domain.DriverInfo{}, err
	}
	return infoOf(w, vm.Spec.Driver), nil
}

// infoOf is the zero value for a driver that the worker does not have.
func infoOf(w *domain.Worker, driver string) domain.DriverInfo {
	for _, d := range w.Drivers {
		if d.Name == driver {
			return d
		}
	}
	return domain.DriverInfo{Name: driver}
}

func can(d domain.DriverInfo, capability string) bool {
	return slices.Contains(d.Capabilities, capability)
}

// maySnapshot checks a kind against the driver and what the VM is doing.
func maySnapshot(d domain.DriverInfo, vm *domain.VM, kind domain.SnapshotKind) error {
	if kind != domain.SnapshotMemory {
		return nil // the driver says
	}
	if !can(d, "snapshot:"+string(kind)) {
		return errors.New(errors.Unsupported, "the driver %s keeps no memory in snapshots", vm.Spec.Driver).WithField("kind").
			WithHint("a snapshot of kind disk keeps its files")
	}
	if !hasMemory(vm) {
		return errors.New(errors.Conflict, "the VM is %s: it has no memory to keep", stateOf(vm)).WithField("kind").
			WithHint("start or resume it, or make a snapshot of kind disk")
	}
	return nil
}

// hasMemory reports whether vm runs, or has its memory saved.
func hasMemory(vm *domain.VM) bool {
	return vm.Observed == domain.Running || vm.Observed == domain.Paused && vm.PauseMode == domain.PauseMemory
}

func stateOf(vm *domain.VM) string {
	if vm.Observed == domain.Paused && vm.PauseMode == domain.PauseFreeze {
		return "frozen"
	}
	return string(vm.Observed)
}

// forkKind decides what forks of a VM go on from.
func (s *Service) forkKind(ctx context.Context, origin *domain.VM, req vmm.CreateVM) (kind domain.SnapshotKind, err error) {
	if req.Memory != nil && !*req.Memory {
		return domain.SnapshotDisk, nil
	}
	var info domain.DriverInfo
	err = s.store.View(ctx, func(tx storage.Tx) (err error) {
		info, err = driverOf(ctx, tx, origin)
		return err
	})
	if err != nil {
		return "", err
	}
	if req.Memory == nil && (!can(info, capForkMemory) || !hasMemory(origin)) {
		return domain.SnapshotDisk, nil
	}
	if !can(info, capForkMemory) {
		return "", noMemory("the driver %s cannot fork memory", origin.Spec.Driver)
	}
	if err := maySnapshot(info, origin, domain.SnapshotMemory); err != nil {
		return "", err
	}
	return domain.SnapshotMemory, sameShape(req, origin.Spec, req.Network)
}

// noMemory refuses to go on from memory.
func noMemory(format string, args ...any) *errors.Error {
	return errors.New(errors.Unsupported, format, args...).WithField("memory").
		WithHint("with memory false it is made from the disk alone, and started anew")
}

// sameShape refuses what a machine that goes on from memory cannot be given:
// its processors, its memory and its devices are those it has.
func sameShape(req vmm.CreateVM, origin domain.VMSpec, network domain.NetworkMode) error {
	const why = "a VM that goes on from memory has the %s of its origin"
	for _, c := range []struct {
		what, field string
		other       bool
	}{
		{"resources", "resources", req.Resources.Or(origin.Resources) != origin.Resources},
		{"network", "network", network != "" && network != origin.Network},
		{"tools", "tools", moreTools(req.Tools, origin.Tools)},
	} {
		if c.other {
			return errors.New(errors.InvalidArgument, why, c.what).WithField(c.field).
				WithHint("leave it out, or ask for memory false: then it is made from the disk alone, and started anew")
		}
	}
	return nil
}

// moreTools reports whether tools are asked for that an origin has not.
func moreTools(asked, has []string) bool {
	merged, err := domain.MergeTools("tools", has, asked)
	return err == nil && !slices.Equal(slices.Sorted(slices.Values(merged)), slices.Sorted(slices.Values(has)))
}

// fromMemory decides whether vm goes on from a snapshot's memory, on the
// snapshot's worker, and refuses where it is asked for and cannot.
func fromMemory(ctx context.Context, tx storage.Tx, req vmm.CreateVM, snap *domain.Snapshot, network domain.NetworkMode) (bool, error) {
	if req.Memory != nil && !*req.Memory {
		return false, nil
	}
	if snap.Kind != domain.SnapshotMemory {
		if req.Memory != nil {
			return false, noMemory("the snapshot is of kind %s: it has no memory", snap.Kind)
		}
		return false, nil
	}
	w, err := tx.Workers().Get(ctx, snap.WorkerID)
	if errors.HasCode(err, errors.NotFound) {
		return false, noMemory("the worker that has the snapshot's memory is gone")
	}
	if err != nil {
		return false, err
	}
	d := infoOf(w, snap.Driver)
	switch {
	case !d.Usable:
		return false, nil // place says why
	case !can(d, capForkMemory):
		return false, noMemory("the driver %s cannot go on from a snapshot's memory", snap.Driver)
	case d.Version != snap.DriverVersion:
		return false, OtherVersion(snap.Driver, snap.DriverVersion, d.Version)
	}
	return true, sameShape(req, snap.Spec, network)
}

// OtherVersion is why a memory cannot be restored by a driver that is not what
// it was when the memory was saved.
func OtherVersion(driver, saved, now string) error {
	return noMemory("the memory was saved by %s %s, and this is %s", driver, saved, now)
}

// FitsMemory says why a machine of a driver and a shape cannot go on from a
// build's memory. Returns Unsupported.
func FitsMemory(b *domain.Build, d domain.DriverInfo, shape domain.Shape) error {
	m := b.Memory()
	switch {
	case m == nil:
		return noMemory("the template has no memory").WithHint("`aetherium template build --memory` makes one that has")
	case m.Driver != d.Name:
		return noMemory("the template's memory is one of the driver %s", m.Driver)
	case !can(d, capForkMemory):
		return noMemory("the driver %s cannot go on from memory", m.Driver)
	case m.DriverVersion != d.Version:
		return OtherVersion(m.Driver, m.DriverVersion, d.Version)
	case m.Shape == nil || *m.Shape != shape:
		return noMemory("the template's memory is one of a VM of another shape").
			WithHint("it has the template's own resources, and network %s", b.Warm.Network)
	}
	return nil
}
