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

// Links are one-time links until they are used or expire.
type Links interface {
	// New makes the secret of a link to a VM that has a token. Returns RateLimited
	// when there is no room.
	New(ctx context.Context, t Target, token string, expires time.Time) (secret string, err error)
	// Take uses a link up. Of several callers, one succeeds. Returns NotFound for a
	// link that is unknown, used, expired or to something else.
	Take(ctx context.Context, t Target, token, secret string) error
}

const maxLinks = 10_000

// MemoryLinks are links in memory, for a process that is the only one to make and
// open them. They die with it, which is the safe side: none can be used twice.
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

// New implements Links.
func (m *MemoryLinks) New(_ context.Context, t Target, _ string, expires time.Time) (string, error) {
	secret, hash := newSecret()
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
			return "", errors.New(errors.RateLimited, "too many links wait to be used").WithRetryAfter(time.Minute)
		}
	}
	m.links[hash] = link{t, expires}
	return secret, nil
}

// Take implements Links.
func (m *MemoryLinks) Take(_ context.Context, t Target, _, secret string) error {
	hash := sha256.Sum256([]byte(secret))
	m.mu.Lock()
	defer m.mu.Unlock()
	l, ok := m.links[hash]
	delete(m.links, hash)
	if !ok || !m.now().Before(l.expires) || l.target != t {
		return errors.New(errors.NotFound, "the link is not valid")
	}
	return nil
}

// newSecret makes a link's secret and the hash it is kept under.
func newSecret() (secret string, hash [sha256.Size]byte) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand aborts the process instead
	secret = base64.RawURLEncoding.EncodeToString(b[:])
	return secret, sha256.Sum256([]byte(secret))
}
