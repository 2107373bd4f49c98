// Package memory is the queue of a single process.
package memory

import (
	"container/heap"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
)

// Queue implements queue.Queue in memory.
type Queue struct {
	workers int
	log     *slog.Logger
	metrics *queue.Metrics

	mu       sync.Mutex
	handlers map[string]queue.Handler
	byID     map[string]*item
	byKey    map[jobKey]*keyed // jobs with a key that wait or run
	tenants  map[string]*tenant
	due      ring // tenants with jobs that may run now
	later    jobs // not due yet: by time
	dead     []*item
	running  int
	served   int64
	seq      int64
	timer    *time.Timer // of the earliest job that is not due yet
	started  bool
	stopped  bool
	idle     *sync.Cond // a job has ended
	ctx      context.Context
	cancel   context.CancelFunc
}

type jobKey struct{ kind, key string }

// keyed is the state of one key: at most one job waits and one runs.
type keyed struct {
	waiting *item
	running bool
	again   *item // arrived while running
}

type item struct {
	job      queue.Job
	runAt    time.Time
	priority int
	seq      int64
	index    int
	in       *jobs // the heap it waits in

	state    queue.State
	since    time.Time // it runs or is dead
	err      string
	stop     context.CancelCauseFunc // of one that runs
	canceled bool
}

var _ queue.Queue = (*Queue)(nil)

// New makes a queue that runs at most workers jobs at once. metrics may be nil.
func New(workers int, metrics *queue.Metrics, log *slog.Logger) *Queue {
	q := &Queue{
		workers: max(1, workers), log: log, metrics: metrics,
		handlers: make(map[string]queue.Handler), byID: make(map[string]*item), byKey: make(map[jobKey]*keyed),
		tenants: make(map[string]*tenant), later: jobs{less: byTime},
	}
	q.idle = sync.NewCond(&q.mu)
	q.ctx, q.cancel = context.WithCancel(context.Background())
	return q
}

// Handle implements queue.Queue.
func (q *Queue) Handle(kind string, h queue.Handler) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.handlers[kind] = h
}

// Enqueue implements queue.Queue.
func (q *Queue) Enqueue(_ context.Context, args queue.Args, o queue.Options) error {
	job, err := queue.Prepare(args, o)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return errors.New(errors.Unavailable, "the queue is stopped")
	}
	if q.handlers[job.Kind] == nil {
		return errors.New(errors.InvalidArgument, "no handler for jobs of kind %q", job.Kind)
	}
	if like := q.byID[job.ID]; like != nil {
		if like.state == queue.Dead {
			return queue.Taken(job.ID)
		}
		return nil
	}
	if len(q.byID)-q.running-len(q.dead) >= queue.MaxJobs {
		return queue.Full()
	}
	if o.RunAt.IsZero() {
		o.RunAt = time.Now()
	}
	it := &item{job: job, runAt: o.RunAt, priority: o.Priority}
	q.byID[job.ID] = it
	q.add(it)
	q.dispatch()
	return nil
}

// add puts a job into the heap, or into the one of its key. The earlier time,
// the higher priority and the newer arguments win.
func (q *Queue) add(it *item) {
	q.seq++
	it.seq = q.seq
	if it.job.Key == "" {
		q.push(it)
		return
	}
	k := q.byKey[it.key()]
	if k == nil {
		k = &keyed{}
		q.byKey[it.key()] = k
	}
	switch {
	case k.running && k.again != nil:
		q.merge(k.again, it)
	case k.running:
		k.again = it
		it.state = queue.Waiting
	case k.waiting != nil && k.waiting.state == queue.Waiting:
		q.merge(k.waiting, it)
		heap.Fix(k.waiting.in, k.waiting.index) // its tenant keeps its place
	case k.waiting != nil:
		q.pull(k.waiting)
		q.merge(k.waiting, it)
		q.push(k.waiting)
	default:
		k.waiting = it
		q.push(it)
	}
}

func (it *item) key() jobKey { return jobKey{it.job.Kind, it.job.Key} }

// push puts a job among those that may run now or those that wait for their time.
func (q *Queue) push(it *item) {
	if it.runAt.After(time.Now()) {
		it.state, it.in = queue.Scheduled, &q.later
		heap.Push(it.in, it)
		return
	}
	t := q.tenant(it.job.Tenant)
	if t.jobs.Len() == 0 {
		t.served = q.served // after those who have waited
		heap.Push(&q.due, t)
	}
	it.state, it.in = queue.Waiting, &t.jobs
	heap.Push(it.in, it)
}

