// Package backoff spaces out attempts to reach something that is away.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff doubles a pause from a first to a longest one, with jitter, so that
// many who lost the same channel do not all return at once.
type Backoff struct {
	first, longest, next time.Duration
}

// New makes a backoff.
func New(first, longest time.Duration) *Backoff {
	return &Backoff{first: first, longest: longest, next: first}
}

// Reset begins again with the first pause.
func (b *Backoff) Reset() { b.next = b.first }

// Wait pauses until the time is up, stop is closed, or ctx ends, whose error it returns.
func (b *Backoff) Wait(ctx context.Context, stop <-chan struct{}) error {
	pause := b.next/2 + rand.N(b.next/2+1)
	b.next = min(2*b.next, b.longest)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-stop:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
