package service

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// RunArgs are the arguments of a TaskRun that are no secret.
type RunArgs struct {
	Backoff      time.Duration       `json:"backoff"`
	After        []domain.ID         `json:"after,omitempty"`
	AfterFailure domain.AfterFailure `json:"after_failure,omitempty"`
}

// ParseRunArgs reads a run's arguments.
func ParseRunArgs(t *domain.Task) (RunArgs, error) {
	var args RunArgs
	if err := json.Unmarshal(t.Args, &args); err != nil {
		return args, errors.Wrap(err, errors.Internal, "the task's arguments are damaged")
	}
	return args, nil
}

// OpenRun decrypts what a run does.
func OpenRun(ctx context.Context, sealer seal.Sealer, t *domain.Task) (vmm.Run, error) {
	var run vmm.Run
	plain, err := sealer.Open(ctx, storage.SealedTaskSpec(t.ID), t.SpecSealed)
	if err != nil {
		return run, err
	}
	if json.Unmarshal(plain, &run) != nil {
		// Not wrapped: its text could hold a part of it.
		return run, errors.New(errors.Internal, "what is stored encrypted of the task is damaged")
	}
	return run, nil
}

// runTimes is how much longer than its command a run's VM lives at most, for what
// comes before and after. It is a backstop: a VM is deleted when its task is through.
const runTimes = 30 * time.Minute

// RunTimeout is until the deadline of a run's VM.
func (s *Service) RunTimeout(r vmm.Run) time.Duration {
	d := r.Command.Timeout + runTimes
	if s.config.MaxTimeout > 0 {
		d = min(d, s.config.MaxTimeout)
	}
	return d
}

