package memory

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/queue"
)

// Count implements queue.Inspector.
func (q *Queue) Count(context.Context) (map[queue.State]int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return map[queue.State]int{
		queue.Scheduled: len(q.later.items),
		queue.Waiting:   len(q.byID) - len(q.later.items) - q.running - len(q.dead),
		queue.Running:   q.running,
		queue.Dead:      len(q.dead),
	}, nil
}

// List implements queue.Inspector.
func (q *Queue) List(_ context.Context, s queue.State, limit int) ([]queue.Info, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var found []*item
	for _, it := range q.byID {
		if it.state == s {
			found = append(found, it)
		}
	}
	slices.SortFunc(found, func(a, b *item) int {
		switch s {
		case queue.Scheduled:
			return a.runAt.Compare(b.runAt)
		case queue.Running:
			return a.since.Compare(b.since)
		case queue.Dead:
			return b.since.Compare(a.since)
		}
		return cmp.Compare(a.seq, b.seq)
	})
	out := make([]queue.Info, 0, min(limit, len(found)))
	for _, it := range found[:min(limit, len(found))] {
		info := queue.Info{Job: it.job, State: it.state, Priority: it.priority, At: it.runAt, Error: it.err}
		if s == queue.Running || s == queue.Dead {
			info.At = it.since
		}
		out = append(out, info)
	}
	return out, nil
}

// Cancel implements queue.Inspector.
func (q *Queue) Cancel(_ context.Context, id string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.byID[id]
	switch {
	case it == nil || it.state == queue.Dead:
		return queue.NoJob(id, "waiting or running")
	case it.state == queue.Running:
		it.canceled = true
		it.stop(queue.ErrCanceled)
		return nil
	}
	delete(q.byID, id)
	k := q.byKey[it.key()]
	if it.job.Key != "" && k.again == it {
		k.again = nil
		return nil
	}
	q.pull(it)
	if it.job.Key != "" {
		delete(q.byKey, it.key())
	}
	return nil
}

// Revive implements queue.Inspector.
func (q *Queue) Revive(_ context.Context, id string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.takeDead(id)
	if it == nil {
		return queue.NoJob(id, "dead")
	}
	if k := q.byKey[it.key()]; it.job.Key != "" && k != nil && (k.waiting != nil || k.again != nil) {
		delete(q.byID, id) // the other one has the newer arguments
		return nil
	}
	it.job.Attempt, it.runAt, it.err = 1, time.Now(), ""
	q.add(it)
	q.dispatch()
	return nil
}

// Remove implements queue.Inspector.
func (q *Queue) Remove(_ context.Context, id string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.takeDead(id) == nil {
		return queue.NoJob(id, "dead")
	}
	delete(q.byID, id)
	return nil
}

func (q *Queue) takeDead(id string) *item {
	i := slices.IndexFunc(q.dead, func(it *item) bool { return it.job.ID == id })
	if i < 0 {
		return nil
	}
	it := q.dead[i]
	q.dead = slices.Delete(q.dead, i, i+1)
	return it
}
