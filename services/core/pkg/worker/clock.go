package worker

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// clock wakes the worker when a VM's time may be up. It needs no database, so
// deadlines hold also while that is away.
type clock struct {
	now func() time.Time
	due func(context.Context, domain.ID) // begins what is to be done, and does not wait for it

	mu    sync.Mutex
	queue alarms
	byID  map[domain.ID]*alarm
	held  map[domain.ID]time.Time // alarms that are not to ring before
	wake  chan struct{}           // one slot: the earliest alarm has changed
}

type alarm struct {
	id    domain.ID
	at    time.Time
	index int
}

func newClock(now func() time.Time, due func(context.Context, domain.ID)) *clock {
	return &clock{now: now, due: due, byID: make(map[domain.ID]*alarm), held: make(map[domain.ID]time.Time), wake: make(chan struct{}, 1)}
}

// set moves a VM's alarm; there is one a VM.
func (c *clock) set(id domain.ID, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until, ok := c.held[id]; ok {
		if at.Before(until) {
			at = until
		}
		if c.now().After(until) {
			delete(c.held, id)
		}
	}
	if a := c.byID[id]; a != nil {
		a.at = at
		heap.Fix(&c.queue, a.index)
	} else {
		a = &alarm{id: id, at: at}
		c.byID[id] = a
		heap.Push(&c.queue, a)
	}
	if c.queue[0].id == id {
		c.poke()
	}
}

// hold keeps a VM's alarm from ringing before a time: what it rang for could
// not be done.
func (c *clock) hold(id domain.ID, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[id] = until
}

// clear removes a VM's alarm.
func (c *clock) clear(id domain.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, id)
	if a := c.byID[id]; a != nil {
		heap.Remove(&c.queue, a.index)
		delete(c.byID, id)
	}
}

func (c *clock) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *clock) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		id, wait := c.next()
		if id != "" {
			c.due(ctx, id)
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-c.wake:
		case <-ctx.Done():
			return
		}
	}
}

// next takes the earliest alarm that is due, or says how long until one is.
func (c *clock) next() (domain.ID, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return "", time.Hour
	}
	a := c.queue[0]
	if wait := a.at.Sub(c.now()); wait > 0 {
		return "", wait
	}
	heap.Pop(&c.queue)
	delete(c.byID, a.id)
	return a.id, 0
}

// alarms is a heap by time (container/heap).
type alarms []*alarm

func (q alarms) Len() int           { return len(q) }
func (q alarms) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q alarms) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *alarms) Push(x any) {
	a := x.(*alarm)
	a.index = len(*q)
	*q = append(*q, a)
}
func (q *alarms) Pop() any {
	old := *q
	a := old[len(old)-1]
	*q = old[:len(old)-1]
	return a
}
