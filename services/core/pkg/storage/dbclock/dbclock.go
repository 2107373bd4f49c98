// Package dbclock tells a database's time between two looks at it. The processes
// of an installation agree on that time, whatever the clocks of their hosts say
// and however these are set: what one writes, others compare with.
package dbclock

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

const (
	// lookEvery is how far apart looks are. Between them a host's monotonic clock
	// is wrong by less than a millisecond, unless the host was suspended.
	lookEvery = 10 * time.Second
	lookLimit = 5 * time.Second
)

// Clock is safe for concurrent use.
type Clock struct {
	store storage.Store
	known atomic.Pointer[pair]
}

// pair is what the database's time was when the monotonic clock of this process
// was at another.
type pair struct{ there, here time.Time }

// Open looks at the database's time. Returns what the store returns.
func Open(ctx context.Context, store storage.Store) (*Clock, error) {
	c := &Clock{store: store}
	return c, c.Look(ctx)
}

// Now is the database's time, in UTC.
func (c *Clock) Now() time.Time { return c.known.Load().at(time.Now()) }

// at is the database's time at a moment of this process.
func (p *pair) at(here time.Time) time.Time { return p.there.Add(here.Sub(p.here)) }

// Look looks at the database's time once more. A slow answer says little: it is
// by now what the database said, or later by at most what the answer took, and
// the clock is moved no farther than into that. Returns what the store returns.
func (c *Clock) Look(ctx context.Context) error {
	var said, asked time.Time
	err := c.store.View(ctx, func(tx storage.Tx) (err error) {
		asked = time.Now()
		said, err = tx.Workers().Clock(ctx)
		return err
	})
	if err != nil {
		return err
	}
	here := time.Now()
	least, most := said, said.Add(here.Sub(asked))
	there := least
	if known := c.known.Load(); known != nil && known.at(here).After(least) {
		if there = known.at(here); there.After(most) {
			there = most
		}
	}
	c.known.Store(&pair{there, here})
	return nil
}

// Run looks again and again until ctx ends. While the database is away the clock
// goes on.
func (c *Clock) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		limited, cancel := context.WithTimeout(ctx, lookLimit)
		if err := c.Look(limited); err != nil {
			log.Debug("the database's time cannot be told, going on with what is known", "error", err)
		}
		cancel()
	}
}
