package worker

import (
	"context"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// Drain empties the pool and stops every VM that runs or is on its way there,
// and waits until none does. Their disks are kept, and VMs that are paused with
// their memory saved stay so. by goes into their tombstones.
func (w *Worker) Drain(ctx context.Context, by string) error {
	w.pool.close()
	if err := w.pool.awaitEmpty(ctx); err != nil {
		return err
	}
	vms, err := w.onWorker(ctx)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, vm := range vms {
		if vm.Desired == domain.WantStopped && vm.Observed == domain.Stopped || vm.Observed == domain.Failed || saved(vm) {
			continue
		}
		if _, derr := w.driver(vm.Spec.Driver); errors.HasCode(derr, errors.Unavailable) {
			mu.Lock()
			err = errors.Join(err, derr) // it would be waited for in vain
			mu.Unlock()
			continue
		}
		wg.Go(func() {
			if serr := w.drainOne(ctx, vm.ID, by); serr != nil {
				mu.Lock()
				err = errors.Join(err, serr)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return err
}

// saved reports whether vm rests with its memory saved, which survives what is to come.
func saved(vm *domain.VM) bool {
	return vm.Desired == domain.WantPaused && vm.Observed == domain.Paused && vm.PauseMode != domain.PauseFreeze
}

func (w *Worker) drainOne(ctx context.Context, id domain.ID, by string) error {
	sub := w.Changes.Subscribe(id)
	defer sub.Done()
	vm, err := w.commit(ctx, id, events.VMUpdated, func(_ storage.Tx, row *domain.VM) error {
		if row.Desired == domain.WantDeleted || row.Desired == domain.WantStopped {
			return nil
		}
		row.Desired = domain.WantStopped
		row.Generation++
		row.Tombstone = &domain.Tombstone{Cause: domain.CauseRequested, By: by, At: w.time()}
		return nil
	})
	if err != nil {
		return err
	}
	w.Wake(ctx, vm.ProjectID, id)
	for {
		changed := sub.Changed()
		row, err := w.load(ctx, id)
		if err != nil {
			return err
		}
		if lifecycle.Converged(row.Desired, row.Observed) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.Wrap(ctx.Err(), errors.DeadlineExceeded, "the VM %s is still %s", id, row.Observed)
		}
	}
}
