package worker

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// maxInheritedBytes bounds the command of an execution that a guest tells of.
const maxInheritedBytes = 256 << 10

// inherit makes what runs in a machine that goes on from memory the VM's own:
// each execution gets a new ID, and a journal that begins where the agent's
// output does. It does nothing for other machines, and for one that had its
// first epoch. What a crash interrupted is done again with the same outcome:
// the IDs follow from the VM's, and what has a journal has its ID.
func (w *Worker) inherit(ctx context.Context, vm *domain.VM, client *guest.Client, trace *trace) ([]*domain.Execution, error) {
	if !vm.Spec.Memory || vm.Epoch > 0 || !fresh(vm) {
		return nil, nil
	}
	all, err := client.Remembered(ctx)
	if err != nil {
		return nil, err
	}
	ids := make(map[domain.ID]domain.ID)
	var over []domain.ID
	var runs []inheritance
	for _, r := range all {
		if r.Foreign {
			continue // the session gives it an ID of its own
		}
		if origin, ours := guest.OriginOf(w.Journals, w.inheritedKey(vm, r.ID)); ours {
			runs = append(runs, inheritance{Remembered: r, origin: origin})
			continue
		}
		if r.Ended {
			over = append(over, r.ID)
			continue
		}
		origin := r.ID
		r.ID = guest.InheritedID(vm.ID, epochOf(vm), origin)
		ids[origin] = r.ID
		runs = append(runs, inheritance{Remembered: r, origin: origin})
	}
	rows, err := w.begin(ctx, vm, runs)
	if err == nil {
		err = client.Rename(ctx, ids)
	}
	if err == nil {
		err = client.Forget(ctx, over...)
	}
	trace.phase("inherit")
	return rows, err
}

// adopt gives what runs in a machine that nobody owns yet IDs which nothing else
// has: its VM takes them over as they are.
func adopt(ctx context.Context, client *guest.Client, machine domain.ID) ([]inheritance, error) {
	all, err := client.Remembered(ctx)
	if err != nil {
		return nil, err
	}
	ids := make(map[domain.ID]domain.ID)
	var over []domain.ID
	var runs []inheritance
	for _, r := range all {
		switch {
		case r.Ended && !r.Foreign:
			over = append(over, r.ID)
		case !r.Foreign:
			origin := r.ID
			r.ID = guest.InheritedID(machine, 0, origin)
			ids[origin] = r.ID
			runs = append(runs, inheritance{Remembered: r, origin: origin})
		}
	}
	if err := client.Rename(ctx, ids); err != nil {
		return nil, err
	}
	return runs, client.Forget(ctx, over...)
}

// inheritance is an execution under its own ID in a machine, and whence it is.
type inheritance struct {
	guest.Remembered
	origin domain.ID
}

func (w *Worker) inheritedKey(vm *domain.VM, id domain.ID) journal.Key {
	return journal.Key{VM: vm.ID, Epoch: epochOf(vm), Execution: id}
}

// begin makes rows and journals of inherited executions; the rows are not
// stored yet.
func (w *Worker) begin(ctx context.Context, vm *domain.VM, runs []inheritance) ([]*domain.Execution, error) {
	if len(runs) == 0 {
		return nil, nil
	}
	origin, err := w.originOf(ctx, vm)
	if err != nil {
		return nil, err
	}
	now := w.time()
	rows := make([]*domain.Execution, 0, len(runs))
	for _, r := range runs {
		key := w.inheritedKey(vm, r.ID)
		r.Remembered.ID = r.origin
		if err := guest.BeginInherited(w.Journals, key, r.Remembered); err != nil {
			return nil, err
		}
		row := &domain.Execution{
			ID: key.Execution, ProjectID: vm.ProjectID, VMID: vm.ID, Epoch: key.Epoch, OriginID: r.origin,
			State: domain.ExecutionRunning, PID: r.PID, CreatedAt: now, StartedAt: &now,
		}
		row.Command = w.inheritedCommand(ctx, vm, origin, r)
		if row.CommandSealed, err = service.SealCommand(ctx, w.Sealer, row.ID, row.Command); err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// originOf is the VM that one goes on from; empty where it is a template's machine.
func (w *Worker) originOf(ctx context.Context, vm *domain.VM) (domain.ID, error) {
	if vm.Spec.SnapshotID == "" {
		return "", nil
	}
	snap, err := w.loadSnapshot(ctx, vm.ProjectID, vm.Spec.SnapshotID)
	if err != nil {
		return "", err
	}
	return snap.VMID, nil
}

func (w *Worker) loadSnapshot(ctx context.Context, project, id domain.ID) (snap *domain.Snapshot, err error) {
	err = w.Store.View(ctx, func(tx storage.Tx) error {
		snap, err = tx.Snapshots().Get(ctx, project, id)
		return err
	})
	return snap, err
}

// inheritedCommand is the command as it was asked for in the origin, or, where
// that is not on record any more, as the guest tells it.
func (w *Worker) inheritedCommand(ctx context.Context, vm *domain.VM, origin domain.ID, r inheritance) domain.Command {
	if origin != "" {
		x, err := w.storedExecution(ctx, vm.ProjectID, r.origin)
		if err == nil && x.VMID == origin && len(x.Command.Args) > 0 {
			return x.Command
		}
	}
	c := r.Command
	size := 0
	for _, a := range c.Args {
		size += len(a)
	}
	for k, v := range c.Env {
		size += len(k) + len(v)
	}
	if size > maxInheritedBytes {
		return domain.Command{Args: []string{"?"}, User: c.User, Stdin: c.Stdin, PTY: c.PTY}
	}
	return c
}

// recordInherited stores the rows with their events.
func (w *Worker) recordInherited(ctx context.Context, tx storage.Tx, rows []*domain.Execution) error {
	for _, x := range rows {
		stored := *x
		stored.Command = domain.Command{} // never in clear
		if err := tx.Executions().Upsert(ctx, &stored); err != nil {
			return err
		}
		if err := tx.Outbox().Append(ctx, events.Execution(events.ExecutionStarted, &stored, *x.StartedAt)); err != nil {
			return err
		}
	}
	return nil
}

// dropInherited removes journals of a first epoch that is begun anew with
// another machine: what they have is of one that is no more.
func (w *Worker) dropInherited(vm *domain.VM) error {
	if !vm.Spec.Memory || vm.Epoch > 0 {
		return nil
	}
	var err error
	for _, info := range w.Journals.List() {
		if info.Key.VM == vm.ID {
			err = errors.Join(err, w.Journals.Delete(info.Key))
		}
	}
	return err
}
