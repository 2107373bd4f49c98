package host

import (
	"context"

	"github.com/aetherium/aetherium/services/core/pkg/queue/asynq"
	"github.com/aetherium/aetherium/services/core/pkg/queue/standby"
)

// maxJobs is how many jobs run at once.
const maxJobs = 64

// openQueue makes the queue of this worker's jobs. In Redis it has a name of its
// own, and its owner is the same: the data directory is locked for one process at
// a time.
func (h *Host) openQueue() error {
	var err error
	h.Queue, err = standby.Open(h.in.Redis, asynq.Config{
		Name: h.options.Queue, Owner: h.options.Queue, Workers: maxJobs, Metrics: h.Metrics, Logger: h.log,
	})
	if err != nil {
		return err
	}
	// Before its connection, whoever has not stopped it.
	h.opened("queue", func() error {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		return h.Queue.Stop(now)
	})
	return nil
}
