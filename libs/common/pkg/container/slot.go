package container

import (
	"strings"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Slot is a typed place that is filled once. It is safe for concurrent use.
type Slot[T any] struct {
	name string
	mu   sync.Mutex
	set  bool
	v    T
}

// NewSlot makes an empty slot; the name is for errors.
func NewSlot[T any](name string) *Slot[T] { return &Slot[T]{name: name} }

// Set fills the slot. Returns Conflict when it is filled.
func (s *Slot[T]) Set(v T) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set {
		return errors.New(errors.Conflict, "the %s is set already", s.name)
	}
	s.v, s.set = v, true
	return nil
}

// Get gives what the slot holds. Returns Internal when it is empty.
func (s *Slot[T]) Get() (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.set {
		return s.v, errors.New(errors.Internal, "the %s is not set", s.name)
	}
	return s.v, nil
}

// Filled reports whether the slot is filled.
func (s *Slot[T]) Filled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set
}

// Name gives the slot's name.
func (s *Slot[T]) Name() string { return s.name }

// Place is a slot of any type.
type Place interface {
	Name() string
	Filled() bool
}

// Require returns Internal, naming all empty slots, unless every one is filled.
func Require(places ...Place) error {
	var missing []string
	for _, p := range places {
		if !p.Filled() {
			missing = append(missing, p.Name())
		}
	}
	if len(missing) > 0 {
		return errors.New(errors.Internal, "not set: %s", strings.Join(missing, ", "))
	}
	return nil
}
