// Package watch wakes those who wait for one thing to change, by key, without
// polling and without waking the others.
package watch

import "sync"

// Changes is a hub of this process, or one that is connected to those of others.
type Changes[K comparable] interface {
	Subscribe(key K) *Subscription[K]
	Notify(key K)
}

// Hub hands out wake-ups by key. Its zero value is ready. The pattern is:
// subscribe, look, wait, look again; so a change between looking and waiting
// is never missed.
type Hub[K comparable] struct {
	mu   sync.Mutex
	subs map[K]*entry
}

type entry struct {
	ch   chan struct{}
	refs int
}

// Subscribe returns a subscription to key. Call its Done when finished.
func (h *Hub[K]) Subscribe(key K) *Subscription[K] {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs == nil {
		h.subs = make(map[K]*entry)
	}
	e := h.subs[key]
	if e == nil {
		e = &entry{ch: make(chan struct{})}
		h.subs[key] = e
	}
	e.refs++
	return &Subscription[K]{hub: h, key: key}
}

// Notify wakes everybody who waits for key.
func (h *Hub[K]) Notify(key K) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.subs[key]; e != nil {
		close(e.ch)
		e.ch = make(chan struct{})
	}
}

// NotifyAll wakes every waiter, for when it is not known what changed.
func (h *Hub[K]) NotifyAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.subs {
		close(e.ch)
		e.ch = make(chan struct{})
	}
}

// Subscription is one waiter's interest in a key.
type Subscription[K comparable] struct {
	hub  *Hub[K]
	key  K
	once sync.Once
}

// Changed returns a channel that is closed at the next Notify after this call.
func (s *Subscription[K]) Changed() <-chan struct{} {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if e := s.hub.subs[s.key]; e != nil {
		return e.ch
	}
	closed := make(chan struct{})
	close(closed)
	return closed
}

// Done ends the interest. Calling it twice is fine.
func (s *Subscription[K]) Done() {
	s.once.Do(func() {
		s.hub.mu.Lock()
		defer s.hub.mu.Unlock()
		e := s.hub.subs[s.key]
		if e.refs--; e.refs == 0 {
			delete(s.hub.subs, s.key)
		}
	})
}
