package logging

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// maxBatch bounds the records that wait; whoever brings one more writes them all.
const maxBatch = 1024

// Batch is a handler that hands on what it is given a moment later, many
// records at a time: for lines that come so often, and where so little may be
// waited, that writing each at once is what costs most. Records keep their order
// and time. Errors wait for nothing. What waits when the process is killed is lost.
type Batch struct {
	queue *batchQueue
	next  slog.Handler
}

type batchQueue struct {
	wait time.Duration

	mu      sync.Mutex // of the fields
	waiting []batched
	timer   *time.Timer

	writing sync.Mutex // one batch after the other
}

type batched struct {
	to     slog.Handler
	record slog.Record
}

// NewBatch makes a handler that hands records on to next after wait.
func NewBatch(next slog.Handler, wait time.Duration) *Batch {
	q := &batchQueue{wait: wait}
	q.timer = time.AfterFunc(wait, q.flush)
	q.timer.Stop()
	return &Batch{q, next}
}

// Flush hands on what waits.
func (b *Batch) Flush() { b.queue.flush() }

// Enabled implements slog.Handler.
func (b *Batch) Enabled(ctx context.Context, level slog.Level) bool {
	return b.next.Enabled(ctx, level)
}

// Handle implements slog.Handler. Whether the record could be written is not told.
func (b *Batch) Handle(_ context.Context, r slog.Record) error {
	q := b.queue
	q.mu.Lock()
	q.waiting = append(q.waiting, batched{b.next, r.Clone()})
	n := len(q.waiting)
	if n == 1 {
		q.timer.Reset(q.wait)
	}
	q.mu.Unlock()
	if n >= maxBatch || r.Level >= slog.LevelError {
		q.flush()
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (b *Batch) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Batch{b.queue, b.next.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (b *Batch) WithGroup(name string) slog.Handler {
	return &Batch{b.queue, b.next.WithGroup(name)}
}

func (q *batchQueue) flush() {
	q.writing.Lock()
	defer q.writing.Unlock()
	q.mu.Lock()
	batch := q.waiting
	q.waiting = nil
	q.mu.Unlock()
	for _, b := range batch {
		_ = b.to.Handle(context.Background(), b.record) // as slog.Logger does with it
	}
}
