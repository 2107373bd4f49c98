package standby

import (
	"context"
	"slices"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
)

// Count implements queue.Inspector.
func (q *Queue) Count(ctx context.Context) (map[queue.State]int, error) {
	all, err := q.shared.Count(ctx)
	if err != nil {
		return nil, err
	}
	own, err := q.own.Count(ctx)
	for state, n := range own {
		all[state] += n
	}
	return all, err
}

// List implements queue.Inspector.
func (q *Queue) List(ctx context.Context, s queue.State, limit int) ([]queue.Info, error) {
	all, err := q.shared.List(ctx, s, limit)
	if err != nil {
		return nil, err
	}
	own, err := q.own.List(ctx, s, limit)
	if err != nil || len(own) == 0 {
		return all, err
	}
	all = append(all, own...)
	slices.SortStableFunc(all, func(a, b queue.Info) int {
		if s == queue.Dead {
			return b.At.Compare(a.At)
		}
		return a.At.Compare(b.At)
	})
	return all[:min(limit, len(all))], nil
}

// Cancel implements queue.Inspector.
func (q *Queue) Cancel(ctx context.Context, id string) error {
	return either(ctx, id, q.own.Cancel, q.shared.Cancel)
}

// Revive implements queue.Inspector.
func (q *Queue) Revive(ctx context.Context, id string) error {
	return either(ctx, id, q.own.Revive, q.shared.Revive)
}

// Remove implements queue.Inspector.
func (q *Queue) Remove(ctx context.Context, id string) error {
	return either(ctx, id, q.own.Remove, q.shared.Remove)
}

// either changes the job in the queue that has it.
func either(ctx context.Context, id string, own, shared func(context.Context, string) error) error {
	if err := own(ctx, id); !errors.HasCode(err, errors.NotFound) {
		return err
	}
	return shared(ctx, id)
}
