package worker

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// underway are the tasks that run in this process.
type underway struct {
	mu    sync.Mutex
	tasks map[domain.ID]bool
}

func (u *underway) enter(id domain.ID) (leave func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.tasks == nil {
		u.tasks = make(map[domain.ID]bool)
	}
	u.tasks[id] = true
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.tasks, id)
	}
}

func (u *underway) has(id domain.ID) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.tasks[id]
}

// requeueTasks takes up what was pending or under way when a process ended, or
// when the queue lost it.
func (w *Worker) requeueTasks(ctx context.Context) error {
	var list []*domain.Task
	err := w.Store.View(ctx, func(tx storage.Tx) error {
		list = nil
		for _, kind := range runnable {
			page, err := tx.Tasks().List(ctx, storage.TaskFilter{
				Kind: kind, WorkerID: w.id, States: []domain.TaskState{domain.TaskPending, domain.TaskRunning},
				Page: storage.Page{Limit: storage.MaxPage},
			})
			if err != nil {
				return err
			}
			list = append(list, page.Items...)
		}
		return nil
	})
	for _, t := range list {
		if !w.tasks.has(t.ID) {
			w.RunTask(t.ProjectID, t.ID)
		}
	}
	return err
}

// runnable are the kinds of the tasks that the worker runs.
var runnable = []string{service.TaskBuild, service.TaskTools}

// runTask runs one task that the worker knows how to run. An error means: try again.
func (w *Worker) runTask(ctx context.Context, id domain.ID) (err error) {
	defer w.tasks.enter(id)()
	defer func() {
		if err == nil {
			w.builds.forgetLogin(id)
		}
	}()
	task, err := w.changeTask(ctx, id, func(t *domain.Task) bool {
		if t.State.Ended() || t.WorkerID != w.id || !slices.Contains(runnable, t.Kind) {
			return false
		}
		t.State = domain.TaskRunning
		t.Attempts++
		return true
	})
	if err != nil || task == nil {
		return err
	}
	var result json.RawMessage
	if task.Kind == service.TaskTools {
		result, err = w.installTools(ctx, task)
		defer w.builds.grown.Notify(id) // who reads the log learns that it ends
	} else {
		result, err = w.buildTemplate(ctx, task)
	}
	if ctx.Err() != nil {
		return ctx.Err() // the worker stops: the task is taken up by the next
	}
	_, ferr := w.changeTask(ctx, id, func(t *domain.Task) bool {
		now := w.time()
		t.EndedAt = &now
		switch {
		case err == nil:
			t.State, t.Result = domain.TaskSucceeded, result
		case t.CancelAsked:
			t.State = domain.TaskCanceled
		default:
			public := errors.Public(err)
			t.State, t.Error = domain.TaskFailed, &domain.TaskError{Code: string(public.Code), Message: public.Message}
			w.Log.Error("task failed", "task", id, "kind", t.Kind, "error", err)
		}
		return true
	})
	return ferr
}

// changeTask changes a task's row in one transaction with its event. It
// returns nil when change declines.
func (w *Worker) changeTask(ctx context.Context, id domain.ID, change func(*domain.Task) bool) (*domain.Task, error) {
	ctx = context.WithoutCancel(ctx)
	var task *domain.Task
	changed := false
	err := w.Store.Update(ctx, func(tx storage.Tx) (err error) {
		if _, err = w.member(ctx, tx); err != nil {
			return err
		}
		if task, err = tx.Tasks().Get(ctx, storage.System, id); err != nil {
			return err
		}
		if changed = change(task); !changed {
			return nil
		}
		task.UpdatedAt = w.time()
		if err := tx.Tasks().Update(ctx, task); err != nil {
			return err
		}
		return tx.Outbox().Append(ctx, events.Task(events.TaskKind(task.State), task, task.UpdatedAt))
	})
	if err != nil || !changed {
		return nil, err
	}
	w.Changes.Notify(id)
	return task, nil
}

// CancelTask implements service.Node.
func (w *Worker) CancelTask(id domain.ID) {
	w.builds.forgetLogin(id)
	w.builds.cancel(id)
	w.builds.grown.Notify(id)
}