// pull takes a job out of where it waits.
func (q *Queue) pull(it *item) {
	heap.Remove(it.in, it.index)
	if it.in != &q.later {
		q.settle(q.tenant(it.job.Tenant))
	}
}

func (q *Queue) merge(into, it *item) {
	into.job.Args = it.job.Args
	into.priority = max(into.priority, it.priority)
	if it.runAt.Before(into.runAt) {
		into.runAt, into.job.Attempt = it.runAt, it.job.Attempt
	}
	delete(q.byID, it.job.ID)
}

// Start implements queue.Queue.
func (q *Queue) Start(context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return errors.New(errors.Unavailable, "the queue is stopped")
	}
	q.started = true
	q.dispatch()
	return nil
}

// dispatch runs what is due while there are free workers, and sets the timer
// for what is not due yet.
func (q *Queue) dispatch() {
	if !q.started || q.stopped {
		return
	}
	now := time.Now()
	for len(q.later.items) > 0 && !q.later.items[0].runAt.After(now) {
		q.push(heap.Pop(&q.later).(*item))
	}
	for q.running < q.workers && len(q.due) > 0 {
		t := q.due[0]
		it := heap.Pop(&t.jobs).(*item)
		q.served++
		t.served = q.served
		t.running++
		q.settle(t)
		if it.job.Key != "" {
			k := q.byKey[it.key()]
			k.waiting, k.running = nil, true
		}
		q.running++
		var ctx context.Context
		ctx, it.stop = context.WithCancelCause(q.ctx)
		it.state, it.since = queue.Running, now
		q.metrics.Started(it.job.Kind, now.Sub(it.runAt))
		go q.run(ctx, it, q.handlers[it.job.Kind])
	}
	if len(q.later.items) == 0 {
		return
	}
	wait := q.later.items[0].runAt.Sub(now)
	if q.timer == nil {
		q.timer = time.AfterFunc(wait, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.dispatch()
		})
		return
	}
	q.timer.Reset(wait)
}

func (q *Queue) run(ctx context.Context, it *item, h queue.Handler) {
	begun := time.Now()
	err := queue.Run(ctx, h, it.job, q.log)
	out := queue.Decide(err, it.job)
	q.mu.Lock()
	defer q.mu.Unlock()
	it.stop(nil)
	if it.canceled {
		out = queue.Outcome{Verdict: queue.Canceled, Error: out.Error}
	}
	q.metrics.Ended(it.job.Kind, out.Verdict, time.Since(begun))
	if err != nil {
		q.log.Debug("job", "kind", it.job.Kind, "key", it.job.Key, "attempt", it.job.Attempt, "outcome", out.Verdict, "after", out.After, "error", err)
	}
	q.running--
	t := q.tenant(it.job.Tenant)
	t.running--
	q.settle(t)
	var meanwhile *item
	if it.job.Key != "" {
		meanwhile = q.byKey[it.key()].again
		delete(q.byKey, it.key())
	}
	q.conclude(it, out)
	// After the retry of its own key, because what came later has the newer arguments.
	if meanwhile != nil && !q.stopped {
		q.add(meanwhile)
	}
	q.idle.Broadcast()
	q.dispatch()
}

// conclude does what was decided about a job that ran.
func (q *Queue) conclude(it *item, out queue.Outcome) {
	it.err = out.Error
	if out.Moved {
		delete(q.byID, it.job.ID)
		return
	}
	switch out.Verdict {
	case queue.Retried, queue.Snoozed:
		if out.Verdict == queue.Retried {
			it.job.Attempt++
		}
		it.runAt = time.Now().Add(out.After)
		if !q.stopped {
			q.add(it)
		}
	case queue.GivenUp:
		it.state, it.since = queue.Dead, time.Now()
		q.dead = append(q.dead, it)
		if len(q.dead) > queue.MaxDead {
			delete(q.byID, q.dead[0].job.ID)
			q.dead = q.dead[1:]
		}
	default:
		delete(q.byID, it.job.ID)
	}
}

// Stop implements queue.Queue.
func (q *Queue) Stop(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	// Only now: a job that is canceled must find the queue stopped, or the next one would start.
	defer context.AfterFunc(ctx, q.cancel)()
	if q.timer != nil {
		q.timer.Stop()
	}
	for q.running > 0 {
		q.idle.Wait()
	}
	q.cancel()
	return nil
}
