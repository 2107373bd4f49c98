// Package asynq is the queue of processes that share a Redis.
//
// What waits is in keys of this package, changed by scripts that run at once or
// not at all: they know tenants, keys, priorities and times. A job is handed to
// Asynq only when a process has a place free for it; Asynq then leases it to
// that process, and gives it to another when the lease has ended (its process
// has died, or has not reached Redis for half a minute).
//
// Asynq asks for jobs at an interval. Here its question is answered when there
// is one: see front.
package asynq

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/redis"
	hibiken "github.com/hibiken/asynq"
	goredis "github.com/redis/go-redis/v9"
)

const (
	// backstop is how long a message of Redis that got lost costs.
	backstop = time.Second
	// patience is for each exchange with Redis, reconnecting included.
	patience = 5 * time.Second
	// handedOut is how long a job may be on its way to Asynq, or run without
	// being looked after.
	handedOut = 10 * time.Second
	// forever is longer than any job: what bounds a job is its handler.
	forever = 10 * 365 * 24 * time.Hour
	// pause between attempts while Redis is away.
	pause = 200 * time.Millisecond
)

// Config of a queue.
type Config struct {
	Client  *goredis.Client // stays the caller's, who closes it after Stop
	Name    string          // processes with the same name share the queue
	Workers int             // jobs that run at once in this process
	// Owner names this process and those before and after it in its place, of
	// which one lives at a time. What the one before had when it was killed is put
	// back at Start; without an owner its leases are waited for.
	Owner   string
	Metrics *queue.Metrics // may be nil
	Logger  *slog.Logger
}

// Queue implements queue.Queue on Redis.
type Queue struct {
	name    string // of Asynq's queue
	owner   string
	life    string // of the owner: this process
	client  *goredis.Client
	told    *goredis.Client // what Asynq listens by
	scripts *scripts
	tasks   *hibiken.Client
	tasked  *hibiken.Inspector
	server  *hibiken.Server
	metrics *queue.Metrics
	log     *slog.Logger

	wake   chan struct{} // something may be due
	quit   chan struct{} // closed by Stop: take nothing more
	ctx    context.Context
	cancel context.CancelFunc
	loops  sync.WaitGroup // listen and sweep
	runs   sync.WaitGroup

	mu       sync.Mutex
	handlers map[string]queue.Handler
	running  map[string]held // by runner, in this process
	started  bool
	stopped  bool
	ended    chan struct{} // closed when Stop is through
}

var _ queue.Queue = (*Queue)(nil)

// held is a job that this process has. One that was given to it again, since it
// had lost its lease, it has twice until the first has ended.
type held struct {
	id     string
	cancel context.CancelCauseFunc
}

// slip is what Asynq carries: the job is in the keys of this package.
type slip struct {
	ID  string `json:"id"`
	Run int64  `json:"run"` // how often it was handed out
}

// task is the slip as Asynq takes it; a job that was handed out is one task,
// however often it is handed on.
func (q *Queue) task(s slip) (*hibiken.Task, []hibiken.Option, error) {
	raw, err := json.Marshal(s)
	return hibiken.NewTask("job", raw), []hibiken.Option{
		hibiken.Queue(q.name), hibiken.TaskID(s.taskID()), hibiken.Timeout(forever),
	}, err
}

// New makes a queue on a Redis.
func New(c Config) (*Queue, error) {
	prefix := "aetherium:queue:{" + c.Name + "}:"
	s, err := newScripts(c.Client, prefix)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the queue's scripts are missing")
	}
	q := &Queue{
		name: "aetherium:" + c.Name, owner: c.Owner, life: string(domain.NewID()), client: c.Client, told: goredis.NewClient(c.Client.Options()), scripts: s, metrics: c.Metrics, log: c.Logger,
		tasks: hibiken.NewClientFromRedisClient(c.Client), tasked: hibiken.NewInspectorFromRedisClient(c.Client),
		wake: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{}),
		handlers: make(map[string]queue.Handler), running: make(map[string]held),
	}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	q.server = hibiken.NewServerFromRedisClient(&front{Client: c.Client, queue: q, pending: "asynq:{" + q.name + "}:pending"}, hibiken.Config{
		Concurrency: max(1, c.Workers), Queues: map[string]int{q.name: 1},
		// The front waits, not Asynq; what it brings back of processes that died may take its time.
		TaskCheckInterval: time.Millisecond, DelayedTaskCheckInterval: backstop, JanitorInterval: time.Hour,
		// Only what could not be told to Redis comes back by this way, and must not be lost.
		RetryDelayFunc: func(int, error, *hibiken.Task) time.Duration { return backstop },
		IsFailure:      func(error) bool { return false },
		// Stop has the say.
		ShutdownTimeout: forever,
		Logger:          quiet{c.Logger}, LogLevel: hibiken.WarnLevel,
	})
	return q, nil
}

// Handle implements queue.Queue.
func (q *Queue) Handle(kind string, h queue.Handler) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.handlers[kind] = h
}

func (q *Queue) handler(kind string) queue.Handler {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.handlers[kind]
}

func (q *Queue) isStopped() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stopped
}

