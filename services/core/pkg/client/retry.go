package client

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// The pace of repeated attempts: quick at first, since a restart takes a
// moment, then calm.
const (
	firstPause = 20 * time.Millisecond
	longPause  = 2 * time.Second
	// maxRetryAfter is the longest that a server may have a client wait
	// unasked; beyond it the error is the caller's.
	maxRetryAfter = 5 * time.Second
)

// backoff is the waiting between attempts, within the client's patience.
type backoff struct {
	pause    time.Duration
	began    time.Time
	patience time.Duration
}

func (c *Client) backoff() *backoff {
	return &backoff{pause: firstPause, patience: c.patience}
}

// wait waits before the next attempt; false when patience or ctx has ended.
func (b *backoff) wait(ctx context.Context, err error) bool {
	if b.began.IsZero() {
		b.began = time.Now()
	}
	d := b.pause/2 + rand.N(b.pause/2+1)
	b.pause = min(2*b.pause, longPause)
	var e *errors.Error
	if errors.As(err, &e) {
		d = max(d, e.RetryAfter)
	}
	if b.down()+d > b.patience {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// down is how long it has not worked.
func (b *backoff) down() time.Duration {
	if b.began.IsZero() {
		return 0
	}
	return time.Since(b.began)
}

func (b *backoff) reset() { b.pause, b.began = firstPause, time.Time{} }

// worthRepeating reports whether an error may go away by itself soon.
func (c *Client) worthRepeating(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	if IsUnreachable(err) {
		return c.reached.Load()
	}
	var e *errors.Error
	p := ProblemOf(err)
	if p == nil || !errors.As(err, &e) {
		return false
	}
	switch {
	case e.Code == errors.CapacityExhausted || e.RetryAfter > maxRetryAfter:
		return false // the caller may rather want to know
	// A conflict that ends by itself: our own request, whose answer did not
	// arrive, is still being worked on.
	case p.Status == http.StatusTooManyRequests, p.Status == http.StatusServiceUnavailable, p.Status == http.StatusConflict:
		return e.RetryAfter > 0
	case p.Status == http.StatusBadGateway:
		return p.Title == "" // a proxy in between, not the server: ours always has a title
	}
	return false
}
