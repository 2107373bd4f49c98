package queue

import (
	"context"
	"slices"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Joined looks into several queues as if they were one. The function gives them;
// a job is looked for in their order.
type Joined func(context.Context) ([]Inspector, error)

var _ Inspector = Joined(nil)

// Count implements Inspector.
func (j Joined) Count(ctx context.Context) (map[State]int, error) {
	all := map[State]int{}
	err := j.each(ctx, func(q Inspector) error {
		n, err := q.Count(ctx)
		for state, c := range n {
			all[state] += c
		}
		return err
	})
	return all, err
}

// List implements Inspector.
func (j Joined) List(ctx context.Context, s State, limit int) ([]Info, error) {
	var all []Info
	err := j.each(ctx, func(q Inspector) error {
		some, err := q.List(ctx, s, limit)
		all = append(all, some...)
		return err
	})
	slices.SortStableFunc(all, func(a, b Info) int {
		if s == Dead {
			return b.At.Compare(a.At)
		}
		return a.At.Compare(b.At)
	})
	return all[:max(0, min(limit, len(all)))], err
}

// Cancel implements Inspector.
func (j Joined) Cancel(ctx context.Context, id string) error {
	return j.change(ctx, id, "waiting or running", func(q Inspector) error { return q.Cancel(ctx, id) })
}

// Revive implements Inspector.
func (j Joined) Revive(ctx context.Context, id string) error {
	return j.change(ctx, id, "dead", func(q Inspector) error { return q.Revive(ctx, id) })
}

// Remove implements Inspector.
func (j Joined) Remove(ctx context.Context, id string) error {
	return j.change(ctx, id, "dead", func(q Inspector) error { return q.Remove(ctx, id) })
}

func (j Joined) each(ctx context.Context, f func(Inspector) error) error {
	queues, err := j(ctx)
	if err != nil {
		return err
	}
	for _, q := range queues {
		if err := f(q); err != nil {
			return err
		}
	}
	return nil
}

// change changes a job in the queue that has it.
func (j Joined) change(ctx context.Context, id, state string, f func(Inspector) error) error {
	queues, err := j(ctx)
	if err != nil {
		return err
	}
	for _, q := range queues {
		if err := f(q); !errors.HasCode(err, errors.NotFound) {
			return err
		}
	}
	return NoJob(id, state)
}
