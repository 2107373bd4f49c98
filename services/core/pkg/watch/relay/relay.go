// Package relay wakes those who wait in other processes, by Redis. What they
// wait for is in the database; without Redis they look there after a while.
package relay

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/watch"
	goredis "github.com/redis/go-redis/v9"
)

// Backstop is after how long those who wait do well to look again, whatever they
// were told: what Redis loses is found late, and never lost.
const Backstop = 5 * time.Second

// backlog is how many wake-ups may be on their way to Redis.
const backlog = 1024

// Config of a relay.
type Config[K ~string] struct {
	Client   goredis.UniversalClient // stays the caller's
	Name     string                  // processes with the same name wake each other
	Hub      *watch.Hub[K]           // of this process
	Backstop time.Duration           // after which all who wait look again, whatever was told
	Logger   *slog.Logger
}

// Relay connects the hubs of several processes.
type Relay[K ~string] struct {
	c       Config[K]
	channel string
	out     chan K
	quit    context.CancelFunc
	loops   sync.WaitGroup
}

// Start connects a hub to those of other processes until Close. Redis may be away.
func Start[K ~string](c Config[K]) *Relay[K] {
	ctx, cancel := context.WithCancel(context.Background())
	r := &Relay[K]{c: c, channel: "aetherium:changes:{" + c.Name + "}", out: make(chan K, backlog), quit: cancel}
	r.loops.Go(func() { r.tell(ctx) })
	r.loops.Go(func() { r.hear(ctx) })
	return r
}

// Subscribe implements watch.Changes.
func (r *Relay[K]) Subscribe(key K) *watch.Subscription[K] { return r.c.Hub.Subscribe(key) }

// Notify wakes everybody who waits for key: here at once, in other processes
// soon. It never waits itself.
func (r *Relay[K]) Notify(key K) {
	r.c.Hub.Notify(key)
	select {
	case r.out <- key:
	default: // they look again after the backstop
	}
}

// Close ends the connection. Those who wait here are not woken any more by others.
func (r *Relay[K]) Close() {
	r.quit()
	r.loops.Wait()
}

func (r *Relay[K]) tell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case key := <-r.out:
			if err := r.c.Client.Publish(ctx, r.channel, string(key)).Err(); err != nil && ctx.Err() == nil {
				r.c.Logger.Debug("other processes are not told of a change", "error", err)
			}
		}
	}
}

func (r *Relay[K]) hear(ctx context.Context) {
	sub := r.c.Client.Subscribe(ctx, r.channel)
	defer func() { _ = sub.Close() }()
	told := sub.ChannelWithSubscriptions()
	tick := time.NewTicker(r.c.Backstop)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.c.Hub.NotifyAll()
		case m, open := <-told:
			if !open {
				return
			}
			if m, ok := m.(*goredis.Message); ok {
				r.c.Hub.Notify(K(m.Payload))
				continue
			}
			r.c.Hub.NotifyAll() // connected (again): what was told before was not heard
		}
	}
}
