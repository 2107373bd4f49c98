package proxy

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// LinkStore keeps one-time links until they are used or expire.
type LinkStore interface {
	// Put keeps a link under the hash of its secret. Returns RateLimited when
	// there is no room.
	Put(ctx context.Context, hash [sha256.Size]byte, t Target, expires time.Time) error
	// Take removes a link and returns what it is for. Of several callers, one
	// succeeds. Returns NotFound for a link that is unknown, used or expired.
	Take(ctx context.Context, hash [sha256.Size]byte) (Target, error)
}

const maxLinks = 10_000

// MemoryLinks is a LinkStore in memory. Links die with the process, which is
// the safe side: none can be used twice.
type MemoryLinks struct {
	now   func() time.Time
	mu    sync.Mutex
	links map[[sha256.Size]byte]link
}

type link struct {
	target  Target
	expires time.Time
}

// NewMemoryLinks makes an empty store. now is the clock; nil is time.Now.
func NewMemoryLinks(now func() time.Time) *MemoryLinks {
	if now == nil {
		now = time.Now
	}
	return &MemoryLinks{now: now, links: map[[sha256.Size]byte]link{}}
}

// Put implements LinkStore.
func (m *MemoryLinks) Put(_ context.Context, hash [sha256.Size]byte, t Target, expires time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.links) >= maxLinks {
		now := m.now()
		for h, l := range m.links {
			if !now.Before(l.expires) {
				delete(m.links, h)
			}
		}
		if len(m.links) >= maxLinks {
			return errors.New(errors.RateLimited, "too many links wait to be used").WithRetryAfter(time.Minute)
		}
	}
	m.links[hash] = link{t, expires}
	return nil
}

// Take implements LinkStore.
func (m *MemoryLinks) Take(_ context.Context, hash [sha256.Size]byte) (Target, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, ok := m.links[hash]
	delete(m.links, hash)
	if !ok || !m.now().Before(l.expires) {
		return Target{}, errors.New(errors.NotFound, "the link is not valid")
	}
	return l.target, nil
}

// newSecret makes a link's secret and the hash it is kept under.
func newSecret() (secret string, hash [sha256.Size]byte) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand aborts the process instead
	secret = base64.RawURLEncoding.EncodeToString(b[:])
	return secret, sha256.Sum256([]byte(secret))
}