// CreateRuns implements vmm.Runs.
func (s *Service) CreateRuns(ctx context.Context, by vmm.Caller, req vmm.CreateRuns) ([]*domain.Task, error) {
	if len(req.Runs) == 0 || len(req.Runs) > domain.MaxTaskGroup {
		return nil, errors.New(errors.InvalidArgument, "%d tasks at once, 1 to %d are allowed", len(req.Runs), domain.MaxTaskGroup)
	}
	if err := s.backlog.open(by.ProjectID); err != nil {
		return nil, err // before anything is sealed
	}
	group := domain.NewID()
	now := s.time()
	tasks := make([]*domain.Task, len(req.Runs))
	args := make([]RunArgs, len(req.Runs))
	for i := range req.Runs {
		r := &req.Runs[i]
		if err := s.checkRun(r); err != nil {
			return nil, inGroup(req, i, err)
		}
		at := now.Add(time.Duration(i-len(req.Runs)) * time.Microsecond) // they are in the order given
		t := &domain.Task{
			ID: domain.NewID(), ProjectID: by.ProjectID, Kind: TaskRun, State: domain.TaskPending, MaxAttempts: r.MaxAttempts,
			CreatedAt: at, UpdatedAt: at, RunAt: at, Name: r.Name, Step: domain.StepQueued,
		}
		if req.Group {
			t.GroupID = group
		}
		args[i] = RunArgs{Backoff: r.Backoff, After: r.After, AfterFailure: r.AfterFailure}
		var err error
		if t.Args, err = json.Marshal(args[i]); err != nil {
			return nil, errors.Wrap(err, errors.Internal, "the task could not be stored")
		}
		plain, err := json.Marshal(r)
		if err != nil {
			return nil, errors.Wrap(err, errors.Internal, "the task could not be stored")
		}
		if t.SpecSealed, err = s.sealer.Seal(ctx, storage.SealedTaskSpec(t.ID), plain); err != nil {
			return nil, err
		}
		tasks[i] = t
	}
	served, err := s.backlog.take(ctx, by.ProjectID)
	if err != nil {
		return nil, err
	}
	defer served()
	existing := false
	err = s.store.Update(ctx, func(tx storage.Tx) error {
		defer served() // it has its turn
		found, err := s.idempotentRuns(ctx, tx, by, req, group, tasks[0])
		if err != nil || found != nil {
			tasks, existing = found, true
			return err
		}
		if err := s.roomForRuns(ctx, tx, by.ProjectID, len(tasks)); err != nil {
			return err
		}
		for i, t := range tasks {
			if err := tx.Tasks().Insert(ctx, t); err != nil {
				return err
			}
			// Only tasks that are there can come before: there are no circles.
			if err := tx.Tasks().Wait(ctx, by.ProjectID, t.ID, args[i].After); err != nil {
				return inGroup(req, i, fieldOf(err, "after"))
			}
			if err := tx.Outbox().Append(ctx, events.Task(events.TaskCreated, t, now)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !existing {
		s.wakeNew(tasks, args)
	}
	return tasks, nil
}

// wakeNew has runs looked at that were made together. Who asked for them does
// not wait for a queue that is slow to take a thousand jobs.
func (s *Service) wakeNew(tasks []*domain.Task, args []RunArgs) {
	if len(tasks) == 1 {
		s.wakeRun(tasks[0])
		return
	}
	if s.runs == nil {
		return
	}
	var after []domain.ID // what they come after may have failed already
	for i, t := range tasks {
		if len(args[i].After) > 0 {
			after = append(after, t.ID)
		}
	}
	s.runs.WakeRuns(tasks[0].ProjectID, after)
}

// fieldOf says which field of a request something that is not there was in.
func fieldOf(err error, field string) error {
	var e *errors.Error
	if errors.As(err, &e) && e.Code == errors.NotFound {
		return e.WithField(field)
	}
	return err
}

// inGroup says which task of several a mistake is in.
func inGroup(req vmm.CreateRuns, i int, err error) error {
	var e *errors.Error
	if req.Group && errors.As(err, &e) && e.Field != "" {
		return e.WithField(fmt.Sprintf("tasks[%d].%s", i, e.Field))
	}
	return err
}

func (s *Service) wakeRun(t *domain.Task) {
	if s.runs != nil {
		s.runs.WakeRun(t.ProjectID, t.ID)
	}
}

// runScope keeps keys of runs apart from other uses.
const runScope = "task.run"

// idempotentRuns returns the tasks that this key made before, or remembers that
// they are being made.
func (s *Service) idempotentRuns(ctx context.Context, tx storage.Tx, by vmm.Caller, req vmm.CreateRuns, group domain.ID, first *domain.Task) ([]*domain.Task, error) {
	if req.IdempotencyKey == "" {
		return nil, nil
	}
	subject := first.ID
	if req.Group {
		subject = group
	}
	key, now := runScope+":"+req.IdempotencyKey, s.time()
	rec, err := tx.Idempotency().Get(ctx, by.ProjectID, key, now)
	switch {
	case errors.HasCode(err, errors.NotFound):
		return nil, tx.Idempotency().Insert(ctx, &storage.Idempotent{
			ProjectID: by.ProjectID, Key: key, RequestDigest: req.RequestDigest, SubjectID: subject,
			Status: 201, CreatedAt: now, ExpiresAt: now.Add(keepIdempotencyKeys),
		})
	case err != nil:
		return nil, err
	case rec.RequestDigest != req.RequestDigest:
		return nil, errKeyUsed()
	}
	if !req.Group {
		t, err := tx.Tasks().Get(ctx, by.ProjectID, rec.SubjectID)
		return []*domain.Task{t}, err
	}
	list, err := tx.Tasks().List(ctx, storage.TaskFilter{
		ProjectID: by.ProjectID, GroupID: rec.SubjectID, Page: storage.Page{Limit: domain.MaxTaskGroup, Order: vmm.OldestFirst},
	})
	if err == nil && len(list.Items) == 0 {
		err = notFound("group of tasks", string(rec.SubjectID))
	}
	return list.Items, err
}

// roomForRuns bounds what a project can have waiting.
func (s *Service) roomForRuns(ctx context.Context, tx storage.Tx, project domain.ID, more int) error {
	open, err := tx.Tasks().CountOpen(ctx, TaskRun, project)
	if err != nil {
		return err
	}
	if open+more > s.config.MaxOpenRuns {
		return errors.New(errors.QuotaExceeded, "%d of the project's tasks have not ended, and %d more were asked for; %d are allowed", open, more, s.config.MaxOpenRuns).
			WithHint("wait until some have ended, or cancel them").WithRetryAfter(time.Minute)
	}
	return nil
}

// checkRun validates a run and fills in what was left open.
func (s *Service) checkRun(r *vmm.Run) error {
	bad := func(field, format string, args ...any) *errors.Error {
		return errors.New(errors.InvalidArgument, format, args...).WithField(field)
	}
	if r.MaxAttempts == 0 {
		r.MaxAttempts = 1
	}
	if r.Backoff == 0 {
		r.Backoff = time.Second
	}
	if r.AfterFailure == "" {
		r.AfterFailure = domain.AfterFailureSkip
	}
	switch {
	case r.MaxAttempts < 1 || r.MaxAttempts > domain.MaxTaskAttempts:
		return bad("max_attempts", "%d attempts, 1 to %d are allowed", r.MaxAttempts, domain.MaxTaskAttempts)
	case r.Backoff < 0 || r.Backoff > domain.MaxTaskBackoff:
		return bad("backoff_ms", "a pause of %s between attempts is out of range", r.Backoff).WithHint("up to %s", domain.MaxTaskBackoff)
	case r.Command.Timeout <= 0 || r.Command.Timeout > domain.MaxTaskTime:
		return bad("timeout_ms", "a task needs a timeout, of at most %s", domain.MaxTaskTime)
	case s.config.MaxTimeout > 0 && r.Command.Timeout > s.config.MaxTimeout:
		return bad("timeout_ms", "the timeout is longer than this installation allows").WithHint("at most %s", s.config.MaxTimeout)
	case r.Command.PTY != nil:
		return bad("pty", "a task's command has no terminal")
	case len(r.Stdin) > domain.MaxTaskStdin:
		return bad("stdin", "the input has %d bytes, at most %d are allowed", len(r.Stdin), domain.MaxTaskStdin).WithHint("more can be in a volume")
	case len(r.Files) > domain.MaxTaskFiles:
		return bad("files", "%d files, at most %d are allowed", len(r.Files), domain.MaxTaskFiles).WithHint("more can be in a volume")
	case len(r.Results) > domain.MaxTaskResults:
		return bad("results", "%d files, at most %d are allowed", len(r.Results), domain.MaxTaskResults).WithHint("more can be in a volume, or in one archive")
	case len(r.After) > domain.MaxTaskAfter:
		return bad("after", "%d tasks, at most %d are allowed", len(r.After), domain.MaxTaskAfter)
	}
	switch r.AfterFailure {
	case domain.AfterFailureSkip, domain.AfterFailureFail, domain.AfterFailureRun:
	default:
		return bad("after_failure", "%q is none of skip, fail and run", string(r.AfterFailure))
	}
	seen := map[domain.ID]bool{}
	for _, id := range r.After {
		if !domain.IsID(string(id)) || seen[id] {
			return bad("after", "%q is named twice, or is not the ID of a task", string(id))
		}
		seen[id] = true
	}
	if err := checkRunFiles(r); err != nil {
		return err
	}
	r.Command.Stdin = len(r.Stdin) > 0
	if err := r.Command.Validate(); err != nil {
		return err
	}
	if err := domain.ValidateName("name", r.Name); err != nil {
		return err
	}
	vm := r.VM // checked is a copy: what the server's defaults are is decided when it is made
	return s.checkCreate(&vm)
}

func checkRunFiles(r *vmm.Run) error {
	total := 0
	for _, f := range r.Files {
		total += len(f.Content)
		if err := checkRunPath("files", f.Path); err != nil {
			return err
		}
	}
	if total > domain.MaxTaskFileBytes {
		return errors.New(errors.InvalidArgument, "the files have %d bytes, at most %d are allowed", total, domain.MaxTaskFileBytes).
			WithField("files").WithHint("more can be in a volume")
	}
	for _, p := range r.Results {
		if err := checkRunPath("results", p); err != nil {
			return err
		}
	}
	return nil
}

// checkRunPath is for paths as files' calls take them: absolute, or from the user's home on.
func checkRunPath(field, p string) error {
	if p == "" || len(p) > domain.MaxPathBytes || strings.ContainsRune(p, 0) || path.Clean(p) == "/" || path.Clean(p) == "." {
		return errors.New(errors.InvalidArgument, "%q is not the path of a file", p).WithField(field)
	}
	return nil
}

// RetryTask implements vmm.Runs.
func (s *Service) RetryTask(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Task, error) {
	var t *domain.Task
	err := s.store.Update(ctx, func(tx storage.Tx) (err error) {
		if t, err = tx.Tasks().Get(ctx, by.ProjectID, id); err != nil {
			return err
		}
		if t.Kind != TaskRun {
			return errors.New(errors.Unsupported, "a task of the kind %s is not run again", t.Kind)
		}
		if t.State != domain.TaskFailed && t.State != domain.TaskCanceled {
			return errors.New(errors.Conflict, "the task is %s", t.State).WithHint("tasks that failed or were canceled can run again")
		}
		if err := s.roomForRuns(ctx, tx, by.ProjectID, 1); err != nil {
			return err
		}
		now := s.time()
		t.State, t.Step, t.CancelAsked, t.EndedAt, t.Error = domain.TaskPending, domain.StepQueued, false, nil, nil
		t.RunAt, t.UpdatedAt, t.MaxAttempts = now, now, t.Attempts+1
		if err := tx.Tasks().Update(ctx, t); err != nil {
			return err
		}
		return tx.Outbox().Append(ctx, events.Task(events.TaskUpdated, t, now))
	})
	if err != nil {
		return nil, err
	}
	s.changes.Notify(t.ID)
	s.wakeRun(t)
	return t, nil
}

// TaskExecution implements vmm.Runs.
func (s *Service) TaskExecution(ctx context.Context, by vmm.Caller, id domain.ID, wait bool) (domain.ID, error) {
	sub := s.changes.Subscribe(id)
	defer sub.Done()
	for {
		changed := sub.Changed()
		t, err := s.GetTask(ctx, by, id)
		if err != nil {
			return "", err
		}
		if t.Kind != TaskRun {
			return "", errors.New(errors.Unsupported, "a task of the kind %s has no command", t.Kind)
		}
		if t.ExecutionID != "" {
			_, err := s.GetExecution(ctx, by, t.ExecutionID)
			if err == nil {
				return t.ExecutionID, nil
			}
			if !errors.HasCode(err, errors.NotFound) {
				return "", err
			}
		}
		if !wait || t.State.Ended() {
			return "", errors.New(errors.Conflict, "the task has no output: its command was not started")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", errors.Wrap(ctx.Err(), errors.CodeOf(ctx.Err()), "the task is still %s", t.Step)
		}
	}
}

// GetTaskGroup implements vmm.Runs.
func (s *Service) GetTaskGroup(ctx context.Context, by vmm.Caller, id domain.ID) (vmm.TaskGroup, error) {
	g := vmm.TaskGroup{ID: id}
	err := s.store.View(ctx, func(tx storage.Tx) (err error) {
		g.Counts, err = tx.Tasks().CountGroup(ctx, by.ProjectID, id)
		return err
	})
	if err == nil && len(g.Counts) == 0 {
		err = notFound("group of tasks", string(id))
	}
	return g, err
}

// CancelTaskGroup implements vmm.Runs.
func (s *Service) CancelTaskGroup(ctx context.Context, by vmm.Caller, id domain.ID) (vmm.TaskGroup, error) {
	var list vmm.List[*domain.Task]
	err := s.store.Update(ctx, func(tx storage.Tx) (err error) {
		list, err = tx.Tasks().List(ctx, storage.TaskFilter{
			ProjectID: by.ProjectID, GroupID: id, States: []domain.TaskState{domain.TaskPending, domain.TaskRunning},
			Page: storage.Page{Limit: domain.MaxTaskGroup},
		})
		if err != nil {
			return err
		}
		for i := range list.Items {
			t, err := tx.Tasks().Get(ctx, by.ProjectID, list.Items[i].ID)
			if err != nil {
				return err
			}
			if err := s.cancel(ctx, tx, t); err != nil {
				return err
			}
			list.Items[i] = t
		}
		return nil
	})
	for _, t := range list.Items {
		if err == nil {
			err = s.canceled(ctx, by, t)
		}
	}
	if err != nil {
		return vmm.TaskGroup{}, err
	}
	return s.GetTaskGroup(ctx, by, id)
}

// runCanceled has what a canceled run has made ended at once, whoever carries it
// out, and those looked at that come after it.
func (s *Service) runCanceled(ctx context.Context, by vmm.Caller, t *domain.Task) error {
	if t.State.Ended() {
		return s.WakeAfter(ctx, t)
	}
	s.wakeRun(t)
	if t.VMID == "" {
		return nil
	}
	_, err := s.DeleteVM(ctx, by, t.VMID)
	if errors.HasCode(err, errors.NotFound) {
		return nil // it will not be made
	}
	return err
}

// WakeAfter has the runs looked at that come after a task which has ended.
func (s *Service) WakeAfter(ctx context.Context, t *domain.Task) error {
	var waiting []*domain.Task
	err := s.store.View(ctx, func(tx storage.Tx) (err error) {
		waiting, err = tx.Tasks().Waiting(ctx, t.ProjectID, t.ID, storage.MaxPage)
		return err
	})
	for _, other := range waiting {
		s.wakeRun(other)
	}
	return err
}
