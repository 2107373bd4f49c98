package sqlrepo

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type tasks struct{ s Session }

const (
	taskFixed    = "id, project_id, kind, subject, worker_id, args, created_at, name, group_id, spec_sealed"
	taskChanging = "state, result, error, attempts, max_attempts, cancel_asked, updated_at, run_at, ended_at, step, vm_id, execution_id, revision"
	taskColumns  = taskFixed + ", " + taskChanging
	taskSelect   = "SELECT " + taskColumns + " FROM tasks"
)

// taskListSelect leaves out what can be large.
var taskListSelect = strings.NewReplacer("spec_sealed", "NULL", " result,", " CASE WHEN spec_sealed IS NULL THEN result ELSE '' END,").Replace(taskSelect)

// taskUnawaited is what holds of a task that no other waits for.
const taskUnawaited = `NOT EXISTS (SELECT 1 FROM task_after a JOIN tasks o ON o.id = a.task_id AND o.project_id = a.project_id
	WHERE a.after_id = tasks.id AND a.project_id = tasks.project_id AND o.ended_at IS NULL)`

// taskGone is what is told of a task that is deleted.
var taskGone = strings.NewReplacer("spec_sealed", "NULL",
	" result,", fmt.Sprintf(" CASE WHEN length(result) > %d THEN '' ELSE result END,", domain.MaxArchivedResult)).Replace(taskColumns)

func taskChangingOf(t *domain.Task, revision int64) []any {
	return []any{
		string(t.State), rawJSON(t.Result), optJSON(t.Error), int64(t.Attempts), int64(t.MaxAttempts), flag(t.CancelAsked),
		micros(t.UpdatedAt), micros(t.RunAt), optMicros(t.EndedAt),
		string(t.Step), string(t.VMID), string(t.ExecutionID), revision,
	}
}

