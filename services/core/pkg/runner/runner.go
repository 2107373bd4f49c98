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
	ClaimFor   time.Duration // for which one process alone writes a run's files, if it dies; 0: 30 s
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

	holds holds
}

// New makes a runner; Start puts it to work.
func New(config Config, d Deps) *Runner {
	if d.Now == nil {
		d.Now = time.Now
	}
	if config.SweepEvery == 0 {
		config.SweepEvery = 30 * time.Second
	}
	if config.ClaimFor == 0 {
		config.ClaimFor = claimFor
	}
	r := &Runner{config: config, Deps: d, wake: Waker{d.Queue, d.Log}, following: map[domain.ID]bool{}, holds: holds{of: map[domain.ID]*hold{}}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Start takes up the runs that are under way, and those that wait.
func (r *Runner) Start(ctx context.Context) error {
	queue.On(r.Queue, func(ctx context.Context, args attendArgs, job queue.Job) error {
		return r.attend(ctx, domain.ID(job.Tenant), args)
	})
	queue.On(r.Queue, func(ctx context.Context, args fillArgs, job queue.Job) error {
		return r.fill(ctx, domain.ID(job.Tenant), args.These)
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

// sweep has those runs looked at that nobody was told of: of each project at most
// as many as it has places free, so that none keeps the others from being found.
func (r *Runner) sweep(ctx context.Context) error {
	var due []*domain.Task
	err := r.Store.View(ctx, func(tx storage.Tx) (err error) {
		if due, err = tx.Tasks().RunningOf(ctx, service.TaskRun); err != nil {
			return err
		}
		projects, err := tx.Tasks().ReadyProjects(ctx, service.TaskRun, r.time())
		if err != nil {
			return err
		}
		for _, p := range projects {
			if r.holds.held(p) {
				continue // one that tries has the others looked at
			}
			next, err := r.next(ctx, tx, p, storage.MaxPage)
			if err != nil {
				return err
			}
			due = append(due, next...)
		}
		return nil
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

// clocksApart is how far the clocks of an installation's hosts may be from one another.
const clocksApart = 5 * time.Second

// fill has as many of a project's runs looked at as it has places free, and these.
func (r *Runner) fill(ctx context.Context, project domain.ID, these []domain.ID) error {
	for _, id := range these {
		r.wake.WakeRun(project, id)
	}
	if !r.holds.pass(project) {
		return nil // one that tries has the others looked at
	}
	var next []*domain.Task
	err := r.Store.View(ctx, func(tx storage.Tx) (err error) {
		// Who made them may have a clock that is ahead; they wait for what is left.
		next, err = r.due(ctx, tx, project, r.time().Add(clocksApart), storage.MaxPage)
		return err
	})
	for _, t := range next {
		r.wake.WakeRun(project, t.ID)
	}
	return err
}

// attend looks at one run, and follows it to the end of its attempt if it is its
// turn. An error means: look again.
func (r *Runner) attend(ctx context.Context, project domain.ID, args attendArgs) error {
	r.mu.Lock()
	r.following[args.Task] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.following, args.Task)
		r.mu.Unlock()
	}()
	t, err := r.take(ctx, project, args)
	if err != nil || t == nil {
		return err
	}
	return r.follow(ctx, t)
}

// take begins the next attempt of a run whose turn it is, or gives the one that
// is under way. nil: there is nothing to do.
func (r *Runner) take(ctx context.Context, project domain.ID, args attendArgs) (*domain.Task, error) {
	var now turn
	// Writers take turns, and most of those that are looked at have to wait.
	err := r.Store.View(ctx, func(tx storage.Tx) (err error) {
		now, err = r.turn(ctx, tx, project, args.Task)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case now.wait > 0:
		return nil, queue.Snooze(now.wait)
	case now.follow:
		r.Changes.Notify(now.task.ID)
		return now.task, nil
	case now.begin && args.Room:
		r.hold(project) // as the process does that has it try
	case now.begin && !r.holds.pass(project):
		return nil, nil // others try
	case !now.begin && now.failed == nil:
		return nil, nil // what it waits for has it looked at again
	}
	err = r.Store.Update(ctx, func(tx storage.Tx) (err error) {
		if now, err = r.turn(ctx, tx, project, args.Task); err != nil {
			return err
		}
		t, at := now.task, r.time()
		switch {
		case now.failed != nil:
			t.State, t.Step, t.Error, t.EndedAt, t.UpdatedAt = now.becomes, domain.StepDone, now.failed, &at, at
			if err := tx.Tasks().Update(ctx, t); err != nil {
				return err
			}
			return tx.Outbox().Append(ctx, events.Task(events.TaskKind(t.State), t, at))
		case now.begin:
			t.State, t.Step, t.UpdatedAt = domain.TaskRunning, domain.StepCreating, at
			t.Attempts++
			t.VMID, t.ExecutionID = domain.NewID(), domain.NewID()
			return tx.Tasks().Update(ctx, t)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case now.failed != nil:
		r.ended(ctx, now.task)
		return nil, nil
	case !now.begin && !now.follow:
		return nil, nil
	}
	r.Changes.Notify(now.task.ID)
	return now.task, nil
}

// turn is what is to be done about a run: nothing, or one of these.
type turn struct {
	task   *domain.Task
	wait   time.Duration // look again then
	begin  bool          // its next attempt
	follow bool          // the attempt that is under way
	// One that had to succeed before it has not, for which the run becomes this.
	failed  *domain.TaskError
	becomes domain.TaskState
}

// turn looks whose turn it is.
func (r *Runner) turn(ctx context.Context, tx storage.Tx, project, id domain.ID) (turn, error) {
	t, err := tx.Tasks().Get(ctx, project, id)
	switch {
	case errors.HasCode(err, errors.NotFound):
		return turn{}, nil
	case err != nil:
		return turn{}, err
	case t.Kind != service.TaskRun || t.State.Ended():
		return turn{}, nil
	case t.State == domain.TaskRunning:
		return turn{task: t, follow: true}, nil
	}
	if wait := t.RunAt.Sub(r.time()); wait > 0 {
		return turn{wait: wait}, nil
	}
	args, err := service.ParseRunArgs(t)
	if err != nil {
		return turn{}, err
	}
	ready, failed, err := r.others(ctx, tx, t, args)
	switch {
	case err != nil || !ready && failed == nil:
		return turn{}, err
	case failed != nil && args.AfterFailure == domain.AfterFailureFail:
		return turn{task: t, failed: failed, becomes: domain.TaskFailed}, nil
	case failed != nil:
		return turn{task: t, failed: failed, becomes: domain.TaskCanceled}, nil
	}
	free, err := r.places(ctx, tx, project)
	if err != nil || free <= 0 {
		return turn{}, err
	}
	return turn{task: t, begin: true}, nil
}

// places counts how many more of a project's runs can go on.
func (r *Runner) places(ctx context.Context, tx storage.Tx, project domain.ID) (int, error) {
	if r.config.PerProject == 0 {
		return storage.MaxPage, nil
	}
	running, err := tx.Tasks().CountRunning(ctx, service.TaskRun, project)
	return r.config.PerProject - running, err
}

// next lists runs of a project that come next, as many as it has places free and
// at most so many.
func (r *Runner) next(ctx context.Context, tx storage.Tx, project domain.ID, most int) ([]*domain.Task, error) {
	return r.due(ctx, tx, project, r.time(), most)
}

// due is next for those whose time comes until then.
func (r *Runner) due(ctx context.Context, tx storage.Tx, project domain.ID, until time.Time, most int) ([]*domain.Task, error) {
	free, err := r.places(ctx, tx, project)
	if err != nil || free <= 0 {
		return nil, err
	}
	return r.ready(ctx, tx, project, until, min(most, free))
}

// ready lists the runs of a project that come next.
func (r *Runner) ready(ctx context.Context, tx storage.Tx, project domain.ID, until time.Time, most int) ([]*domain.Task, error) {
	return tx.Tasks().Ready(ctx, service.TaskRun, project, until, min(most, storage.MaxPage))
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
		var other claimed
		switch {
		case ctx.Err() != nil:
			return ctx.Err() // the process stops: the next one goes on
		case errors.Is(err, errAhead):
			return nil
		case errors.Is(err, errStale):
			return r.remove(ctx, by, t) // that it was given up may have come before its VM
		case errors.As(err, &other):
			return queue.Snooze(other.wait)
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
		t, err = r.advance(ctx, t, domain.StepEnding, func(t *domain.Task) { t.Result, t.Error = result, out.err })
		if err != nil {
			return unlessStale(err)
		}
	}
	// Before the end is told: who is told of it finds the room free.
	if err := r.remove(ctx, by, t); err != nil {
		return err
	}
	r.wg.Go(func() { r.freed(by, t.VMID) })
	return r.finish(ctx, t)
}

// remove deletes an attempt's VM.
func (r *Runner) remove(ctx context.Context, by vmm.Caller, t *domain.Task) error {
	_, err := r.Service.DeleteVM(ctx, by, t.VMID)
	if errors.HasCode(err, errors.NotFound) {
		return nil
	}
	return err
}

// errStale says that the attempt is no longer the run's, errAhead that another
// process has it go on.
var (
	errStale = errors.New(errors.Conflict, "another attempt of the task has begun, or it has ended")
	errAhead = errors.New(errors.Conflict, "another has gone on with the task")
)

func unlessStale(err error) error {
	if errors.Is(err, errStale) || errors.Is(err, errAhead) {
		return nil
	}
	return err
}

// change writes how an attempt stands, and tells of it.
func (r *Runner) change(ctx context.Context, of *domain.Task, change func(*domain.Task)) (*domain.Task, error) {
	return r.write(ctx, of, func(t *domain.Task) (bool, error) { change(t); return true, nil })
}

// steps are those of an attempt, in order.
var steps = []domain.TaskStep{domain.StepCreating, domain.StepRunning, domain.StepCollecting, domain.StepEnding}

// advance has an attempt reach a step. Returns errAhead for one that is further.
func (r *Runner) advance(ctx context.Context, of *domain.Task, to domain.TaskStep, change func(*domain.Task)) (*domain.Task, error) {
	return r.write(ctx, of, func(t *domain.Task) (bool, error) {
		if slices.Index(steps, t.Step) > slices.Index(steps, to) || t.Step == domain.StepEnding {
			return false, errAhead
		}
		t.Step = to
		change(t)
		return true, nil
	})
}

// write is change for what is told of only if it says so.
func (r *Runner) write(ctx context.Context, of *domain.Task, change func(*domain.Task) (tell bool, err error)) (*domain.Task, error) {
	var t *domain.Task
	err := r.Store.Update(ctx, func(tx storage.Tx) (err error) {
		if t, err = r.current(ctx, tx, of); err != nil {
			return err
		}
		tell, err := change(t)
		if err != nil {
			return err
		}
		t.UpdatedAt = r.time()
		if err := tx.Tasks().Update(ctx, t); err != nil || !tell {
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

// current reads the row of an attempt that is still the run's.
func (r *Runner) current(ctx context.Context, tx storage.Tx, of *domain.Task) (*domain.Task, error) {
	t, err := tx.Tasks().Get(ctx, of.ProjectID, of.ID)
	if err == nil && (t.State != domain.TaskRunning || t.VMID != of.VMID) {
		err = errStale
	}
	return t, err
}

// putBack has a run wait for which there was no room. That was no attempt, and is
// told of only where the reason is another than before. It waits behind those of
// its project that have not tried: one that needs more than there is keeps none
// from what there is.
func (r *Runner) putBack(ctx context.Context, t *domain.Task, why error) error {
	r.noRoom(t.ProjectID, why)
	public := errors.Public(why)
	reason := domain.TaskError{Code: string(public.Code), Message: public.Message}
	t, err := r.write(ctx, t, func(t *domain.Task) (bool, error) {
		if t.Step != domain.StepCreating {
			return false, errAhead // another process has got room meanwhile
		}
		if t.CancelAsked {
			return false, nil // the next look ends it
		}
		tell := t.Error == nil || *t.Error != reason
		t.State, t.Step, t.VMID, t.ExecutionID = domain.TaskPending, domain.StepQueued, "", ""
		t.Attempts--
		t.RunAt, t.Error = r.time(), &reason
		return tell, nil
	})
	if err != nil {
		return unlessStale(err)
	}
	if t.CancelAsked {
		r.wake.wakeIn(t.ProjectID, t.ID, firstProbe)
	}
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
	var err error
	if !r.holds.held(t.ProjectID) {
		err = r.Store.View(ctx, func(tx storage.Tx) error {
			// Others may end just now, and find the same one ready: all the free places
			// are given, not the one alone that this one had.
			free := 1
			if r.config.PerProject > 1 {
				places, err := r.places(ctx, tx, t.ProjectID)
				if err != nil {
					return err
				}
				free = max(free, places)
			}
			var err error
			next, err = r.ready(ctx, tx, t.ProjectID, r.time(), free)
			return err
		})
	}
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
	case errors.InvalidArgument, errors.NotFound, errors.Unsupported, errors.PermissionDenied, errors.TooLarge, errors.AlreadyExists, errors.QuotaExceeded:
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