// Enqueue implements queue.Queue.
func (q *Queue) Enqueue(ctx context.Context, args queue.Args, o queue.Options) error {
	job, err := queue.Prepare(args, o)
	switch {
	case err != nil:
		return err
	case q.isStopped():
		return errors.New(errors.Unavailable, "the queue is stopped")
	case q.handler(job.Kind) == nil:
		return errors.New(errors.InvalidArgument, "no handler for jobs of kind %q", job.Kind)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// A time is told as a distance: the clocks of hosts differ.
	var after time.Duration
	if !o.RunAt.IsZero() {
		after = time.Until(o.RunAt)
	}
	out, err := q.scripts.run(ctx, q.scripts.enqueue, job.ID, job.Kind, job.Key, job.Tenant, string(job.Args), o.Priority,
		micros(after), job.MaxAttempts, queue.MaxJobs)
	switch {
	case err != nil:
		return err
	case out == "taken":
		return queue.Taken(job.ID)
	case out == "full":
		return queue.Full()
	}
	q.rouse()
	return nil
}

// rouse lets this process look for what is due.
func (q *Queue) rouse() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Start implements queue.Queue. Redis may be away: jobs run once it is there.
func (q *Queue) Start(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return errors.New(errors.Unavailable, "the queue is stopped")
	}
	if q.started {
		return nil
	}
	if err := q.server.Start(hibiken.HandlerFunc(q.process)); err != nil {
		return errors.Wrap(redis.Error(err), errors.Unavailable, "the queue does not start")
	}
	q.started = true
	if q.owner != "" && q.reclaim(ctx) != nil {
		q.loops.Go(q.reclaims)
	}
	q.loops.Go(q.listen)
	q.loops.Go(q.sweeps)
	return nil
}

// Stop implements queue.Queue. What waits stays for the next process.
func (q *Queue) Stop(ctx context.Context) error {
	q.mu.Lock()
	if q.stopped {
		q.mu.Unlock()
		<-q.ended
		return nil
	}
	q.stopped = true
	started := q.started
	q.mu.Unlock()
	defer close(q.ended)
	close(q.quit)
	// Only now: a job that is canceled must find the queue stopped, or the next one would start.
	defer context.AfterFunc(ctx, q.cancel)()
	if started {
		q.server.Stop()
		q.server.Shutdown() // when what runs has ended
		q.runs.Wait()
	}
	q.cancel()
	q.loops.Wait()
	return redis.Error(q.told.Close())
}

// process is Asynq's handler: it runs the job that a slip stands for. An error
// is that the slip is to come back.
func (q *Queue) process(leased context.Context, t *hibiken.Task) error {
	var s slip
	if err := json.Unmarshal(t.Payload(), &s); err != nil {
		return errors.Join(err, hibiken.SkipRetry)
	}
	q.mu.Lock()
	if q.stopped {
		q.mu.Unlock()
		return errors.New(errors.Unavailable, "the queue is stopped")
	}
	q.runs.Add(1)
	ctx, cancel := context.WithCancelCause(leased) // ends with the lease
	runner := string(domain.NewID())
	q.running[runner] = held{s.ID, cancel}
	q.mu.Unlock()
	defer q.runs.Done()
	defer context.AfterFunc(q.ctx, func() { cancel(nil) })()
	job, waited, err := q.begin(leased, s, runner)
	defer func() {
		cancel(nil)
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.running, runner)
	}()
	if err != nil || job == nil {
		return err
	}
	out := q.run(ctx, *job, waited)
	return q.finish(leased, *job, runner, out)
}

func (q *Queue) run(ctx context.Context, job queue.Job, waited time.Duration) queue.Outcome {
	h := q.handler(job.Kind)
	if h == nil { // of a newer process
		q.log.Warn("a job of a kind that is not known here waits for another process", "kind", job.Kind)
		return queue.Outcome{Verdict: queue.Snoozed, After: backstop}
	}
	begun := time.Now()
	err := queue.Run(ctx, h, job, q.log)
	out := queue.Decide(err, job)
	if !out.Counted {
		q.metrics.Started(job.Kind, waited)
		q.metrics.Ended(job.Kind, out.Verdict, time.Since(begun))
	}
	if err != nil {
		q.log.Debug("job", "kind", job.Kind, "key", job.Key, "attempt", job.Attempt, "outcome", out.Verdict, "after", out.After, "error", err)
	}
	return out
}

func (q *Queue) begin(ctx context.Context, s slip, runner string) (*queue.Job, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := q.scripts.run(ctx, q.scripts.begin, s.ID, s.Run, runner, queue.MaxDead, q.owner, q.life)
	f, ok := out.([]any)
	if err != nil || !ok || len(f) != 7 {
		return nil, 0, err
	}
	return &queue.Job{
		ID: s.ID, Kind: text(f[0]), Key: text(f[1]), Tenant: text(f[2]), Args: json.RawMessage(text(f[3])),
		Attempt: int(number(f[4])), MaxAttempts: int(number(f[5])),
	}, time.Duration(number(f[6])) * time.Microsecond, nil
}

// finish tells what became of a job, for as long as the job is leased: later it
// is another's.
func (q *Queue) finish(leased context.Context, job queue.Job, runner string, out queue.Outcome) error {
	for {
		ctx, cancel := context.WithTimeout(leased, patience)
		_, err := q.scripts.run(ctx, q.scripts.finish, job.ID, runner, string(out.Verdict), micros(out.After), out.Error, queue.MaxDead)
		cancel()
		if err == nil {
			return nil
		}
		q.log.Warn("the outcome of a job cannot be told to Redis", "kind", job.Kind, "key", job.Key, "error", err)
		select {
		case <-leased.Done():
			return err
		case <-q.quit:
			return err
		case <-time.After(pause):
		}
	}
}
