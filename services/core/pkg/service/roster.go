package service

import (
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// rosterAge is how long workers are remembered.
const rosterAge = 10 * time.Second

// roster remembers the workers, so that not every placement reads the rows of
// all. Whoever chooses one by it has to see that it is their version still.
type roster struct {
	mu      sync.Mutex
	workers []*domain.Worker // never changed
	read    time.Time
}

// known gives the workers if they were read lately, else nil.
func (r *roster) known() []*domain.Worker {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.read) > rosterAge {
		return nil
	}
	return r.workers
}

// learn takes workers over that nobody changes from then on.
func (r *roster) learn(workers []*domain.Worker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.workers, r.read = workers, time.Now()
}
