package service

import (
	"context"
	"crypto/rand"
	"encoding/hex"

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
func newTokens() []byte {
	var b [2 * tokenBytes]byte
	_, _ = rand.Read(b[:])
	return hex.AppendEncode(nil, b[:])
}

// openTokens decrypts a VM's tokens. Returns Gone for a VM that ends or has
// ended: its tokens are wiped with it.
func (s *Service) openTokens(ctx context.Context, vm *domain.VM) (tokens, error) {
	if vm.Desired == domain.WantDeleted {
		return tokens{}, notRunning(vm)
	}
	both, err := s.sealer.Open(ctx, storage.SealedVMToken(vm.ID), vm.TokenSealed)
	if err != nil {
		return tokens{}, err
	}
	at := min(hex.EncodedLen(tokenBytes), len(both))
	return tokens{preview: string(both[:at]), agent: string(both[at:])}, nil
}
