package worker

import (
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// retries is which VMs the queue steps again by itself, and when: their last step
// failed. The sweep leaves them alone until then, or there would be no pauses but
// its own.
type retries struct {
	mu   sync.Mutex
	byVM map[domain.ID]*retry
}

type retry struct {
	wish wish
	at   time.Time // zero: not known yet
}

// wish is what a step serves. What is newer waits for no retry.
type wish struct{ generation, deadline, egress int64 }

func wishOf(vm *domain.VM) wish { return wish{vm.Generation, vm.DeadlineGen, vm.EgressGen} }

// failed notes what a step that failed was for.
func (r *retries) failed(vm *domain.VM) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byVM == nil {
		r.byVM = make(map[domain.ID]*retry)
	}
	r.byVM[vm.ID] = &retry{wish: wishOf(vm)}
}

// plan notes when a VM is stepped again.
func (r *retries) plan(id domain.ID, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.byVM[id]; p != nil {
		p.at = at
	}
}

// done forgets a VM that is as wanted, or not here any more.
func (r *retries) done(id domain.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byVM, id)
}

// planned reports whether a VM is to be stepped again after now for all that is
// wanted of it. The queue may have lost what it does not do in time.
func (r *retries) planned(vm *domain.VM, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.byVM[vm.ID]
	return p != nil && p.wish == wishOf(vm) && p.at.After(now)
}