// buildTemplate makes a build's root filesystem and points the template's tags at it.
func (w *Worker) buildTemplate(ctx context.Context, task *domain.Task) (json.RawMessage, error) {
	var args service.BuildArgs
	if err := json.Unmarshal(task.Args, &args); err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the task's arguments are damaged")
	}
	build, err := w.changeBuild(ctx, task.Subject, events.BuildStarted, func(_ storage.Tx, b *domain.Build) error {
		b.State = domain.BuildBuilding
		return nil
	})
	if errors.HasCode(err, errors.Conflict) {
		return w.buildResult(ctx, task.Subject) // it was finished just before a crash
	}
	if err != nil {
		return nil, err
	}
	ctx, end, err := w.builds.begin(ctx, w.buildLogFile(build.ID), task.ID, build.ID)
	if err != nil {
		return nil, err
	}
	defer end()
	made, err := w.makeRootFS(ctx, task.ID, build, args)
	if err != nil {
		return nil, errors.Join(err, w.buildFailed(ctx, build.ID, err))
	}
	build.Artifacts = []domain.Artifact{{Kind: domain.ArtifactRootFS, Path: string(build.ID), Digest: made.Digest, Bytes: made.Bytes}}
	if build.Artifacts[0].Packed, err = w.send(ctx, build.ID); err != nil {
		return nil, errors.Join(err, w.buildFailed(ctx, build.ID, err))
	}
	finish(build, made)
	if build.Warm.Memory {
		memory, err := w.warmUp(ctx, build, made)
		if err != nil {
			w.builds.say(build.ID, "error: "+errors.Public(err).Message)
			return nil, errors.Join(err, w.buildFailed(ctx, build.ID, err))
		}
		build.Artifacts = append(build.Artifacts, *memory)
	}
	if len(args.TryOn) > 0 {
		if err := w.tryStart(ctx, build, made, args); err != nil {
			w.builds.say(build.ID, "error: "+errors.Public(err).Message)
			return nil, errors.Join(err, w.buildFailed(ctx, build.ID, err))
		}
	}
	_, err = w.changeBuild(ctx, build.ID, events.BuildReady, func(tx storage.Tx, b *domain.Build) error {
		now := w.time()
		b.State, b.ReadyAt, b.Artifacts = domain.BuildReady, &now, build.Artifacts
		finish(b, made)
		return w.tag(ctx, tx, b, args.Tags)
	})
	if err != nil {
		return nil, err
	}
	w.TemplatesChanged(ctx)
	return w.buildResult(ctx, build.ID)
}

// finish completes what a build's owner left open by what the image says.
func finish(b *domain.Build, made image.Result) {
	if b.DefaultUser == "" {
		b.DefaultUser = made.User
	}
	if b.WorkDir == "" {
		b.WorkDir = made.WorkDir
	}
	env := maps.Clone(made.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, b.Env)
	b.Env = env
}

// TemplatesChanged implements service.Node. It returns when what was kept of
// builds that nobody gets any more is gone, or is left to the sweep.
func (w *Worker) TemplatesChanged(ctx context.Context) {
	err := w.pool.review(ctx)
	if err == nil {
		err = errors.Join(w.sweepBuilds(ctx), w.sweepCopies(ctx))
	}
	if err != nil && ctx.Err() == nil {
		w.Log.Warn("old builds are left to the sweep", "error", err)
	}
}

// tag points tags of a build's template at it.
func (w *Worker) tag(ctx context.Context, tx storage.Tx, b *domain.Build, tags []string) error {
	tmpl, err := tx.Templates().Get(ctx, storage.System, b.TemplateID)
	if err != nil {
		return err
	}
	if tmpl.Tags == nil {
		tmpl.Tags = map[string]domain.ID{}
	}
	for _, t := range tags {
		tmpl.Tags[t] = b.ID
	}
	tmpl.UpdatedAt = w.time()
	return tx.Templates().Update(ctx, tmpl)
}

func (w *Worker) buildResult(_ context.Context, id domain.ID) (json.RawMessage, error) {
	text, err := json.Marshal(map[string]domain.ID{"build_id": id})
	return text, err
}

func (w *Worker) buildFailed(ctx context.Context, id domain.ID, why error) error {
	if ctx.Err() != nil && w.ctx.Err() != nil {
		return nil //nolint:nilerr // interrupted by Stop: the next worker goes on
	}
	_, err := w.changeBuild(ctx, id, events.BuildFailed, func(_ storage.Tx, b *domain.Build) error {
		b.State, b.Reason = domain.BuildError, errors.Public(why).Message
		return nil
	})
	return err
}

func (w *Worker) changeBuild(ctx context.Context, id domain.ID, kind string, change func(storage.Tx, *domain.Build) error) (*domain.Build, error) {
	ctx = context.WithoutCancel(ctx)
	var build *domain.Build
	err := w.Store.Update(ctx, func(tx storage.Tx) (err error) {
		if _, err = w.member(ctx, tx); err != nil {
			return err
		}
		if build, err = tx.Builds().Get(ctx, storage.System, id); err != nil {
			return err
		}
		if build.State == domain.BuildReady {
			return errors.New(errors.Conflict, "the build is ready")
		}
		if err := change(tx, build); err != nil {
			return err
		}
		if err := tx.Builds().Update(ctx, build); err != nil {
			return err
		}
		return tx.Outbox().Append(ctx, events.Build(kind, build, w.time()))
	})
	return build, err
}
