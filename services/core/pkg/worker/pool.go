package worker

import (
	"context"
	"slices"
	"sync"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// PoolConfig is how many machines wait ready for VMs to come.
type PoolConfig struct {
	// Size is how many machines are kept of each kind; 0 or less: none.
	Size int
	// Kinds is how many kinds are kept, those used last. A kind is what must be
	// the same for a machine to serve: driver, build, resources and network.
	Kinds int
}

// pool keeps machines running that no VM owns yet, so that a VM gets one in
// the time of a database transaction. A machine in the pool has a row without
// a VM; who makes a VM reserves it in memory, and claims it in the transaction that
// binds the VM to it, so it is handed out once, whatever crashes when.
type pool struct {
	w      *Worker
	config PoolConfig
	wake   chan struct{} // one slot: there may be something to fill

	cancel context.CancelFunc // of filling
	filled chan struct{}      // closed when filling has ended

	changed watch.Hub[struct{}] // woken when the pool has changed
	saved   []storage.PoolKey   // the kinds as written down; used by fill only

	mu      sync.Mutex
	closed  bool
	resting bool                // kinds are remembered, and no machine of them is kept
	busy    int                 // fillings, adoptions and removals under way
	shelves []*shelf            // used last first
	pending map[domain.ID]*warm // have a row, or are about to, and are on no shelf yet
	emptied sync.WaitGroup      // the emptying of one that was closed
	gone    sync.WaitGroup      // adoptions and removals under way
}

// shelf is the ready machines of one kind, oldest first.
type shelf struct {
	key   storage.PoolKey
	ready []*warm
}

// warm is a machine whose agent has answered.
type warm struct {
	id     domain.ID
	key    storage.PoolKey
	client *guest.Client
	told   bool          // its agent has the configuration of a plain VM
	runs   []inheritance // what it was made with, under IDs of its own
	left   bool          // by an earlier process: its row is there
}

func newPool(w *Worker, c PoolConfig) *pool {
	if c.Size <= 0 || c.Kinds <= 0 {
		c = PoolConfig{}
	}
	return &pool{w: w, config: c, wake: make(chan struct{}, 1), pending: map[domain.ID]*warm{}}
}

// keyOf is the kind of machine that a VM needs. ok is false for one that no
// machine made beforehand can serve.
func (p *pool) keyOf(vm *domain.VM) (key storage.PoolKey, ok bool) {
	driver, err := p.w.driver(vm.Spec.Driver)
	if err != nil || p.config.Size == 0 || diskOf(vm) != "" || len(vm.Spec.Tools) > 0 || len(vm.Spec.Mounts) > 0 {
		return key, false
	}
	_, renames := driver.(vmm.Renamer)
	return storage.PoolKey{
		WorkerID: p.w.id, Driver: vm.Spec.Driver, BuildID: vm.Spec.BuildID,
		Shape: domain.Shape{Resources: vm.Spec.Resources, Network: vm.Spec.Network}, Memory: vm.Spec.Memory,
	}, renames
}

// want notes that a kind is in use. What falls out of the kinds kept is removed.
func (p *pool) want(key storage.PoolKey) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	at := slices.IndexFunc(p.shelves, func(s *shelf) bool { return s.key == key })
	var s *shelf
	if at < 0 {
		s = &shelf{key: key}
	} else {
		s = p.shelves[at]
		p.shelves = slices.Delete(p.shelves, at, at+1)
	}
	p.shelves = slices.Insert(p.shelves, 0, s)
	var out []*shelf
	if len(p.shelves) > p.config.Kinds {
		out = slices.Clone(p.shelves[p.config.Kinds:])
		p.shelves = slices.Delete(p.shelves, p.config.Kinds, len(p.shelves))
	}
	p.mu.Unlock()
	p.discard(out)
	p.poke()
}

// rest removes the machines that are ready, and keeps others from being made,
// until it is called with false.
func (p *pool) rest(on bool) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	changed := p.resting != on
	p.resting = on
	var out []*shelf
	for _, s := range p.shelves {
		if on && len(s.ready) > 0 {
			out = append(out, &shelf{key: s.key, ready: s.ready})
			s.ready = nil
		}
	}
	p.mu.Unlock()
	p.discard(out)
	if changed {
		p.poke()
	}
}

func (p *pool) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// reserve takes a machine out of the pool for vm, which is of a kind: the oldest that is
// ready, or one that an earlier process left and that has not answered yet, which has no
// client. nil: there is none. It becomes the VM's by the database, or is given back.
func (p *pool) reserve(key storage.PoolKey, vm *domain.VM) *warm {
	if vm.MachineID != "" {
		return nil // it has one
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.shelves {
		if s.key == key && len(s.ready) > 0 {
			m := s.ready[0]
			s.ready = slices.Delete(s.ready, 0, 1)
			return m
		}
	}
	for id, m := range p.pending {
		if m.left && m.key == key {
			delete(p.pending, id)
			return m
		}
	}
	return nil
}

// giveBack is for a machine that was reserved: unless it has become a VM's it is
// removed. It may have another name by now.
func (p *pool) giveBack(m *warm) { p.discard([]*shelf{{key: m.key, ready: []*warm{m}}}) }

// remove takes a machine off its shelf, or keeps it from getting there.
func (p *pool) remove(id domain.ID) *warm {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.pending[id]; m != nil {
		delete(p.pending, id)
		return m
	}
	for _, s := range p.shelves {
		if at := slices.IndexFunc(s.ready, func(m *warm) bool { return m.id == id }); at >= 0 {
			m := s.ready[at]
			s.ready = slices.Delete(s.ready, at, at+1)
			return m
		}
	}
	return nil
}

// work counts something that goes on until the returned function is called.
func (p *pool) work() (done func()) {
	p.mu.Lock()
	p.busy++
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		p.busy--
		p.mu.Unlock()
		p.changed.Notify(struct{}{})
	}
}

// settled waits until every kind in use has its machines and every other
// machine is gone. It returns how many are ready.
func (p *pool) settled(ctx context.Context) (ready int, err error) {
	sub := p.changed.Subscribe(struct{}{})
	defer sub.Done()
	for {
		changed := sub.Changed()
		_, lacking := p.lacking()
		p.mu.Lock()
		ready = 0
		for _, s := range p.shelves {
			ready += len(s.ready)
		}
		over := !lacking && p.busy == 0 && len(p.pending) == 0
		p.mu.Unlock()
		if over {
			return ready, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ready, ctx.Err()
		}
	}
}

// PoolReady waits until the pool is as it should be, and says how many machines
// are ready in it.
func (w *Worker) PoolReady(ctx context.Context) (int, error) { return w.pool.settled(ctx) }
