package worker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// rows writes execution rows and their events beside the interactive path: an
// execution waits for its agent, never for the database. What is put while a
// transaction runs goes into the next one, so a thousand short commands cost
// few transactions. The journal is the truth; a row that a crash swallows is
// written again when the worker takes the execution up.
type rows struct {
	store storage.Store
	log   *slog.Logger

	mu      sync.Mutex
	pending []rowChange
	queued  int64         // rows ever put
	written int64         // rows ever written
	changed chan struct{} // closed when written grows
	wake    chan struct{}
	hurry   chan struct{} // somebody waits
	stopped chan struct{}
	once    sync.Once
}

type rowChange struct {
	row  domain.Execution
	kind string // of the event
	at   time.Time
	done func() // after the commit; may be nil
}

func newRows(store storage.Store, log *slog.Logger) *rows {
	return &rows{store: store, log: log, changed: make(chan struct{}), wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), stopped: make(chan struct{})}
}

// put queues a row as it is now with its event. done is called once it is written.
func (r *rows) put(x *domain.Execution, kind string, at time.Time, done func()) {
	row := *x
	row.Command = domain.Command{} // never in clear
	r.mu.Lock()
	r.pending = append(r.pending, rowChange{row, kind, at, done})
	r.queued++
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// flush waits until everything put before the call is written.
func (r *rows) flush(ctx context.Context) error {
	r.mu.Lock()
	until, waits := r.queued, r.written < r.queued
	r.mu.Unlock()
	if waits {
		select {
		case r.hurry <- struct{}{}:
		default:
		}
	}
	for {
		r.mu.Lock()
		done, changed := r.written >= until, r.changed
		r.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-r.stopped:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// gatherRows is how long rows are gathered while nobody waits for them: a short
// command's start and end then cost one transaction, and that does not take the
// processor from the next command of the row.
const gatherRows = 10 * time.Millisecond

// rowsEvery is how often rows are written while they keep coming and nobody waits for
// them: a transaction takes a turn of all processes and waits for the disk, for one
// row as for many.
const rowsEvery = 40 * time.Millisecond

// gatherFor is how long rows are gathered when the last were written a time ago.
func gatherFor(ago time.Duration) time.Duration { return max(gatherRows, rowsEvery-ago) }

// retryRows is the pause before the rows that could not be written are tried again.
const retryRows = time.Second

func (r *rows) run() {
	var last time.Time
	for {
		select {
		case <-r.wake:
		case <-r.stopped:
			r.write()
			return
		}
		select {
		case <-time.After(gatherFor(time.Since(last))):
		case <-r.hurry:
		case <-r.stopped:
		}
		for !r.write() {
			select {
			case <-time.After(retryRows):
			case <-r.stopped:
				return
			}
		}
		last = time.Now()
	}
}

// stop writes what is pending and ends run.
func (r *rows) stop() { r.once.Do(func() { close(r.stopped) }) }

// maxRows bounds what one transaction writes: after an outage of the store much is
// pending, and others wait for the turn.
const maxRows = 500

// write stores everything pending; rows put meanwhile, too. It reports whether
// nothing failed.
func (r *rows) write() bool {
	for {
		r.mu.Lock()
		batch := r.pending[:min(len(r.pending), maxRows)]
		r.mu.Unlock()
		if len(batch) == 0 {
			return true
		}
		if !r.writeThese(batch) {
			return false
		}
	}
}

// writeThese stores the first of what is pending, in one transaction.
func (r *rows) writeThese(batch []rowChange) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	newest := make(map[domain.ID]int, len(batch))
	for i, c := range batch {
		if n, known := newest[c.row.ID]; !known || c.row.State.Ended() || !batch[n].row.State.Ended() {
			newest[c.row.ID] = i // but what has ended does not begin again
		}
	}
	var last []*domain.Execution // of an execution that has both begun and ended, only the end
	for i := range batch {
		if c := &batch[i]; newest[c.row.ID] == i {
			last = append(last, &c.row)
		}
	}
	err := r.store.Update(ctx, func(tx storage.Tx) error {
		if err := tx.Executions().Upsert(ctx, last...); err != nil {
			return err
		}
		for _, c := range batch {
			if c.kind == "" {
				continue
			}
			if err := tx.Outbox().Append(ctx, events.Execution(c.kind, &c.row, c.at)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		r.log.Error("execution rows not written, trying again", "rows", len(batch), "error", err)
		return false
	}
	r.mu.Lock()
	r.pending = r.pending[len(batch):]
	if len(r.pending) == 0 {
		r.pending = nil // lets go of the array
	}
	r.written += int64(len(batch))
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()
	for _, c := range batch {
		if c.done != nil {
			c.done()
		}
	}
	return true
}
