// Package once makes things that many may want at a time, each once.
package once

import (
	"context"
	"sync"
)

// Works are the things that are being made, by name. The zero value has none.
type Works struct {
	mu       sync.Mutex
	underWay map[string]chan struct{} // closed when it is decided
}

// Do makes a thing that is not there yet. Whoever wants it meanwhile waits, no
// longer than its own context; what fails, or is given up, the next one makes.
// Nobody waits for another thing, nor for one that is there.
func (w *Works) Do(ctx context.Context, name string, there func() (bool, error), makeIt func() error) error {
	for {
		if is, err := there(); is || err != nil {
			return err
		}
		decided, mine := w.begin(name)
		if mine {
			break
		}
		select {
		case <-decided:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer w.end(name)
	// Another may have made it between the look and the turn.
	if is, err := there(); is || err != nil {
		return err
	}
	return makeIt()
}

func (w *Works) begin(name string) (decided chan struct{}, mine bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if busy := w.underWay[name]; busy != nil {
		return busy, false
	}
	if w.underWay == nil {
		w.underWay = map[string]chan struct{}{}
	}
	decided = make(chan struct{})
	w.underWay[name] = decided
	return decided, true
}

func (w *Works) end(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.underWay[name])
	delete(w.underWay, name)
}
