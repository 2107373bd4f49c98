package auth

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	touchEvery = 30 * time.Second
	maxTouched = 10_000
)

// Hash is what is stored of a key: SHA-256 of its text.
type Hash = access.Hash

// Key is a stored key, whose text is not stored. Its scopes are those that it
// gives now; none is nothing.
type Key = domain.APIKey

// KeyStore keeps keys.
type KeyStore interface {
	// LookupKey finds a key by the hash of its secret, or of the one before.
	// Returns NotFound. It is on the path of every request.
	LookupKey(ctx context.Context, hash Hash) (Key, error)
	// TouchKeys records when keys were last used.
	TouchKeys(ctx context.Context, lastUsed map[domain.ID]time.Time) error
}

// MintKey makes a new key and what to store of it.
func MintKey() (text string, hash Hash) { return access.MintKey(access.KeyPrefix) }

// HashKey is what is stored of a key.
func HashKey(text string) Hash { return access.HashKey(text) }

// LooksLikeKey reports whether a text has the form of a key.
func LooksLikeKey(text string) bool { return access.LooksLikeKey(text) }

// Keys authenticates by keys in a store.
type Keys struct {
	store  KeyStore
	logger *slog.Logger
	now    func() time.Time

	mu      sync.Mutex
	touched map[domain.ID]time.Time
}

// NewKeys makes an authenticator over a store. now is the clock; nil is time.Now.
func NewKeys(store KeyStore, logger *slog.Logger, now func() time.Time) *Keys {
	if now == nil {
		now = time.Now
	}
	return &Keys{store: store, logger: logger, now: now, touched: map[domain.ID]time.Time{}}
}

// errRefused is all that anybody learns of credentials that do not count.
var errRefused = errors.New(errors.Unauthenticated, "the key or token is not valid").WithHint("it may be mistyped, expired or revoked")

// Refused is what every authenticator answers for credentials that do not
// count, whatever the reason.
func Refused() error { return errRefused }

// Authenticate implements [Authenticator].
func (k *Keys) Authenticate(ctx context.Context, token string) (vmm.Caller, error) {
	if !LooksLikeKey(token) {
		return vmm.Caller{}, errRefused
	}
	hash := HashKey(token)
	key, err := k.store.LookupKey(ctx, hash)
	if errors.HasCode(err, errors.NotFound) {
		return vmm.Caller{}, errRefused
	}
	if err != nil {
		return vmm.Caller{}, unchecked(err)
	}
	now := k.now()
	if !key.Opens(hash, now) {
		return vmm.Caller{}, errRefused
	}
	k.touch(key.ID, now)
	return callerOf(&key, hash), nil
}

// unchecked is for credentials that may be good, while nobody can tell.
func unchecked(err error) error {
	return errors.Wrap(err, errors.Unavailable, "credentials cannot be checked at the moment").WithRetryAfter(time.Second)
}

// callerOf is who shows a key by a secret with a hash.
func callerOf(key *Key, hash Hash) vmm.Caller {
	by := vmm.Caller{
		ProjectID: key.ProjectID, Name: key.Name, KeyID: key.ID, UserID: key.UserID, Scopes: key.Scopes, Admin: key.Scopes.Allows(domain.ScopeAdmin),
	}
	if key.ExpiresAt != nil {
		by.Until = *key.ExpiresAt
	}
	if hash != key.Hash && key.OldUntil != nil { // by the secret before
		by.Until = earlier(by.Until, *key.OldUntil)
	}
	return by
}

// earlier is the first of two times; zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func (k *Keys) touch(id domain.ID, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, known := k.touched[id]; known || len(k.touched) < maxTouched {
		k.touched[id] = now
	}
}

// Run writes last-used times in batches until ctx ends, and then once more.
func (k *Keys) Run(ctx context.Context) error {
	tick := time.NewTicker(touchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := k.Flush(ctx); err != nil && ctx.Err() == nil {
				k.logger.WarnContext(ctx, "last use of keys not recorded", "error", err)
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return k.Flush(last)
		}
	}
}

// Flush writes the last-used times gathered so far. On an error they are kept.
func (k *Keys) Flush(ctx context.Context) error {
	k.mu.Lock()
	batch := k.touched
	k.touched = map[domain.ID]time.Time{}
	k.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	err := k.store.TouchKeys(ctx, batch)
	if err != nil {
		k.mu.Lock()
		for id, at := range batch {
			if newer, ok := k.touched[id]; !ok || newer.Before(at) {
				k.touched[id] = at
			}
		}
		k.mu.Unlock()
	}
	return err
}
