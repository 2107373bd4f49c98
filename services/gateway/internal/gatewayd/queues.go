package gatewayd

import (
	"context"
	"log/slog"
	"sync"

	"github.com/aetherium/aetherium/services/core/pkg/installation"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/queue/asynq"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// queues looks into those of all workers, and of runs.
type queues struct {
	in  *installation.Installation
	log *slog.Logger

	mu   sync.Mutex
	open map[string]*asynq.Queue
}

// all is a queue.Joined.
func (q *queues) all(ctx context.Context) ([]queue.Inspector, error) {
	names := []string{q.in.RunQueue()}
	err := q.in.Store.View(ctx, func(tx storage.Tx) error {
		workers, err := tx.Workers().All(ctx)
		for _, w := range workers {
			if w.Address != "" {
				names = append(names, q.in.WorkerQueue(w.ID))
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	all := make([]queue.Inspector, 0, len(names))
	for _, name := range names {
		one := q.open[name]
		if one == nil {
			// Nothing is taken from it: it is not started.
			if one, err = asynq.New(asynq.Config{Client: q.in.Redis, Name: name, Logger: q.log}); err != nil {
				return nil, err
			}
			q.open[name] = one
		}
		all = append(all, one)
	}
	return all, nil
}

// close is called before the connection to Redis is closed.
func (q *queues) close(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, one := range q.open {
		if err := one.Stop(ctx); err != nil {
			return err
		}
	}
	return nil
}
