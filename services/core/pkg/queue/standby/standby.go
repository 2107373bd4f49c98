// Package standby is the queue of a process beside the one that processes share.
// It goes on while that cannot be reached: what it does not take is run by this
// process, from its memory. And it runs from there what is to be run directly, of
// which the shared one keeps what takes its time or has failed. It is for jobs that
// this process would run anyhow, and that a sweep finds in the database if the
// process ends before they have run.
package standby

import (
	"context"
	"log/slog"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/queue/asynq"
	"github.com/aetherium/aetherium/services/core/pkg/queue/memory"
)

const (
	// patience is, by default, for the shared queue to take a job.
	patience = time.Second
	// pause is between attempts at a shared queue that was away.
	pause = time.Second
)

// Open makes a queue that processes share, with one of this process beside it;
// where client is nil, one of this process alone.
func Open(client *goredis.Client, c asynq.Config) (queue.Queue, error) {
	own := memory.New(c.Workers, c.Metrics, c.Logger)
	if client == nil {
		return own, nil
	}
	c.Client = client
	shared, err := asynq.New(c)
	if err != nil {
		return nil, err
	}
	return New(shared, own, c.Logger), nil
}

// Queue implements queue.Queue on two others.
type Queue struct {
	queue.Joined
	shared, own queue.Queue
	log         *slog.Logger
	like        likes
	direct      directs
	quit        chan struct{} // closed by Stop
	once        sync.Once
	showAfter   time.Duration
	patience    time.Duration

	mu    sync.Mutex
	tried time.Time // the last attempt of those that failed; zero: it is there
}

var _ queue.Queue = (*Queue)(nil)

// New makes a queue of one that processes share and one of this process.
func New(shared, own queue.Queue, log *slog.Logger) *Queue {
	q := &Queue{shared: shared, own: own, log: log, quit: make(chan struct{}), showAfter: showAfter, patience: patience}
	both := []queue.Inspector{unshown{own, &q.direct}, shared}
	q.Joined = func(context.Context) ([]queue.Inspector, error) { return both, nil }
	return q
}

// Handle implements queue.Queue. Jobs of a key do not overlap in this process,
// whichever queue has them, and though one has lost its lease.
func (q *Queue) Handle(kind string, h queue.Handler) {
	alone := func(ctx context.Context, job queue.Job) error {
		if job.Key == "" {
			return h(ctx, job)
		}
		leave, err := q.like.enter(ctx, like{kind, job.Key})
		if err != nil {
			return err
		}
		defer leave()
		return h(ctx, job)
	}
	q.shared.Handle(kind, q.awaiting(alone))
	q.own.Handle(kind, q.minding(alone))
}

// Enqueue implements queue.Queue. A job that is given to the shared queue while
// that fails may run in both.
func (q *Queue) Enqueue(ctx context.Context, args queue.Args, o queue.Options) error {
	if o.Direct {
		return q.directly(ctx, args, o)
	}
	return q.share(ctx, args, o, func() error { return q.own.Enqueue(ctx, args, o) })
}

// share gives a job to the shared queue, or, while that is away, does without.
func (q *Queue) share(ctx context.Context, args queue.Args, o queue.Options, without func() error) error {
	if !q.ask() {
		return without()
	}
	limited, cancel := context.WithTimeout(ctx, q.patience)
	defer cancel()
	err := q.shared.Enqueue(limited, args, o)
	switch {
	case ctx.Err() != nil, err != nil && !away(err):
		return err
	case err != nil:
		if q.tell(false) {
			q.log.Warn("the shared queue is away: jobs are run by this process alone", "error", err)
		}
		return without()
	}
	if q.tell(true) {
		q.log.Info("the shared queue is back")
	}
	return nil
}

func away(err error) bool {
	return errors.HasCode(err, errors.Unavailable) || errors.HasCode(err, errors.DeadlineExceeded) || errors.HasCode(err, errors.NoSpace)
}

// ask reports whether the shared queue is to be tried; of those who come while
// it is away, one does after each pause.
func (q *Queue) ask() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.tried.IsZero() && time.Since(q.tried) < pause {
		return false
	}
	if !q.tried.IsZero() {
		q.tried = time.Now()
	}
	return true
}

// tell says whether the shared queue was there, and reports whether that is new.
func (q *Queue) tell(there bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	changed := q.tried.IsZero() != there
	if q.tried = time.Now(); there {
		q.tried = time.Time{}
	}
	return changed
}

// Start implements queue.Queue.
func (q *Queue) Start(ctx context.Context) error {
	if err := q.own.Start(ctx); err != nil {
		return err
	}
	return q.shared.Start(ctx)
}

// Stop implements queue.Queue.
func (q *Queue) Stop(ctx context.Context) error {
	q.once.Do(func() { close(q.quit) })
	own := make(chan error, 1)
	go func() { own <- q.own.Stop(ctx) }()
	return errors.Join(q.shared.Stop(ctx), <-own)
}

// likes are the keys whose jobs run.
type likes struct {
	mu   sync.Mutex
	busy map[like]chan struct{} // closed when its job has ended
}

type like struct{ kind, key string }

// enter waits until no job of a key runs.
func (l *likes) enter(ctx context.Context, k like) (leave func(), err error) {
	for {
		l.mu.Lock()
		ended := l.busy[k]
		if ended == nil {
			break
		}
		l.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer l.mu.Unlock()
	if l.busy == nil {
		l.busy = make(map[like]chan struct{})
	}
	ended := make(chan struct{})
	l.busy[k] = ended
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.busy, k)
		close(ended)
	}, nil
}
