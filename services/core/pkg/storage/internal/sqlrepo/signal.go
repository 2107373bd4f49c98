package sqlrepo

import (
	"sync"

	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// Signal wakes whoever waits for something to be committed. Its zero value is ready.
type Signal struct {
	mu     sync.Mutex
	change watch.Change
}

// Channel is closed by the next announcement.
func (s *Signal) Channel() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.change.Next()
}

// Announce wakes all who wait.
func (s *Signal) Announce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change.Notify()
}
