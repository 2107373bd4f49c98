package worker

import (
	"context"
	"sync"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// turns has a driver asked for one thing at a time of each machine: a snapshot
// is taken beside the steps of its VM, and must not be taken in one of them.
type turns struct {
	mu   sync.Mutex
	byID map[domain.ID]*turn
}

type turn struct {
	taken chan struct{} // one slot
	uses  int           // who has it or waits for it
}

// take waits for a machine's turn, which lasts until done is called.
func (t *turns) take(ctx context.Context, id domain.ID) (done func(), err error) {
	t.mu.Lock()
	if t.byID == nil {
		t.byID = make(map[domain.ID]*turn)
	}
	e := t.byID[id]
	if e == nil {
		e = &turn{taken: make(chan struct{}, 1)}
		t.byID[id] = e
	}
	e.uses++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if e.uses--; e.uses == 0 {
			delete(t.byID, id)
		}
	}
	select {
	case e.taken <- struct{}{}:
		return func() { <-e.taken; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
