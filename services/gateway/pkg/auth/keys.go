package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"log/slog"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// KeyPrefix starts every key, so that scanners for leaked secrets find them.
const KeyPrefix = "aeth_"

const (
	keyHexDigits = 40 // 160 random bits: too many to guess, so a fast hash will do
	touchEvery   = 30 * time.Second
	maxTouched   = 10_000
)

// Hash is what is stored of a key: SHA-256 of its text.
type Hash [sha256.Size]byte

// Key is a stored key. Its text is not stored.
type Key struct {
	ID        domain.ID
	ProjectID domain.ID
	Name      string // for tombstones, audit and logs
	Hash      Hash
	Scopes    domain.Scopes // none: nothing
	ExpiresAt *time.Time    // nil: never
	RevokedAt *time.Time    // nil: in force
}

// KeyStore keeps keys.
type KeyStore interface {
	// LookupKey finds a key by its hash. Returns NotFound. It is on the path
	// of every request.
	LookupKey(ctx context.Context, hash Hash) (Key, error)
	// TouchKeys records when keys were last used.
	TouchKeys(ctx context.Context, lastUsed map[domain.ID]time.Time) error
}

// MintKey makes a new key and what to store of it.
func MintKey() (text string, hash Hash) {
	var b [keyHexDigits / 2]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand aborts the process instead
	text = KeyPrefix + hex.EncodeToString(b[:])
	return text, HashKey(text)
}

// HashKey is what is stored of a key.
func HashKey(text string) Hash { return sha256.Sum256([]byte(text)) }

// LooksLikeKey reports whether a text has the form of a key.
func LooksLikeKey(text string) bool {
	if len(text) != len(KeyPrefix)+keyHexDigits || text[:len(KeyPrefix)] != KeyPrefix {
		return false
	}
	for i := len(KeyPrefix); i < len(text); i++ {
		c := text[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

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

// Authenticate implements [Authenticator].
func (k *Keys) Authenticate(ctx context.Context, token string) (vmm.Caller, error) {
	refused := errors.New(errors.Unauthenticated, "the key is not valid").WithHint("it may be mistyped, expired or revoked")
	if !LooksLikeKey(token) {
		return vmm.Caller{}, refused
	}
	hash := HashKey(token)
	key, err := k.store.LookupKey(ctx, hash)
	if errors.HasCode(err, errors.NotFound) {
		return vmm.Caller{}, refused
	}
	if err != nil {
		return vmm.Caller{}, errors.Wrap(err, errors.Unavailable, "keys cannot be checked at the moment").WithRetryAfter(time.Second)
	}
	now := k.now()
	switch {
	case subtle.ConstantTimeCompare(key.Hash[:], hash[:]) != 1,
		key.RevokedAt != nil,
		key.ExpiresAt != nil && !now.Before(*key.ExpiresAt):
		return vmm.Caller{}, refused
	}
	k.touch(key.ID, now)
	return vmm.Caller{
		ProjectID: key.ProjectID, Name: key.Name, KeyID: key.ID, Scopes: key.Scopes, Admin: key.Scopes.Allows(domain.ScopeAdmin),
	}, nil
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