func scanTask(r Row) (*domain.Task, error) {
	t := new(domain.Task)
	return t, r.Scan(&t.ID, &t.ProjectID, &t.Kind, &t.Subject, &t.WorkerID, scanRawJSON{&t.Args}, scanTime{&t.CreatedAt},
		&t.Name, &t.GroupID, &t.SpecSealed, &t.State, scanRawJSON{&t.Result}, scanOptJSON[domain.TaskError]{&t.Error}, &t.Attempts, &t.MaxAttempts, scanFlag{&t.CancelAsked},
		scanTime{&t.UpdatedAt}, scanTime{&t.RunAt}, scanOptTime{&t.EndedAt}, &t.Step, &t.VMID, &t.ExecutionID, &t.Revision)
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
	args := []any{string(t.ID), string(t.ProjectID), t.Kind, string(t.Subject), string(t.WorkerID), rawJSON(t.Args), micros(t.CreatedAt), t.Name, string(t.GroupID), t.SpecSealed}
	id, project := t.ID, t.ProjectID
	err := r.s.ExecLater(ctx, Write{
		Query: "INSERT INTO tasks (" + taskColumns + ") VALUES (" + marks(taskColumns) + ")", Args: append(args, taskChangingOf(t, 1)...),
		Fault: func(err error) error {
			switch {
			case violated(err, Unique):
				return errors.Wrap(err, errors.AlreadyExists, "task %s exists already", id)
			case violated(err, Reference):
				return errors.Wrap(err, errors.NotFound, "project %s does not exist", project)
			}
			return err
		},
	})
	if err != nil {
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
	if f.GroupID != "" {
		w.add("group_id = ? AND group_id <> ''", string(f.GroupID)) // as its index has it
	}
	if f.Kind != "" {
		w.add("kind = ?", f.Kind)
	}
	anyOf(w, "state", f.States)
	return page(ctx, r.s, taskListSelect, w, f.Page, scanTask, func(t *domain.Task) (time.Time, domain.ID) { return t.CreatedAt, t.ID })
}

func (r tasks) Runnable(ctx context.Context, now time.Time, limit int) ([]*domain.Task, error) {
	return queryAll(ctx, r.s, scanTask, taskSelect+" WHERE state = 'pending' AND run_at <= ? ORDER BY run_at, id LIMIT ?", micros(now), clampLimit(limit))
}

func (r tasks) Running(ctx context.Context, limit int) ([]*domain.Task, error) {
	return queryAll(ctx, r.s, scanTask, taskSelect+" WHERE state = 'running' ORDER BY updated_at, id LIMIT ?", clampLimit(limit))
}

func (r tasks) RunningOf(ctx context.Context, kind string) ([]*domain.Task, error) {
	return queryAll(ctx, r.s, scanTask, taskListSelect+" WHERE state = 'running' AND kind = ? ORDER BY updated_at, id", kind)
}

func (r tasks) Wait(ctx context.Context, project, id domain.ID, after []domain.ID) error {
	for _, other := range after {
		if _, err := r.Get(ctx, project, other); err != nil {
			return err
		}
		err := r.s.ExecLater(ctx, Write{
			Query: "INSERT INTO task_after (task_id, project_id, after_id) VALUES (?, ?, ?)", Args: []any{string(id), string(project), string(other)},
			Fault: func(err error) error { return fault(err, "noting what a task comes after") },
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r tasks) After(ctx context.Context, project, id domain.ID) ([]*domain.Task, error) {
	return queryAll(ctx, r.s, scanTask, taskListSelect+` WHERE project_id = ? AND id IN (
		SELECT after_id FROM task_after WHERE task_id = ? AND project_id = ?) ORDER BY created_at, id`, string(project), string(id), string(project))
}

func (r tasks) Waiting(ctx context.Context, project, id domain.ID, limit int) ([]*domain.Task, error) {
	return queryAll(ctx, r.s, scanTask, taskListSelect+` WHERE project_id = ? AND state = 'pending' AND id IN (
		SELECT task_id FROM task_after WHERE after_id = ? AND project_id = ?) ORDER BY created_at, id LIMIT ?`,
		string(project), string(id), string(project), clampLimit(limit))
}

func (r tasks) Ready(ctx context.Context, kind string, project domain.ID, now time.Time, limit int) ([]*domain.Task, error) {
	w := &where{}
	w.eq("project_id", project)
	w.add("kind = ?", kind)
	w.add("state = 'pending'")
	w.add("run_at <= ?", micros(now))
	w.add(`NOT EXISTS (SELECT 1 FROM task_after a JOIN tasks o ON o.id = a.after_id AND o.project_id = a.project_id
		WHERE a.task_id = tasks.id AND a.project_id = tasks.project_id AND o.ended_at IS NULL)`)
	return queryAll(ctx, r.s, scanTask, taskListSelect+w.String()+" ORDER BY run_at, id LIMIT ?", append(w.args, clampLimit(limit))...)
}

// ReadyProjects goes from project to project, by one look at the index each,
// however many tasks they have.
func (r tasks) ReadyProjects(ctx context.Context, kind string, now time.Time) ([]domain.ID, error) {
	var ids []domain.ID
	err := r.s.Query(ctx, func(row Row) error {
		var id domain.ID
		err := row.Scan(&id)
		ids = append(ids, id)
		return err
	}, `WITH RECURSIVE last (id) AS (
			SELECT (SELECT project_id FROM tasks WHERE state = 'pending' ORDER BY project_id LIMIT 1)
			UNION ALL SELECT (SELECT project_id FROM tasks WHERE state = 'pending' AND project_id > last.id ORDER BY project_id LIMIT 1)
			FROM last WHERE last.id IS NOT NULL)
		SELECT id FROM last WHERE EXISTS (SELECT 1 FROM tasks WHERE project_id = last.id AND kind = ? AND state = 'pending' AND run_at <= ?)`,
		kind, micros(now))
	return ids, err
}

func (r tasks) CountRunning(ctx context.Context, kind string, project domain.ID) (int, error) {
	n, err := queryInt(ctx, r.s, "SELECT count(*) FROM tasks WHERE project_id = ? AND kind = ? AND state = 'running'", string(project), kind)
	return int(n), err
}

func (r tasks) CountOpen(ctx context.Context, kind string, project domain.ID) (int, error) {
	running, err := r.CountRunning(ctx, kind, project)
	if err != nil {
		return 0, err
	}
	n, err := queryInt(ctx, r.s, "SELECT count(*) FROM tasks WHERE project_id = ? AND kind = ? AND state = 'pending'", string(project), kind)
	return running + int(n), err
}

func (r tasks) CountGroup(ctx context.Context, project, group domain.ID) (map[domain.TaskState]int, error) {
	counts := map[domain.TaskState]int{}
	err := r.s.Query(ctx, func(row Row) error {
		var state domain.TaskState
		var n int
		if err := row.Scan(&state, &n); err != nil {
			return err
		}
		counts[state] = n
		return nil
	}, "SELECT state, COUNT(*) FROM tasks WHERE group_id = ? AND group_id <> '' AND project_id = ? GROUP BY state", string(group), string(project))
	return counts, err
}

func (r tasks) Ended(ctx context.Context, before time.Time, limit int) ([]*domain.Task, error) {
	return queryAll(ctx, r.s, scanTask, "SELECT "+taskGone+" FROM tasks WHERE ended_at IS NOT NULL AND ended_at < ? AND "+taskUnawaited+" ORDER BY ended_at LIMIT ?",
		micros(before), clampLimit(limit))
}

func (r tasks) Delete(ctx context.Context, these ...*domain.Task) ([]*domain.Task, error) {
	if len(these) == 0 {
		return nil, nil
	}
	if len(these) > storage.MaxPage {
		return nil, errors.New(errors.InvalidArgument, "%d tasks are to go at once", len(these))
	}
	which, args := make([]string, len(these)), make([]any, 0, 2*len(these))
	for i, t := range these {
		which[i] = "(?, ?)"
		args = append(args, string(t.ID), string(t.ProjectID))
	}
	return queryAll(ctx, r.s, scanTask, "DELETE FROM tasks WHERE (id, project_id) IN (VALUES "+strings.Join(which, ", ")+") AND ended_at IS NOT NULL AND "+taskUnawaited+" RETURNING "+taskGone, args...)
}
