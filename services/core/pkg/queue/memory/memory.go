// Package memory is the queue of a single process.
package memory

import (
	"container/heap"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
)

// Queue implements queue.Queue in memory.
type Queue struct {
	workers int
	log     *slog.Logger

	mu       sync.Mutex
	handlers map[string]queue.Handler
	due      jobs              // may run now: by priority, then age
	later    jobs              // not due yet: by time
	byKey    map[jobKey]*keyed // jobs with a key that wait or run
	running  int
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
}

var _ queue.Queue = (*Queue)(nil)

// New makes a queue that runs at most workers jobs at once.
func New(workers int, log *slog.Logger) *Queue {
	q := &Queue{
		workers: max(1, workers), log: log,
		handlers: make(map[string]queue.Handler), byKey: make(map[jobKey]*keyed),
		due: jobs{less: byPriority}, later: jobs{less: byTime},
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
	raw, err := json.Marshal(args)
	if err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "the arguments of the job cannot be stored")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return errors.New(errors.Unavailable, "the queue is stopped")
	}
	if q.handlers[args.Kind()] == nil {
		return errors.New(errors.InvalidArgument, "no handler for jobs of kind %q", args.Kind())
	}
	if o.RunAt.IsZero() {
		o.RunAt = time.Now()
	}
	q.add(&item{
		job:   queue.Job{Kind: args.Kind(), Key: o.Key, Args: raw, Attempt: 1},
		runAt: o.RunAt, priority: o.Priority,
	})
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
	k := q.byKey[jobKey{it.job.Kind, it.job.Key}]
	if k == nil {
		k = &keyed{}
		q.byKey[jobKey{it.job.Kind, it.job.Key}] = k
	}
	switch {
	case k.running:
		k.again = merge(k.again, it)
	case k.waiting != nil:
		heap.Remove(k.waiting.in, k.waiting.index)
		q.push(merge(k.waiting, it))
	default:
		k.waiting = it
		q.push(it)
	}
}

// push puts a job among those that may run now or those that wait for their time.
func (q *Queue) push(it *item) {
	it.in = &q.later
	if !it.runAt.After(time.Now()) {
		it.in = &q.due
	}
	heap.Push(it.in, it)
}

func merge(into, it *item) *item {
	if into == nil {
		return it
	}
	into.job.Args = it.job.Args
	into.priority = max(into.priority, it.priority)
	if it.runAt.Before(into.runAt) {
		into.runAt, into.job.Attempt = it.runAt, it.job.Attempt
	}
	return into
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
	for q.running < q.workers && len(q.due.items) > 0 {
		it := heap.Pop(&q.due).(*item)
		if it.job.Key != "" {
			k := q.byKey[jobKey{it.job.Kind, it.job.Key}]
			k.waiting, k.running = nil, true
		}
		q.running++
		go q.run(it, q.handlers[it.job.Kind])
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

func (q *Queue) run(it *item, h queue.Handler) {
	err := q.call(h, it.job)
	again, after, counted := queue.Decide(err, it.job.Attempt)
	if err != nil {
		q.log.Debug("job", "kind", it.job.Kind, "key", it.job.Key, "attempt", it.job.Attempt, "again", again, "after", after, "error", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	var meanwhile *item
	if key := (jobKey{it.job.Kind, it.job.Key}); it.job.Key != "" {
		meanwhile = q.byKey[key].again
		delete(q.byKey, key)
	}
	if again && !q.stopped {
		next := &item{job: it.job, runAt: time.Now().Add(after), priority: it.priority}
		if counted {
			next.job.Attempt++
		}
		q.add(next)
	}
	// After the retry of its own key, because what came later has the newer arguments.
	if meanwhile != nil && !q.stopped {
		q.add(meanwhile)
	}
	q.idle.Broadcast()
	q.dispatch()
}

// call runs a handler; a panic of it is an error of this job alone.
func (q *Queue) call(h queue.Handler, job queue.Job) (err error) {
	defer func() {
		if p := recover(); p != nil {
			q.log.Error("job panicked", "kind", job.Kind, "key", job.Key, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = errors.New(errors.Internal, "the job panicked")
		}
	}()
	return h(q.ctx, job)
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

// jobs is a heap (container/heap).
type jobs struct {
	items []*item
	less  func(a, b *item) bool
}

func byPriority(a, b *item) bool {
	if a.priority != b.priority {
		return a.priority > b.priority
	}
	return a.seq < b.seq
}

func byTime(a, b *item) bool { return a.runAt.Before(b.runAt) }

func (j *jobs) Len() int           { return len(j.items) }
func (j *jobs) Less(a, b int) bool { return j.less(j.items[a], j.items[b]) }
func (j *jobs) Swap(a, b int) {
	j.items[a], j.items[b] = j.items[b], j.items[a]
	j.items[a].index, j.items[b].index = a, b
}

// Push implements heap.Interface.
func (j *jobs) Push(x any) {
	it := x.(*item)
	it.index = len(j.items)
	j.items = append(j.items, it)
}

// Pop implements heap.Interface.
func (j *jobs) Pop() any {
	last := len(j.items) - 1
	it := j.items[last]
	j.items[last] = nil
	j.items = j.items[:last]
	return it
}
