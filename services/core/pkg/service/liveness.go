package service

import (
	"context"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Run looks, until ctx ends, which workers give no sign of life any more. Any
// number of processes may do so for one fleet.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(max(time.Millisecond, s.config.AwayAfter/4))
	defer tick.Stop()
	for {
		if err := s.Review(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("it is not known which workers are away", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Review looks once. What a worker that is away has stays as it is and its own.
func (s *Service) Review(ctx context.Context) error {
	defer s.looked.Notify(struct{}{}) // another process may have found one
	var silent []domain.ID
	err := s.store.Read(ctx, func(tx storage.Tx) (err error) {
		silent, err = tx.Workers().Silent(ctx, s.config.AwayAfter)
		return err
	})
	if err != nil || len(silent) == 0 {
		return err
	}
	for _, id := range silent {
		var w *domain.Worker
		uerr := s.store.Update(ctx, func(tx storage.Tx) error {
			w = nil
			// It may have given a sign since, and another process may have been quicker.
			gone, err := tx.Workers().Away(ctx, id, s.config.AwayAfter)
			if err != nil || !gone {
				return err
			}
			if w, err = tx.Workers().Get(ctx, id); err != nil {
				return err
			}
			vms, err := Unreached(ctx, tx, id)
			if err != nil {
				return err
			}
			return TellReach(ctx, tx, w, vms, s.time())
		})
		if err = errors.Join(err, uerr); uerr == nil && w != nil {
			s.log.Warn("a worker is away", "worker", w.Name, "seen", w.SeenAt)
		}
	}
	return err
}

// Unreached lists the VMs of a worker that cannot be reached, since it is away.
func Unreached(ctx context.Context, tx storage.Tx, worker domain.ID) ([]*domain.VM, error) {
	var vms []*domain.VM
	for after := domain.ID(""); ; {
		page, err := tx.VMs().OnWorker(ctx, worker, after, storage.MaxPage)
		if err != nil || len(page) == 0 {
			return vms, err
		}
		for _, vm := range page {
			if vm.State() == domain.Unreachable {
				vms = append(vms, vm)
			}
		}
		after = page[len(page)-1].ID
	}
}

// TellReach writes the events of a worker that is away from now on, or is back,
// and of its VMs that cannot be reached meanwhile, in the transaction of what
// they tell.
func TellReach(ctx context.Context, tx storage.Tx, w *domain.Worker, vms []*domain.VM, at time.Time) error {
	es := []*domain.Event{events.WorkerState(w, at)}
	for _, vm := range vms {
		if w.State != domain.WorkerAway {
			vm.UnreachableSince = nil
		}
		es = append(es, events.VMReach(vm, at))
	}
	return tx.Outbox().Append(ctx, es...)
}

// retryAway is when what a worker that is away has may be there again.
const retryAway = 5 * time.Second

// unreachable refuses what needs a VM's worker. The VM may well run.
func unreachable(vm *domain.VM) error {
	return errors.New(errors.Unavailable, "the VM cannot be reached: its worker is away since %s", vm.UnreachableSince.Format(time.RFC3339)).
		WithHint("it stays as it is, and can be used again when its worker is back").WithRetryAfter(retryAway)
}

func workerAway(name string) error {
	return errors.New(errors.Unavailable, "the worker %s, which this needs, is away", name).WithRetryAfter(retryAway)
}

// nodeOf is the node of a VM as it was read. Returns Unavailable.
func (s *Service) nodeOf(vm *domain.VM) (Node, error) {
	if vm.UnreachableSince != nil {
		return nil, unreachable(vm)
	}
	return s.nodes.Node(vm.WorkerID)
}

// reach is the node of a worker. Returns Unavailable.
func (s *Service) reach(ctx context.Context, id domain.ID) (Node, error) {
	if s.nodes.Here() != nil {
		return s.nodes.Node(id) // it is the only one
	}
	var state domain.WorkerState
	err := s.store.Read(ctx, func(tx storage.Tx) (err error) {
		state, err = tx.Workers().State(ctx, id)
		return err
	})
	switch {
	case errors.HasCode(err, errors.NotFound):
		return nil, errors.Wrap(err, errors.Unavailable, "the worker that has this is gone")
	case err != nil:
		return nil, err
	case state == domain.WorkerAway:
		return nil, workerAway(string(id))
	}
	return s.nodes.Node(id)
}

// GetWorker implements vmm.Fleet.
func (s *Service) GetWorker(ctx context.Context, _ vmm.Caller, idOrName string) (w *domain.Worker, err error) {
	err = s.store.View(ctx, func(tx storage.Tx) error {
		w, err = findWorker(ctx, tx, idOrName)
		return err
	})
	return w, err
}

func findWorker(ctx context.Context, tx storage.Tx, idOrName string) (*domain.Worker, error) {
	if domain.IsID(idOrName) {
		w, err := tx.Workers().Get(ctx, domain.ID(idOrName))
		if !errors.HasCode(err, errors.NotFound) {
			return w, err
		}
	}
	return tx.Workers().ByName(ctx, idOrName)
}

// CordonWorker implements vmm.Fleet.
func (s *Service) CordonWorker(ctx context.Context, _ vmm.Caller, idOrName string) (*domain.Worker, error) {
	return s.changeWorker(ctx, idOrName, func(_ storage.Tx, w *domain.Worker) (bool, error) {
		changed := !w.Cordoned
		w.Cordoned = true
		return changed, nil
	})
}

// UncordonWorker implements vmm.Fleet.
func (s *Service) UncordonWorker(ctx context.Context, _ vmm.Caller, idOrName string) (*domain.Worker, error) {
	return s.changeWorker(ctx, idOrName, func(_ storage.Tx, w *domain.Worker) (bool, error) {
		changed := w.Cordoned
		w.Cordoned, w.DrainAt, w.Moving, w.Staying = false, nil, false, 0
		return changed, nil
	})
}

// DrainWorker implements vmm.Fleet.
func (s *Service) DrainWorker(ctx context.Context, _ vmm.Caller, idOrName string, d vmm.DrainWorker) (*domain.Worker, error) {
	if d.Within < 0 || d.Within > domain.MaxDrain {
		return nil, errors.New(errors.InvalidArgument, "a drain cannot wait for %s", d.Within).WithField("within_ms").WithHint("at most %s", domain.MaxDrain)
	}
	return s.changeWorker(ctx, idOrName, func(tx storage.Tx, w *domain.Worker) (bool, error) {
		if d.Move && w.Storage == "" {
			return false, errors.New(errors.Unsupported, "the worker %s has no storage that others reach: its VMs cannot move", w.Name).WithField("move").
				WithHint("set storage.url of the workers; or drain it without")
		}
		if d.Move && !slices.ContainsFunc(w.Drivers, func(d domain.DriverInfo) bool { return can(d, CanMove) }) {
			return false, errors.New(errors.Unsupported, "no driver of the worker %s can have its VMs move", w.Name).WithField("move").
				WithHint("drain it without; a worker of an older version has to be updated first")
		}
		now, err := tx.Workers().Clock(ctx)
		if err != nil {
			return false, err
		}
		at, begins := now.Add(d.Within), d.Move && !(w.Moving && w.DrainAt != nil)
		if w.DrainAt != nil && !at.Before(*w.DrainAt) {
			if !begins {
				return false, nil
			}
			at = *w.DrainAt
		}
		if w.DrainAt == nil || begins {
			w.Moving, w.Staying = d.Move, 0
		}
		w.Cordoned, w.DrainAt = true, &at
		return true, nil
	})
}

// changeWorker writes what is wanted of a worker. It follows by itself: at its
// next sign of life, or when it is back.
func (s *Service) changeWorker(ctx context.Context, idOrName string, change func(storage.Tx, *domain.Worker) (changed bool, err error)) (w *domain.Worker, err error) {
	err = s.store.Update(ctx, func(tx storage.Tx) error {
		if w, err = findWorker(ctx, tx, idOrName); err != nil {
			return err
		}
		changed, err := change(tx, w)
		if err != nil || !changed {
			return err
		}
		if w.State == domain.WorkerAway {
			return tx.Workers().Update(ctx, w) // told when it is back
		}
		w.State = w.Standing()
		if err := tx.Workers().Update(ctx, w); err != nil {
			return err
		}
		return tx.Outbox().Append(ctx, events.WorkerState(w, s.time()))
	})
	return w, err
}
