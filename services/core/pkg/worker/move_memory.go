package worker

import (
	"context"
	"io"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// storedMemory is where a VM rests that goes on from what it had in its memory; nil:
// it does not.
func (w *Worker) storedMemory(ctx context.Context, vm *domain.VM) (*domain.Snapshot, error) {
	if vm.StoredID == "" {
		return nil, nil
	}
	s, err := w.loadSnapshot(ctx, vm.ProjectID, vm.StoredID)
	if err != nil || s.Kind != domain.SnapshotMemory {
		return nil, err
	}
	return s, nil
}

// takeIn has a VM that rests in the storage with its memory here, paused as it was.
// It goes on by the next step, like any other that is paused: whoever is killed, what
// it had in its memory is in the storage still, or is used once.
func (w *Worker) takeIn(ctx context.Context, vm *domain.VM, driver vmm.Driver, stored *domain.Snapshot) error {
	spec, err := w.shape(ctx, vm)
	c, ok := driver.(vmm.MemoryCarrier)
	if err == nil && (!ok || w.Depot == nil) {
		err = errors.New(errors.Unsupported, "this worker takes no memory out of a storage")
	}
	if err != nil {
		return w.notTakenIn(ctx, vm, driver, err)
	}
	if vm, _, err = w.intend(ctx, vm, vm.Spec.Tools, nil, false); err != nil {
		return err
	}
	spec.MachineID = string(vm.MachineID)
	spec.Mounts = append(w.toolMounts(vm), spec.Mounts...)
	w.machines.set(vm.MachineID, vm.Spec.Driver, lifecycle.MachineBroken)
	begun := w.Now()
	err = w.Depot.FetchSnapshot(ctx, stored, func(from io.Reader) error { return c.UnpackMemory(ctx, spec, from) })
	if err != nil {
		return w.notTakenIn(ctx, vm, driver, err)
	}
	w.machines.set(vm.MachineID, vm.Spec.Driver, lifecycle.MachinePaused)
	w.machines.sleeps(vm.MachineID, true)
	w.Log.Info("a VM was taken out of the storage with its memory", "vm", vm.ID, "bytes", stored.Packed.Bytes, "took", w.Now().Sub(begun))
	err = w.arrived(ctx, vm)
	if errors.HasCode(err, errors.Conflict) { // it was taken back meanwhile: this is nobody's machine
		err = errors.Join(err, w.discard(ctx, vm.MachineID, driver))
	}
	return err
}

// arrived writes that a VM is here, paused, and no longer in the storage.
// Returns Conflict where it is to be somewhere else.
func (w *Worker) arrived(ctx context.Context, vm *domain.VM) error {
	var stored domain.ID
	row, err := w.commit(ctx, vm.ID, events.VMUpdated, func(_ storage.Tx, row *domain.VM) error {
		if row.MachineID != vm.MachineID {
			return errMoved(vm.ID)
		}
		stored, row.StoredID = row.StoredID, ""
		row.Observed, row.PauseMode = domain.Paused, domain.PauseMemory
		return nil
	})
	if err != nil {
		return err
	}
	w.dropStored(context.WithoutCancel(ctx), row.ProjectID, stored)
	return nil
}

// notTakenIn leaves a VM that could not be taken out of the storage where it rests,
// with what it had in its memory: its next start may be on another worker.
func (w *Worker) notTakenIn(ctx context.Context, vm *domain.VM, driver vmm.Driver, why error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if isAway(why) {
		return why
	}
	if err := w.discard(ctx, vm.MachineID, driver); err != nil {
		return errors.Join(why, err)
	}
	w.Log.Error("VM not resumed", "vm", vm.ID, "error", why)
	_, err := w.commit(ctx, vm.ID, events.VMPaused, func(tx storage.Tx, row *domain.VM) error {
		if row.MachineID != vm.MachineID {
			return errMoved(vm.ID)
		}
		if row.MachineID != "" {
			if err := tx.Machines().Delete(ctx, row.MachineID); err != nil {
				return err
			}
		}
		row.MachineID, row.Observed, row.PauseMode = "", domain.Paused, domain.PauseMemory
		row.Reason = "it could not be resumed: " + errors.Public(why).Message
		if row.Desired == domain.WantRunning && row.Generation == vm.Generation { // a newer wish is tried anew
			row.Desired = domain.WantPaused
			row.Generation++
		}
		return nil
	})
	return err
}

// giveUp gives up what a VM that rests in the storage had in its memory.
func (w *Worker) giveUp(ctx context.Context, vm *domain.VM) error {
	_, err := w.commitEnd(ctx, vm, events.VMStopped, "the VM was stopped", func(tx storage.Tx, row *domain.VM) error {
		stored, err := tx.Snapshots().Get(ctx, row.ProjectID, row.StoredID)
		if err != nil {
			return err
		}
		stored.Kind = domain.SnapshotDisk
		row.Observed, row.Reason = domain.Stopped, ""
		return tx.Snapshots().Update(ctx, stored)
	})
	return err
}

// goOn begins journals of what goes on in a machine that came here with its memory.
// A crash does no harm: one that has begun is left as it is.
func (w *Worker) goOn(ctx context.Context, vm *domain.VM, client *guest.Client, known []*domain.Execution) error {
	if n := len(vm.Moves); n == 0 || !vm.Moves[n-1].Memory || vm.Moves[n-1].Epoch != vm.Epoch {
		return nil
	}
	open := make(map[domain.ID]bool, len(known))
	for _, x := range known {
		j, err := w.Journals.Lookup(journalKey(x))
		switch {
		case err == nil:
			j.Close()
		case errors.HasCode(err, errors.NotFound):
			open[x.ID] = true
		default:
			return err
		}
	}
	if len(open) == 0 {
		return nil
	}
	all, err := client.Remembered(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if !open[guest.MovedID(vm.ID, vm.Epoch, r)] {
			continue
		}
		if err := guest.BeginMoved(w.Journals, vm.ID, vm.Epoch, r); err != nil {
			return err
		}
	}
	return nil
}
