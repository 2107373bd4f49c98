package worker

import (
	"context"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// live gives signs of life until the worker stops. While the database is not
// reached others may take the worker for away; it goes on with what it has.
func (w *Worker) live(ctx context.Context) {
	next, missed := w.config.HeartbeatEvery, false
	for {
		select {
		case <-time.After(next):
		case <-w.removed.learned:
			return
		case <-ctx.Done():
			return
		}
		drain, err := w.Heartbeat(ctx)
		if err != nil && !missed && ctx.Err() == nil {
			w.Log.Warn("no sign of life given, going on with what is here", "error", err)
		}
		missed, next = err != nil, w.config.HeartbeatEvery
		if drain != nil && *drain > 0 {
			next = min(next, *drain)
		}
	}
}

// removed is what a worker learns that is not one of the installation any more.
type removed struct {
	once    sync.Once
	learned chan struct{}
}

// Removed is closed when the worker has learned that it is not one of the
// installation any more: nothing that it writes counts, and nobody asks it for anything.
func (w *Worker) Removed() <-chan struct{} { return w.removed.learned }

// member gives the worker's row. Returns NotFound where it was removed.
func (w *Worker) member(ctx context.Context, tx storage.Tx) (*domain.Worker, error) {
	row, err := storage.Member(ctx, tx, w.id)
	if errors.HasCode(err, errors.NotFound) {
		w.removed.once.Do(func() { close(w.removed.learned) })
	}
	return row, err
}

// Heartbeat gives one sign of life, and follows what is wanted of the worker:
// cordoned, it keeps no warm machines; drained, it ends its VMs when it is time.
// It returns how long until then; nil: it is not drained.
func (w *Worker) Heartbeat(ctx context.Context) (drain *time.Duration, err error) {
	beat, cancel := context.WithTimeout(ctx, w.config.HeartbeatEvery)
	defer cancel()
	var sign storage.Sign
	err = w.Store.Aside(beat, func(tx storage.Tx) (err error) {
		sign, err = tx.Workers().Seen(beat, w.id)
		if errors.HasCode(err, errors.NotFound) {
			_, err = w.member(beat, tx)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if sign.State == domain.WorkerAway {
		if err := w.back(ctx); err != nil {
			return nil, err
		}
	}
	w.pool.rest(sign.Cordoned)
	moving := sign.Drain != nil && sign.Moving
	if sign.Drain != nil && *sign.Drain <= 0 {
		err = w.evacuate(ctx, moving)
	}
	w.moves.tell(moving)
	return sign.Drain, err
}

// back makes a worker that was away what it was before, and looks for what was
// asked of it meanwhile.
func (w *Worker) back(ctx context.Context) error {
	err := w.restate(ctx, func(row *domain.Worker) domain.WorkerState { return row.Standing() })
	if err != nil {
		return err
	}
	return errors.Join(w.sweepWishes(ctx), w.requeueTasks(ctx))
}

// leave tells others at once that the worker is away, which they would else
// find out. What is on the node stays.
func (w *Worker) leave(ctx context.Context) {
	err := w.restate(ctx, func(*domain.Worker) domain.WorkerState { return domain.WorkerAway })
	if err != nil {
		w.Log.Warn("not told that this worker is away", "error", err)
	}
}

// restate writes the worker's state with its events, unless it is that already.
// Of its VMs none can be reached before it is back, or after it has left.
func (w *Worker) restate(ctx context.Context, to func(*domain.Worker) domain.WorkerState) error {
	return w.Store.Update(ctx, func(tx storage.Tx) error {
		row, err := w.member(ctx, tx)
		if err != nil || row.State == to(row) {
			return err
		}
		leaves := to(row) == domain.WorkerAway
		var vms []*domain.VM
		if !leaves {
			if vms, err = service.Unreached(ctx, tx, w.id); err != nil {
				return err
			}
		}
		row.State = to(row)
		if err := tx.Workers().Update(ctx, row); err != nil {
			return err
		}
		if leaves {
			if vms, err = service.Unreached(ctx, tx, w.id); err != nil {
				return err
			}
		}
		return service.TellReach(ctx, tx, row, vms, w.time())
	})
}

// evacuate ends every VM that is active, as its timeout would: those that can
// rest do, the others are deleted. It does not wait for them. With moving, those
// that can leave the worker rest without memory where that cannot.
func (w *Worker) evacuate(ctx context.Context, moving bool) error {
	vms, err := w.onWorker(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	for _, vm := range vms {
		stays := "" // why its memory does
		if moving && !vm.InStorage() && (active(vm) && vm.OnTimeout == domain.TimeoutPause || saved(vm)) {
			bound, berr := w.bound(ctx, vm)
			if berr == nil && bound == "" {
				stays, berr = w.memoryStays(ctx, vm)
			}
			if berr != nil {
				err = errors.Join(err, berr)
				continue
			}
		}
		forgets := stays != ""
		if !active(vm) && !forgets {
			continue
		}
		if time.Since(start) > w.config.HeartbeatEvery {
			break // the others after the next sign of life
		}
		changed := false
		_, cerr := w.commit(ctx, vm.ID, events.VMUpdated, func(_ storage.Tx, row *domain.VM) error {
			switch changed = active(row) || forgets && saved(row); {
			case changed && forgets:
				row.Desired = domain.WantStopped
				row.Generation++
				row.Tombstone = &domain.Tombstone{Cause: domain.CauseDrained, By: "worker", Detail: "its memory was given up, which cannot leave the worker: " + stays, At: w.time()}
			case changed:
				w.timeUp(row, domain.CauseDrained)
			}
			return nil
		})
		if err = errors.Join(err, cerr); changed {
			w.Wake(ctx, vm.ProjectID, vm.ID)
		}
	}
	return err
}

// active reports whether a VM holds memory, or is about to, and nothing is on
// its way that ends this.
func active(vm *domain.VM) bool {
	switch vm.Desired {
	case domain.WantDeleted, domain.WantStopped:
		return false
	case domain.WantPaused:
		return vm.PauseMode == domain.PauseFreeze
	}
	return !vm.Observed.Terminal()
}
