package sqlrepo

import (
	"context"
	"encoding/json"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type tasks struct{ s Session }

const (
	taskFixed    = "id, project_id, kind, subject, worker_id, args, created_at"
	taskChanging = "state, result, error, attempts, max_attempts, cancel_asked, updated_at, run_at, ended_at, revision"
	taskColumns  = taskFixed + ", " + taskChanging
	taskSelect   = "SELECT " + taskColumns + " FROM tasks"
)

func taskChangingOf(t *domain.Task, revision int64) []any {
	return []any{
		string(t.State), rawJSON(t.Result), optJSON(t.Error), int64(t.Attempts), int64(t.MaxAttempts), flag(t.CancelAsked),
		micros(t.UpdatedAt), micros(t.RunAt), optMicros(t.EndedAt), revision,
	}
}

func scanTask(r Row) (*domain.Task, error) {
	t := new(domain.Task)
	return t, r.Scan(&t.ID, &t.ProjectID, &t.Kind, &t.Subject, &t.WorkerID, scanRawJSON{&t.Args}, scanTime{&t.CreatedAt},
		&t.State, scanRawJSON{&t.Result}, scanOptJSON[domain.TaskError]{&t.Error}, &t.Attempts, &t.MaxAttempts, scanFlag{&t.CancelAsked},
		scanTime{&t.UpdatedAt}, scanTime{&t.RunAt}, scanOptTime{&t.EndedAt}, &t.Revision)
}

func checkTask(t *domain.Task) error {
	for _, m := range []json.RawMessage{t.Args, t.Result} {
		if len(m) > 0 && !json.Valid(m) {
			return errors.New(errors.InvalidArgument, "a task's arguments and result must be JSON")
		}
	}
	if t.State.Ended() == (t.EndedAt == nil) {
		return errors.New(errors.InvalidArgument, "a task has an end time exactly when it has ended")
	}
	return nil
}

func (r tasks) Get(ctx context.Context, project, id domain.ID) (*domain.Task, error) {
	w := where{}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	return queryOne(ctx, r.s, scanTask, notFound("task", id), taskSelect+w.String(), w.args...)
}

func (r tasks) Insert(ctx context.Context, t *domain.Task) error {
	if err := checkTask(t); err != nil {
		return err
	}
	args := []any{string(t.ID), string(t.ProjectID), t.Kind, string(t.Subject), string(t.WorkerID), rawJSON(t.Args), micros(t.CreatedAt)}
	_, err := r.s.Exec(ctx, "INSERT INTO tasks ("+taskColumns+") VALUES ("+marks(taskColumns)+")", append(args, taskChangingOf(t, 1)...)...)
	switch {
	case violated(err, Unique):
		return errors.Wrap(err, errors.AlreadyExists, "task %s exists already", t.ID)
	case violated(err, Reference):
		return errors.Wrap(err, errors.NotFound, "project %s does not exist", t.ProjectID)
	case err != nil:
		return err
	}
	t.Revision = 1
	return nil
}

func (r tasks) Update(ctx context.Context, t *domain.Task) error {
	if err := checkTask(t); err != nil {
		return err
	}
	n, err := r.s.Exec(ctx, "UPDATE tasks SET "+sets(taskChanging)+" WHERE id = ? AND project_id = ? AND revision = ?",
		append(taskChangingOf(t, t.Revision+1), string(t.ID), string(t.ProjectID), t.Revision)...)
	if err != nil {
		return fault(err, "updating a task")
	}
	if n == 0 {
		if _, err := r.Get(ctx, t.ProjectID, t.ID); err != nil {
			return err
		}
		return changedMeanwhile("task")
	}
	t.Revision++
	return nil
}

func (r tasks) List(ctx context.Context, f storage.TaskFilter) (storage.List[*domain.Task], error) {
	w := &where{}
	w.eq("subject", f.Subject)
	w.eq("project_id", f.ProjectID)
	w.eq("worker_id", f.WorkerID)
	if f.Kind != "" {
		w.add("kind = ?", f.Kind)
	}
	anyOf(w, "state", f.States)
	return page(ctx, r.s, taskSelect, w, f.Page, scanTask, func(t *domain.Task) (time.Time, domain.ID) { return t.CreatedAt, t.ID })
}

func (r tasks) Runnable(ctx context.Context, now time.Time, limit int) ([]*domain.Task, error) {
	return queryAll(ctx, r.s, scanTask, taskSelect+" WHERE state = 'pending' AND run_at <= ? ORDER BY run_at, id LIMIT ?", micros(now), clampLimit(limit))
}

func (r tasks) Running(ctx context.Context, limit int) ([]*domain.Task, error) {
	return queryAll(ctx, r.s, scanTask, taskSelect+" WHERE state = 'running' ORDER BY updated_at, id LIMIT ?", clampLimit(limit))
}

func (r tasks) DeleteEnded(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := r.s.Exec(ctx, `DELETE FROM tasks WHERE (id, project_id) IN (
		SELECT id, project_id FROM tasks WHERE ended_at IS NOT NULL AND ended_at < ? ORDER BY ended_at LIMIT ?)`, micros(before), clampLimit(limit))
	return int(n), err
}
