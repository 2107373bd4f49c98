package app

import (
	"context"

	"github.com/aetherium/aetherium/services/core/pkg/queue/asynq"
	"github.com/aetherium/aetherium/services/core/pkg/queue/memory"
	"github.com/aetherium/aetherium/services/core/pkg/queue/standby"
	"github.com/aetherium/aetherium/services/core/pkg/redis"
)

// maxJobs is how many jobs run at once.
const maxJobs = 64

// openRedis connects to where jobs wait, if that is not in memory. One that
// does not serve needs no more than its memory: it ends what there is.
func (n *node) openRedis(ctx context.Context, serves bool) (err error) {
	if n.settings.Queue == "" || !serves {
		return nil
	}
	if n.redis, err = redis.Open(ctx, n.settings.Queue, n.log); err != nil {
		return err
	}
	n.opened("connection to Redis", n.redis.Close)
	return nil
}

// openQueue makes the queue of the installation. In Redis it has the instance's
// name, so that installations can share one, and its owner is the instance,
// too: the data directory is locked for one process at a time.
func (n *node) openQueue() error {
	own := memory.New(maxJobs, n.queueMetrics, n.log)
	n.queue = own
	if n.redis != nil {
		shared, err := asynq.New(asynq.Config{
			Client: n.redis, Name: n.instance, Owner: n.instance, Workers: maxJobs, Metrics: n.queueMetrics, Logger: n.log,
		})
		if err != nil {
			return err
		}
		n.queue = standby.New(shared, own, n.log)
	}
	// Before its connection, whoever has not stopped it.
	n.opened("queue", func() error {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		return n.queue.Stop(now)
	})
	return nil
}
