package sqlrepo

import (
	"context"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type executions struct{ s Session }

const (
	executionColumns = "id, project_id, vm_id, epoch, origin_id, command_sealed, state, pid, exit_code, signal, lost_reason, output_bytes, timed_out, created_at, started_at, ended_at"
	executionRead    = executionColumns + ", pack_id" // which outputPacks writes alone
	executionSelect  = "SELECT " + executionRead + " FROM executions"
	executionOpen    = "state IN ('starting', 'running')"
	executionByID    = "executions x WHERE x.id = ?" // of any project
)

var (
	executionInsert = "INSERT INTO executions (" + executionColumns + ") VALUES (" + marks(executionColumns) + ")"
	executionUpsert = "INSERT INTO executions (" + executionColumns + ") SELECT " + marks(executionColumns) +
		` WHERE EXISTS (SELECT 1 FROM vms WHERE id = ? AND project_id = ?) ON CONFLICT (id, project_id) DO UPDATE SET
		epoch = excluded.epoch, command_sealed = COALESCE(excluded.command_sealed, executions.command_sealed),
		state = excluded.state, pid = excluded.pid, exit_code = excluded.exit_code, signal = excluded.signal,
		lost_reason = excluded.lost_reason, output_bytes = excluded.output_bytes, timed_out = excluded.timed_out,
		started_at = COALESCE(excluded.started_at, executions.started_at), ended_at = excluded.ended_at
		WHERE executions.vm_id = excluded.vm_id AND executions.` + executionOpen + `
		AND NOT (executions.state = 'running' AND excluded.state = 'starting')`
)

func executionArgs(e *domain.Execution) []any {
	var code any
	if e.ExitCode != nil {
		code = int64(*e.ExitCode)
	}
	return []any{
		string(e.ID), string(e.ProjectID), string(e.VMID), e.Epoch, string(e.OriginID), blob(e.CommandSealed), string(e.State), int64(e.PID), code, int64(e.Signal),
		e.LostReason, e.OutputBytes, flag(e.TimedOut), micros(e.CreatedAt), optMicros(e.StartedAt), optMicros(e.EndedAt),
	}
}

func scanExecution(r Row) (*domain.Execution, error) {
	e := new(domain.Execution)
	return e, r.Scan(&e.ID, &e.ProjectID, &e.VMID, &e.Epoch, &e.OriginID, &e.CommandSealed, &e.State, &e.PID, &e.ExitCode, &e.Signal,
		&e.LostReason, &e.OutputBytes, scanFlag{&e.TimedOut}, scanTime{&e.CreatedAt}, scanOptTime{&e.StartedAt}, scanOptTime{&e.EndedAt}, &e.PackID)
}

func checkExecution(e *domain.Execution) error {
	if e.State.Ended() == (e.EndedAt == nil) {
		return errors.New(errors.InvalidArgument, "an execution has an end time exactly when it has ended")
	}
	return nil
}

func executionFault(err error, e *domain.Execution) error {
	switch {
	case violated(err, Unique):
		return errors.Wrap(err, errors.AlreadyExists, "execution %s exists already", e.ID).WithField("id")
	case violated(err, Reference):
		return errors.Wrap(err, errors.NotFound, "VM %s does not exist", e.VMID)
	}
	return err
}

func (r executions) Get(ctx context.Context, project, id domain.ID) (*domain.Execution, error) {
	w := where{}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	found, err := queryAll(ctx, r.s, scanExecution, executionSelect+w.String()+" LIMIT 2", w.args...)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, notFound("execution", id)
	case len(found) > 1:
		return nil, errors.New(errors.Conflict, "several projects have an execution %s", id)
	}
	return found[0], nil
}

func (r executions) Insert(ctx context.Context, e *domain.Execution) error {
	if err := checkExecution(e); err != nil {
		return err
	}
	_, err := r.s.Exec(ctx, executionInsert, executionArgs(e)...)
	return executionFault(err, e)
}

func (r executions) Upsert(ctx context.Context, es ...*domain.Execution) error {
	rows := make([][]any, len(es))
	for i, e := range es {
		if err := checkExecution(e); err != nil {
			return err
		}
		rows[i] = append(executionArgs(e), string(e.VMID), string(e.ProjectID))
	}
	if i, err := r.s.ExecEach(ctx, executionUpsert, rows); err != nil {
		return executionFault(err, es[i])
	}
	return nil
}

func (r executions) List(ctx context.Context, f storage.ExecutionFilter) (storage.List[*domain.Execution], error) {
	w := &where{}
	w.eq("vm_id", f.VMID)
	w.eq("project_id", f.ProjectID)
	anyOf(w, "state", f.States)
	return page(ctx, r.s, executionSelect, w, f.Page, scanExecution, func(e *domain.Execution) (time.Time, domain.ID) { return e.CreatedAt, e.ID })
}

func (r executions) Open(ctx context.Context, vm domain.ID) ([]*domain.Execution, error) {
	return queryAll(ctx, r.s, scanExecution, executionSelect+" WHERE vm_id = ? AND "+executionOpen+" ORDER BY created_at, id", string(vm))
}

func (r executions) LoseOpen(ctx context.Context, vm domain.ID, epoch int64, reason string, at time.Time) ([]*domain.Execution, error) {
	return queryAll(ctx, r.s, scanExecution, "UPDATE executions SET state = 'lost', lost_reason = ?, ended_at = ? WHERE vm_id = ? AND "+executionOpen+
		" AND epoch <= ? RETURNING "+executionRead, reason, micros(at), string(vm), epoch)
}

func (r executions) Expired(ctx context.Context, worker domain.ID, before time.Time, limit int) ([]*domain.Execution, error) {
	return queryAll(ctx, r.s, scanExecution, executionSelect+` WHERE ended_at IS NOT NULL AND ended_at < ? AND EXISTS (
		SELECT 1 FROM vms v WHERE v.id = vm_id AND v.project_id = executions.project_id AND `+heldBy("v")+") ORDER BY ended_at LIMIT ?",
		micros(before), string(worker), clampLimit(limit))
}

// executionsAtOnce bounds how many one statement deletes: databases bound its values.
const executionsAtOnce = 500

func (r executions) Delete(ctx context.Context, project domain.ID, ids ...domain.ID) ([]domain.ID, error) {
	var gone []domain.ID
	for some := range slices.Chunk(ids, executionsAtOnce) {
		w := &where{}
		anyOf(w, "id", some)
		w.eq("project_id", project)
		w.add("ended_at IS NOT NULL")
		err := r.s.Query(ctx, func(row Row) error {
			var id domain.ID
			err := row.Scan(&id)
			gone = append(gone, id)
			return err
		}, "DELETE FROM executions"+w.String()+" RETURNING id", w.args...)
		if err != nil {
			return nil, err
		}
	}
	return gone, nil
}

func (r executions) InVM(ctx context.Context, vm, id domain.ID) (*domain.Execution, error) {
	return queryOne(ctx, r.s, scanExecution, notFound("execution", id), executionSelect+" WHERE id = ? AND vm_id = ?", string(id), string(vm))
}
