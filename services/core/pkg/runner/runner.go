package runner

import (
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// Config is how runs are carried out.
type Config struct {
	// PerProject is how many runs of a project go on at once, in all processes;
	// 0: without bound.
	PerProject int
	SweepEvery time.Duration // between looks for runs that nobody was told of; 0: 30 s
}

// Deps are what a runner works with.
type Deps struct {
	Store   storage.Store
	Service *service.Service
	Sealer  seal.Sealer
	Queue   queue.Queue
	Changes watch.Changes[domain.ID]
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now
}

// Runner carries runs out.
type Runner struct {
	config Config
	Deps
	wake Waker

	ctx    context.Context // ends with Stop
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	following map[domain.ID]bool // in this process
}

// New makes a runner; Start puts it to work.
func New(config Config, d Deps) *Runner {
	if d.Now == nil {
		d.Now = time.Now
	}
	if config.SweepEvery == 0 {
		config.SweepEvery = 30 * time.Second
	}
	r := &Runner{config: config, Deps: d, wake: Waker{d.Queue, d.Log}, following: map[domain.ID]bool{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Start takes up the runs that are under way, and those that wait.
func (r *Runner) Start(ctx context.Context) error {
	queue.On(r.Queue, func(ctx context.Context, args attendArgs, job queue.Job) error {
		return r.attend(ctx, domain.ID(job.Tenant), args.Task)
	})
	if err := r.Queue.Start(ctx); err != nil {
		return err
	}
	if err := r.sweep(ctx); err != nil {
		return err
	}
	r.wg.Go(func() {
		tick := time.NewTicker(r.config.SweepEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if err := r.sweep(r.ctx); err != nil && r.ctx.Err() == nil {
					r.Log.Error("sweep", "part", "runs", "error", err)
				}
			case <-r.ctx.Done():
				return
			}
		}
	})
	return nil
}

// Stop lets go of all runs: their commands go on, and whoever starts next follows
// them.
func (r *Runner) Stop(context.Context) error {
	r.cancel()
	now, cancel := context.WithCancel(context.Background())
	cancel() // what is followed is not waited for
	err := r.Queue.Stop(now)
	r.wg.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (r *Runner) time() time.Time { return r.Now().UTC().Truncate(time.Microsecond) }

// sweep has those runs looked at that nobody was told of.
func (r *Runner) sweep(ctx context.Context) error {
	var due []*domain.Task
	err := r.Store.View(ctx, func(tx storage.Tx) error {
		ready, err := tx.Tasks().Ready(ctx, service.TaskRun, storage.System, r.time(), storage.MaxPage)
		if err != nil {
			return err
		}
		running, err := tx.Tasks().List(ctx, storage.TaskFilter{
			Kind: service.TaskRun, States: []domain.TaskState{domain.TaskRunning}, Page: storage.Page{Limit: storage.MaxPage, Order: vmm.OldestFirst},
		})
		due = slices.Concat(running.Items, ready)
		return err
	})
	for _, t := range due {
		r.mu.Lock()
		here := r.following[t.ID]
		r.mu.Unlock()
		if !here {
			r.wake.WakeRun(t.ProjectID, t.ID)
		}
	}
	return err
}

// attend looks at one run, and follows it to the end of its attempt if it is its
// turn. An error means: look again.
func (r *Runner) attend(ctx context.Context, project, id domain.ID) error {
	r.mu.Lock()
	r.following[id] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.following, id)
		r.mu.Unlock()
	}()
	t, err := r.take(ctx, project, id)
	if err != nil || t == nil {
		return err
	}
	return r.follow(ctx, t)
}

// take begins the next attempt of a run whose turn it is, or gives the one that
// is under way. nil: there is nothing to do.
func (r *Runner) take(ctx context.Context, project, id domain.ID) (*domain.Task, error) {
	var t *domain.Task
	ended := false
	err := r.Store.Update(ctx, func(tx storage.Tx) (err error) {
		ended = false
		if t, err = tx.Tasks().Get(ctx, project, id); err != nil {
			return err
		}
		now := r.time()
		if t.Kind != service.TaskRun || t.State.Ended() || t.State == domain.TaskRunning {
			return nil
		}
		if wait := t.RunAt.Sub(now); wait > 0 {
			t = nil
			return queue.Snooze(wait)
		}
		args, err := service.ParseRunArgs(t)
		if err != nil {
			return err
		}
		ready, failed, err := r.others(ctx, tx, t, args)
		if err != nil {
			return err
		}
		if failed != nil {
			ended = true
			t.State, t.Step, t.Error, t.EndedAt, t.UpdatedAt = domain.TaskCanceled, domain.StepDone, failed, &now, now
			if args.AfterFailure == domain.AfterFailureFail {
				t.State = domain.TaskFailed
			}
			if err := tx.Tasks().Update(ctx, t); err != nil {
				return err
			}
			return tx.Outbox().Append(ctx, events.Task(events.TaskKind(t.State), t, now))
		}
		running := 0
		if r.config.PerProject > 0 {
			if running, err = tx.Tasks().CountRunning(ctx, service.TaskRun, project); err != nil {
				return err
			}
		}
		if !ready || r.config.PerProject > 0 && running >= r.config.PerProject {
			t = nil // what it waits for has it looked at again
			return nil
		}
		t.State, t.Step, t.UpdatedAt = domain.TaskRunning, domain.StepCreating, now
		t.Attempts++
		t.VMID, t.ExecutionID = domain.NewID(), domain.NewID()
		return tx.Tasks().Update(ctx, t)
	})
	switch {
	case errors.HasCode(err, errors.NotFound):
		return nil, nil
	case err != nil || t == nil:
		return nil, err
	case ended:
		r.ended(ctx, t)
		return nil, nil
	case t.State != domain.TaskRunning || t.Kind != service.TaskRun:
		return nil, nil
	}
	r.Changes.Notify(t.ID)
	return t, nil
}

// others tells whether a run's turn has come after others, or that one of them
// has not succeeded which had to.
func (r *Runner) others(ctx context.Context, tx storage.Tx, t *domain.Task, args service.RunArgs) (ready bool, failed *domain.TaskError, err error) {
	if len(args.After) == 0 {
		return true, nil, nil
	}
	before, err := tx.Tasks().After(ctx, t.ProjectID, t.ID)
	if err != nil {
		return false, nil, err
	}
	ready = true
	for _, o := range before {
		if !o.State.Ended() {
			ready = false
		} else if o.State != domain.TaskSucceeded && args.AfterFailure != domain.AfterFailureRun {
			return false, &domain.TaskError{Code: domain.TaskDependencyFailed, Message: "the task " + o.ID.String() + ", which it was to come after, is " + string(o.State)}, nil
		}
	}
	return ready, nil, nil
}

// follow carries an attempt on from where it is to its end.
func (r *Runner) follow(ctx context.Context, t *domain.Task) error {
	by := vmm.Caller{ProjectID: t.ProjectID, Name: "task " + t.ID.String()}
	if t.Step != domain.StepEnding {
		out, err := r.attempt(ctx, by, t)
		switch {
		case ctx.Err() != nil:
			return ctx.Err() // the process stops: the next one goes on
		case errors.Is(err, errStale):
			return nil
		case errors.Is(err, errNoRoom):
			return r.putBack(ctx, t, err)
		case err != nil:
			r.Log.Warn("a run cannot be followed now", "task", t.ID, "error", err)
			return err
		}
		result, err := json.Marshal(out.Result)
		if err != nil {
			return errors.Wrap(err, errors.Internal, "a task's result cannot be stored")
		}
		t, err = r.change(ctx, t, func(t *domain.Task) { t.Step, t.Result, t.Error = domain.StepEnding, result, out.err })
		if err != nil {
			return unlessStale(err)
		}
	}
	// Before the end is told: who is told of it finds the room free.
	if _, err := r.Service.DeleteVM(ctx, by, t.VMID); err != nil && !errors.HasCode(err, errors.NotFound) {
		return err
	}
	return r.finish(ctx, t)
}

// errStale says that the attempt is no longer the run's.
var errStale = errors.New(errors.Conflict, "another has gone on with the task")

func unlessStale(err error) error {
	if errors.Is(err, errStale) {
		return nil
	}
	return err
}

// change writes how an attempt stands.
func (r *Runner) change(ctx context.Context, of *domain.Task, change func(*domain.Task)) (*domain.Task, error) {
	var t *domain.Task
	err := r.Store.Update(ctx, func(tx storage.Tx) (err error) {
		if t, err = tx.Tasks().Get(ctx, of.ProjectID, of.ID); err != nil {
			return err
		}
		if t.State != domain.TaskRunning || t.VMID != of.VMID {
			return errStale
		}
		change(t)
		t.UpdatedAt = r.time()
		if err := tx.Tasks().Update(ctx, t); err != nil {
			return err
		}
		return tx.Outbox().Append(ctx, events.Task(events.TaskKind(t.State), t, t.UpdatedAt))
	})
	if err != nil {
		return nil, err
	}
	r.Changes.Notify(t.ID)
	return t, nil
}

// putBack has a run wait for which there was no room. That was no attempt.
func (r *Runner) putBack(ctx context.Context, t *domain.Task, why error) error {
	wait := time.Second
	var e *errors.Error
	if errors.As(why, &e) {
		wait = min(max(wait, e.RetryAfter), time.Minute)
	}
	t, err := r.change(ctx, t, func(t *domain.Task) {
		if t.CancelAsked {
			return // the next look ends it
		}
		public := errors.Public(why)
		t.State, t.Step, t.VMID, t.ExecutionID = domain.TaskPending, domain.StepQueued, "", ""
		t.Attempts--
		wait = jitter(wait)
		t.RunAt = r.time().Add(wait)
		t.Error = &domain.TaskError{Code: string(public.Code), Message: public.Message}
	})
	if err != nil {
		return unlessStale(err)
	}
	r.wake.wakeIn(t.ProjectID, t.ID, wait)
	return nil
}

// finish ends a run, or has it tried again.
func (r *Runner) finish(ctx context.Context, t *domain.Task) error {
	args, err := service.ParseRunArgs(t)
	if err != nil {
		return err
	}
	t, err = r.change(ctx, t, func(t *domain.Task) {
		now := r.time()
		switch {
		case t.CancelAsked:
			t.State, t.Error = domain.TaskCanceled, nil
		case t.Error == nil:
			t.State = domain.TaskSucceeded
		case t.Attempts < t.MaxAttempts && mayHelp(t.Error.Code):
			t.State, t.Step = domain.TaskPending, domain.StepQueued
			t.RunAt = now.Add(jitter(backoff(args.Backoff, t.Attempts)))
			return
		default:
			t.State = domain.TaskFailed
		}
		t.Step, t.EndedAt = domain.StepDone, &now
	})
	if err != nil {
		return unlessStale(err)
	}
	if !t.State.Ended() {
		r.wake.wakeIn(t.ProjectID, t.ID, t.RunAt.Sub(r.time()))
	}
	r.ended(ctx, t)
	return nil
}

// ended has those looked at that waited for a run or its place.
func (r *Runner) ended(ctx context.Context, t *domain.Task) {
	r.Changes.Notify(t.ID)
	var next []*domain.Task
	err := r.Store.View(ctx, func(tx storage.Tx) error {
		// Others may end just now, and find the same one ready: all the free places
		// are given, not the one alone that this one had.
		free := 1
		if most := r.config.PerProject; most > 1 {
			running, err := tx.Tasks().CountRunning(ctx, service.TaskRun, t.ProjectID)
			if err != nil {
				return err
			}
			free = min(max(1, most-running), storage.MaxPage)
		}
		var err error
		next, err = tx.Tasks().Ready(ctx, service.TaskRun, t.ProjectID, r.time(), free)
		return err
	})
	if t.State.Ended() {
		err = errors.Join(err, r.Service.WakeAfter(ctx, t))
	}
	for _, n := range next {
		r.wake.WakeRun(n.ProjectID, n.ID)
	}
	if err != nil && ctx.Err() == nil {
		r.Log.Warn("runs that come next are left to the sweep", "task", t.ID, "error", err)
	}
}

// mayHelp reports whether another attempt may go otherwise.
func mayHelp(code string) bool {
	switch errors.Code(code) {
	case errors.InvalidArgument, errors.NotFound, errors.Unsupported, errors.PermissionDenied, errors.TooLarge, errors.AlreadyExists:
		return false
	}
	return true
}

// backoff is the pause after an attempt: it doubles, up to domain.MaxTaskBackoff.
func backoff(first time.Duration, attempt int) time.Duration {
	d := first
	for range attempt - 1 {
		if d *= 2; d >= domain.MaxTaskBackoff {
			return domain.MaxTaskBackoff
		}
	}
	return d
}

// jitter takes away up to half, so that what failed together is not tried again
// together.
func jitter(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d)/2+1)) //nolint:gosec // no secret
}
