package app

import (
	"context"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
)

// maxKeys bounds the keys that are remembered.
const maxKeys = 1024

// keys lets the gateway look keys up in the store. Every request asks for one,
// so those found are remembered until any key is added or revoked.
type keys struct {
	store storage.Store

	mu      sync.Mutex
	version uint64 // of the store's keys, of which known are
	known   map[auth.Hash]auth.Key
}

var _ auth.KeyStore = (*keys)(nil)

func newKeys(s storage.Store) *keys { return &keys{store: s} }

// LookupKey implements auth.KeyStore.
func (k *keys) LookupKey(ctx context.Context, hash auth.Hash) (auth.Key, error) {
	version := k.store.KeysVersion()
	if key, ok := k.remembered(version, hash); ok {
		return key, nil
	}
	var row *domain.APIKey
	err := k.store.View(ctx, func(tx storage.Tx) (err error) {
		row, err = tx.Keys().ByHash(ctx, hash)
		return err
	})
	if err != nil {
		return auth.Key{}, err
	}
	key := auth.Key{
		ID: row.ID, ProjectID: row.ProjectID, Name: row.Name, Hash: row.Hash, Scopes: row.Allowed(),
		ExpiresAt: row.ExpiresAt, RevokedAt: row.RevokedAt,
	}
	k.remember(version, hash, key)
	return key, nil
}

func (k *keys) remembered(version uint64, hash auth.Hash) (key auth.Key, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if version == 0 || k.version != version {
		return key, false
	}
	key, ok = k.known[hash]
	return key, ok
}

// remember keeps what was read when the keys had a version or a later one. An
// older one's is of no use to anybody.
func (k *keys) remember(version uint64, hash auth.Hash, key auth.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case version == 0 || version < k.version:
		return
	case version > k.version, len(k.known) >= maxKeys:
		k.version, k.known = version, map[auth.Hash]auth.Key{}
	}
	k.known[hash] = key
}

// TouchKeys implements auth.KeyStore.
func (k *keys) TouchKeys(ctx context.Context, lastUsed map[domain.ID]time.Time) error {
	return k.store.Update(ctx, func(tx storage.Tx) error {
		for id, at := range lastUsed {
			if err := tx.Keys().Used(ctx, id, at.UTC().Truncate(time.Microsecond)); err != nil {
				return err
			}
		}
		return nil
	})
}
