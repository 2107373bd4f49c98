package service

import (
	"context"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// ListWorkers implements vmm.Fleet.
func (s *Service) ListWorkers(ctx context.Context, _ vmm.Caller) ([]*domain.Worker, error) {
	var ws []*domain.Worker
	err := s.store.View(ctx, func(tx storage.Tx) (err error) {
		if ws, err = tx.Workers().All(ctx); err != nil {
			return err
		}
		_, err = tx.Workers().Count(ctx, ws...)
		return err
	})
	return ws, err
}

// Drivers implements vmm.Fleet.
func (s *Service) Drivers(ctx context.Context, by vmm.Caller) ([]domain.DriverInfo, error) {
	if node := s.nodes.Here(); node != nil {
		return node.Drivers(ctx)
	}
	workers, err := s.ListWorkers(ctx, by)
	if err != nil {
		return nil, err
	}
	return best(workers), nil
}

// best is each driver as the worker has it that can do most by it: one that can
// use it before one that cannot, the ready before others.
func best(workers []*domain.Worker) []domain.DriverInfo {
	at := map[string]int{} // in all
	rank := map[string]int{}
	var all []domain.DriverInfo
	for _, w := range workers {
		for _, d := range w.Drivers {
			r := 0
			if d.Usable {
				r += 2
			}
			if w.State == domain.WorkerReady {
				r++
			}
			i, known := at[d.Name]
			switch {
			case !known:
				at[d.Name], rank[d.Name] = len(all), r
				all = append(all, d)
			case r > rank[d.Name]:
				all[i], rank[d.Name] = d, r
			}
		}
	}
	return all
}

// everywhere calls f for each worker that is not away, several at a time, and
// joins what they tell. One that is not reached is told of, and no other fails by it.
func (s *Service) everywhere(ctx context.Context, f func(Node) error) error {
	_, err := s.whereThereIs(ctx, f)
	return err
}

// whereThereIs is everywhere that tells of the workers that are away, too.
func (s *Service) whereThereIs(ctx context.Context, f func(Node) error) (away []*domain.Worker, err error) {
	if node := s.nodes.Here(); node != nil {
		return nil, f(node) // it is the only one
	}
	var workers []*domain.Worker
	err = s.store.View(ctx, func(tx storage.Tx) (err error) {
		workers, err = tx.Workers().All(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	errs := make([]error, len(workers))
	var all sync.WaitGroup
	for i, w := range workers {
		if w.State == domain.WorkerAway {
			away = append(away, w)
			continue
		}
		all.Go(func() {
			node, err := s.nodes.Node(w.ID)
			if err == nil {
				err = f(node)
			}
			errs[i] = err
		})
	}
	all.Wait()
	return away, errors.Join(errs...)
}

// ListEvents implements vmm.Events.
func (s *Service) ListEvents(ctx context.Context, by vmm.Caller, after int64, limit int) ([]domain.Event, error) {
	var es []domain.Event
	err := s.store.View(ctx, func(tx storage.Tx) (err error) {
		es, err = tx.Outbox().List(ctx, storage.EventFilter{ProjectID: by.ProjectID, After: after, Limit: limit})
		return err
	})
	return es, err
}

// EventBounds implements vmm.Events.
func (s *Service) EventBounds(ctx context.Context) (oldest, newest int64, err error) {
	err = s.store.View(ctx, func(tx storage.Tx) (err error) {
		oldest, newest, err = tx.Outbox().Bounds(ctx)
		return err
	})
	return oldest, newest, err
}

// EventsChanged implements vmm.Events.
func (s *Service) EventsChanged() <-chan struct{} { return s.store.Changed() }
