package container

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Opener opens a thing T from its configuration C.
type Opener[C, T any] func(ctx context.Context, config C) (T, error)

// Registry finds openers by name. It is safe for concurrent use.
type Registry[C, T any] struct {
	what    string
	mu      sync.RWMutex
	openers map[string]Opener[C, T]
}

// NewRegistry makes a registry; what names the kind of thing for errors ("driver").
func NewRegistry[C, T any](what string) *Registry[C, T] {
	return &Registry[C, T]{what: what, openers: make(map[string]Opener[C, T])}
}

// Register adds an opener. Returns AlreadyExists for a name that is taken,
// InvalidArgument without a name or an opener.
func (r *Registry[C, T]) Register(name string, open Opener[C, T]) error {
	if name == "" || open == nil {
		return errors.New(errors.InvalidArgument, "a %s needs a name and a way to be opened", r.what)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.openers[name]; ok {
		return errors.New(errors.AlreadyExists, "there is a %s named %q already", r.what, name)
	}
	r.openers[name] = open
	return nil
}

// Open opens the thing with a name. Returns NotFound, naming those there are.
func (r *Registry[C, T]) Open(ctx context.Context, name string, config C) (T, error) {
	r.mu.RLock()
	open, ok := r.openers[name]
	r.mu.RUnlock()
	if !ok {
		var none T
		return none, errors.New(errors.NotFound, "there is no %s named %q", r.what, name).
			WithHint("use one of: %s", strings.Join(r.Names(), ", "))
	}
	return open(ctx, config)
}

// Names lists the names in order.
func (r *Registry[C, T]) Names() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Keys(r.openers))
}
