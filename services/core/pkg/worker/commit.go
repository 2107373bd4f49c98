package worker

import (
	"context"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// commit writes a fact about a VM: change is applied to the row as it is now
// (its owner may have changed other things meanwhile), the event goes into the
// outbox in the same transaction, and tasks that stand for the VM end when it
// has got where it is wanted. kind may be empty. It returns the row as written.
//
// A fact is written even when the step's context has ended: what was done was done.
func (w *Worker) commit(ctx context.Context, id domain.ID, kind string, change func(tx storage.Tx, row *domain.VM) error) (*domain.VM, error) {
	ctx = context.WithoutCancel(ctx)
	var row *domain.VM
	var serves bool // a task
	var ended []*domain.Task
	err := w.Store.Update(ctx, func(tx storage.Tx) (err error) {
		ended = nil
		if row, serves, err = tx.VMs().Serving(ctx, id); err != nil {
			return err
		}
		if row.WorkerID != w.id {
			return errMoved(id)
		}
		if err := change(tx, row); err != nil {
			return err
		}
		now := w.time()
		row.UpdatedAt = now
		if err := tx.VMs().Update(ctx, row); err != nil {
			return err
		}
		if kind != "" {
			if err := tx.Outbox().Append(ctx, events.VM(kind, row, now)); err != nil {
				return err
			}
		}
		if serves {
			ended, err = service.EndVMTasks(ctx, tx, row, now)
		}
		return err
	})
	if err != nil {
		if isAway(err) {
			w.Changes.Notify(id) // it may be written all the same
		}
		return nil, err
	}
	w.vms.refresh(row)
	w.steps.wrote(row)
	if kind != "" { // nobody waits for a step to begin
		w.Changes.Notify(id)
	}
	for _, t := range ended {
		w.Changes.Notify(t.ID)
	}
	return row, nil
}

// underway shows that a step has begun. It writes nothing when the row says so already.
func (w *Worker) underway(ctx context.Context, vm *domain.VM, state domain.ObservedState) error {
	if vm.Observed == state {
		return nil
	}
	_, err := w.commit(ctx, vm.ID, "", func(_ storage.Tx, row *domain.VM) error {
		row.Observed = state
		return nil
	})
	return err
}
