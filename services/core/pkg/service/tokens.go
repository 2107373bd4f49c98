package service

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// tokens are what is shown for a VM by who holds no key. Neither tells the
// other: who may visit its servers may not run commands in it.
type tokens struct {
	preview string // of visitors of its servers
	agent   string // of clients of its agent; empty in VMs of earlier versions
}

const tokenBytes = 20

// newTokens makes both, as they are sealed: one behind the other.
func newTokens() []byte { return append(newToken(), newToken()...) }

// newToken makes one, as it is shown.
func newToken() []byte {
	var b [tokenBytes]byte
	_, _ = rand.Read(b[:])
	return hex.AppendEncode(nil, b[:])
}

// openTokens decrypts a VM's tokens, or remembers them. Returns Gone for a VM
// that ends or has ended: its tokens are wiped with it.
func (s *Service) openTokens(ctx context.Context, vm *domain.VM) (tokens, error) {
	if vm.Desired == domain.WantDeleted {
		s.opened.forget(vm.ID)
		return tokens{}, notRunning(vm)
	}
	if t, ok := s.opened.recall(vm, s.now()); ok {
		return t, nil
	}
	both, err := s.sealer.Open(ctx, storage.SealedVMToken(vm.ID), vm.TokenSealed)
	if err != nil {
		return tokens{}, err
	}
	at := min(hex.EncodedLen(tokenBytes), len(both))
	t := tokens{preview: string(both[:at]), agent: string(both[at:])}
	s.opened.remember(vm, t, s.now())
	return t, nil
}

const (
	maxOpened = 4096
	// keepOpened is as long as the keys of other sealed values stay in memory.
	keepOpened = 5 * time.Minute
)

// openedTokens are VMs' tokens in clear, for every request to a VM's agent and
// servers asks for them. What is remembered counts for a row that has the very
// tokens it was opened from, sealed as they were: there is nothing to be
// told of when a row changes.
type openedTokens struct {
	mu    sync.RWMutex
	known map[domain.ID]openedToken
}

type openedToken struct {
	tokens
	sealed []byte
	until  time.Time
}

func (o *openedTokens) recall(vm *domain.VM, now time.Time) (tokens, bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	t, ok := o.known[vm.ID]
	return t.tokens, ok && now.Before(t.until) && bytes.Equal(t.sealed, vm.TokenSealed)
}

func (o *openedTokens) remember(vm *domain.VM, t tokens, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil || len(o.known) >= maxOpened {
		o.known = map[domain.ID]openedToken{} // those in use are soon back
	}
	o.known[vm.ID] = openedToken{t, bytes.Clone(vm.TokenSealed), now.Add(keepOpened)}
}

func (o *openedTokens) forget(id domain.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.known, id)
}
