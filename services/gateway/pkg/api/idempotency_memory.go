package api

import (
	"context"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// maxRemembered bounds MemoryIdempotency.
const maxRemembered = 10_000

// MemoryIdempotency is an IdempotencyStore in memory: for tests, and where
// repeats need not be recognised across a restart.
type MemoryIdempotency struct {
	mu      sync.Mutex
	entries map[memoryKey]*memoryEntry
	now     func() time.Time
}

type memoryKey struct {
	project domain.ID
	key     string
}

type memoryEntry struct {
	digest   string
	response *StoredResponse // nil: in flight
	expires  time.Time
}

// NewMemoryIdempotency makes an empty store. now is the clock; nil is time.Now.
func NewMemoryIdempotency(now func() time.Time) *MemoryIdempotency {
	if now == nil {
		now = time.Now
	}
	return &MemoryIdempotency{entries: map[memoryKey]*memoryEntry{}, now: now}
}

// Begin implements IdempotencyStore.
func (m *MemoryIdempotency) Begin(_ context.Context, project domain.ID, key, digest string) (*StoredResponse, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	k := memoryKey{project, key}
	if e, ok := m.entries[k]; ok && now.Before(e.expires) {
		if e.digest != digest {
			return nil, false, errors.New(errors.IdempotencyMismatch, "this Idempotency-Key was used for another request").
				WithHint("use a new key for a new request")
		}
		return e.response, e.response == nil, nil
	}
	if len(m.entries) >= maxRemembered {
		m.sweep(now)
	}
	if len(m.entries) >= maxRemembered {
		return nil, false, errors.New(errors.Unavailable, "too many idempotency keys are remembered").WithRetryAfter(time.Minute)
	}
	m.entries[k] = &memoryEntry{digest: digest, expires: now.Add(IdempotencyTTL)}
	return nil, false, nil
}

// Finish implements IdempotencyStore.
func (m *MemoryIdempotency) Finish(_ context.Context, project domain.ID, key, digest string, response *StoredResponse) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := memoryKey{project, key}
	e, ok := m.entries[k]
	if !ok || e.digest != digest || e.response != nil {
		return nil // somebody else's claim by now
	}
	if response == nil {
		delete(m.entries, k)
		return nil
	}
	e.response = response
	return nil
}

func (m *MemoryIdempotency) sweep(now time.Time) {
	for k, e := range m.entries {
		if !now.Before(e.expires) {
			delete(m.entries, k)
		}
	}
}
