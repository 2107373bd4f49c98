package sqlrepo

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type vms struct {
	s  Session
	tx *Tx
}

const (
	// What never changes is apart, so that updates leave its indexes alone.
	vmFixed = "id, project_id, template, template_id, build_id, snapshot_id, " +
		"milli_cpu, memory_bytes, disk_bytes, pids, created_at"
	vmChanging = "spec, name, metadata, isolation, desired, observed, pause_mode, generation, epoch, " +
		"worker_id, machine_id, stored_id, moves, deadline, deadline_gen, deadline_ack, egress_gen, egress_ack, on_timeout, idle_timeout, auto_resume, " +
		"env_sealed, token_sealed, reason, tombstone, updated_at, started_at, ended_at, revision"
	vmOwn    = "id, project_id, created_at, " + vmChanging
	vmRead   = vmOwn + ", " + vmAway
	vmSelect = "SELECT " + vmRead + " FROM vms"
	// vmAway is the last sign of life of a VM's worker that is away. What rests in
	// the storage needs none.
	vmAway = "(SELECT w.seen_at FROM workers w WHERE w.id = vms.worker_id AND w.state = 'away' AND vms.observed <> 'deleted' AND NOT " + vmInStorage + ")"
	// vmInStorage is the condition that no worker has anything of a VM, or is to have.
	vmInStorage = "(vms.stored_id <> '' AND vms.machine_id = '' AND (vms.desired = 'stopped' OR " +
		"vms.desired = 'paused' AND vms.observed = 'paused' AND vms.pause_mode = 'memory'))"
)

var (
	vmInsert = "INSERT INTO vms (" + vmFixed + ", " + vmChanging + ") VALUES (" + marks(vmFixed+", "+vmChanging) + ")"
	vmUpdate = "UPDATE vms SET " + sets(vmChanging) + " WHERE id = ? AND project_id = ? AND revision = ?"
)

func changingOf(vm *domain.VM, revision int64) []any {
	return []any{
		jsonText{vm.Spec}, vm.Name, jsonText{vm.Metadata}, string(vm.Isolation), string(vm.Desired), string(vm.Observed), string(vm.PauseMode), vm.Generation, vm.Epoch,
		string(vm.WorkerID), string(vm.MachineID), string(vm.StoredID), jsonText{vm.Moves}, optMicros(vm.Deadline), vm.DeadlineGen, vm.DeadlineAck, vm.EgressGen, vm.EgressAck,
		string(vm.OnTimeout), vm.IdleTimeout.Microseconds(), flag(vm.AutoResume),
		blob(vm.EnvSealed), blob(vm.TokenSealed), vm.Reason, optJSON(vm.Tombstone),
		micros(vm.UpdatedAt), optMicros(vm.StartedAt), optMicros(vm.EndedAt), revision,
	}
}

// vmJoined is vmRead in a statement of several tables.
var vmJoined = of("vms", vmOwn) + ", " + vmAway

func scanVM(r Row) (*domain.VM, error) { return scanVMAnd(r) }

// scanVMAnd reads a VM's columns, and more behind them.
func scanVMAnd(r Row, more ...any) (*domain.VM, error) {
	vm := new(domain.VM)
	return vm, r.Scan(append(columnsOf(vm), more...)...)
}

// columnsOf is where the columns of vmRead go.
func columnsOf(vm *domain.VM) []any {
	return []any{
		&vm.ID, &vm.ProjectID, scanTime{&vm.CreatedAt},
		jsonText{&vm.Spec}, &vm.Name, jsonText{&vm.Metadata}, &vm.Isolation, &vm.Desired, &vm.Observed, &vm.PauseMode, &vm.Generation, &vm.Epoch,
		&vm.WorkerID, &vm.MachineID, &vm.StoredID, jsonText{&vm.Moves}, scanOptTime{&vm.Deadline}, &vm.DeadlineGen, &vm.DeadlineAck, &vm.EgressGen, &vm.EgressAck,
		&vm.OnTimeout, scanDuration{&vm.IdleTimeout}, scanFlag{&vm.AutoResume},
		&vm.EnvSealed, &vm.TokenSealed, &vm.Reason, scanOptJSON[domain.Tombstone]{&vm.Tombstone},
		scanTime{&vm.UpdatedAt}, scanOptTime{&vm.StartedAt}, scanOptTime{&vm.EndedAt}, &vm.Revision,
		scanOptTime{&vm.UnreachableSince},
	}
}

func (r vms) Get(ctx context.Context, project, id domain.ID) (*domain.VM, error) {
	w := where{}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	vm, err := queryOne(ctx, r.s, scanVM, notFound("VM", id), vmSelect+w.String(), w.args...)
	r.note(vm)
	return vm, err
}

func (r vms) ForExecution(ctx context.Context, project, id, execution domain.ID) (vm *domain.VM, used bool, err error) {
	return r.with(ctx, project, id, executionByID, string(execution))
}

func (r vms) Serving(ctx context.Context, id domain.ID) (vm *domain.VM, tasks bool, err error) {
	return r.with(ctx, storage.System, id, "tasks t WHERE t.subject = vms.id AND t.project_id = vms.project_id AND t.state = 'running'")
}

// with is Get, and reports whether there is a row of another table.
func (r vms) with(ctx context.Context, project, id domain.ID, row string, args ...any) (vm *domain.VM, there bool, err error) {
	w := where{args: args}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	vm, err = queryOne(ctx, r.s, func(row Row) (*domain.VM, error) { return scanVMAnd(row, scanFlag{&there}) }, notFound("VM", id),
		"SELECT "+vmRead+", "+exists(row)+" FROM vms"+w.String(), w.args...)
	r.note(vm)
	return vm, there, err
}

// note keeps what is known of a VM that was read.
func (r vms) note(vm *domain.VM) {
	if vm != nil {
		r.tx.read = readVM{vm.ProjectID, vm.ID, vm.Revision, maps.Clone(vm.Metadata)}
	}
}

func (r vms) ByName(ctx context.Context, project domain.ID, name string) (*domain.VM, error) {
	absent := errors.New(errors.NotFound, "no VM is named %q", name)
	if name == "" {
		return nil, absent
	}
	vm, err := queryOne(ctx, r.s, scanVM, absent,
		vmSelect+" WHERE project_id = ? AND name = ? AND name <> '' AND desired <> 'deleted'", string(project), name)
	if !errors.HasCode(err, errors.NotFound) {
		return vm, err
	}
	return queryOne(ctx, r.s, scanVM, absent,
		vmSelect+" WHERE project_id = ? AND name = ? AND name <> '' AND desired = 'deleted' ORDER BY created_at DESC LIMIT 1", string(project), name)
}

func (r vms) Insert(ctx context.Context, vm *domain.VM) error {
	res := vm.Spec.Resources
	args := []any{
		string(vm.ID), string(vm.ProjectID), vm.Spec.Template, string(vm.Spec.TemplateID), string(vm.Spec.BuildID), string(vm.Spec.SnapshotID),
		res.MilliCPU, res.MemoryBytes, res.DiskBytes, res.PIDs, micros(vm.CreatedAt),
	}
	if err := r.s.ExecLater(ctx, Write{Query: vmInsert, Args: append(args, changingOf(vm, 1)...), Fault: vmFault(vm)}); err != nil {
		return err
	}
	vm.Revision = 1
	if err := r.mount(ctx, vm); err != nil {
		return err
	}
	return r.index(ctx, vm, nil)
}

func (r vms) Update(ctx context.Context, vm *domain.VM) error {
	// The index of metadata is touched only where metadata changed, which is rare.
	if was := r.tx.read; was.project != vm.ProjectID || was.id != vm.ID {
		if _, err := r.Get(ctx, vm.ProjectID, vm.ID); err != nil {
			return err
		}
	}
	was := r.tx.read
	if was.revision != vm.Revision {
		return changedMeanwhile("VM")
	}
	// It has that revision until the transaction has ended.
	err := r.s.ExecLater(ctx, Write{
		Query: vmUpdate, Args: append(changingOf(vm, vm.Revision+1), string(vm.ID), string(vm.ProjectID), vm.Revision), Fault: vmFault(vm),
	})
	if err != nil {
		return err
	}
	vm.Revision++
	r.note(vm)
	return r.index(ctx, vm, was.metadata)
}

func vmFault(vm *domain.VM) func(error) error {
	name, id, project := vm.Name, vm.ID, vm.ProjectID
	return func(err error) error {
		switch {
		case violated(err, Unique, "name"):
			return errors.Wrap(err, errors.AlreadyExists, "a VM named %q exists already", name).WithField("name")
		case violated(err, Unique):
			return errors.Wrap(err, errors.AlreadyExists, "VM %s exists already", id)
		case violated(err, Reference):
			return errors.Wrap(err, errors.NotFound, "project %s does not exist", project)
		}
		return err
	}
}

// index keeps vm_metadata in step with a VM's metadata.
func (r vms) index(ctx context.Context, vm *domain.VM, before map[string]string) error {
	if maps.Equal(vm.Metadata, before) {
		return nil
	}
	if len(before) > 0 {
		err := r.s.ExecLater(ctx, Write{Query: "DELETE FROM vm_metadata WHERE vm_id = ? AND project_id = ?", Args: []any{string(vm.ID), string(vm.ProjectID)}})
		if err != nil {
			return err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(vm.Metadata)) {
		err := r.s.ExecLater(ctx, Write{
			Query: "INSERT INTO vm_metadata (vm_id, project_id, key, value) VALUES (?, ?, ?, ?)",
			Args:  []any{string(vm.ID), string(vm.ProjectID), k, vm.Metadata[k]},
			Fault: func(err error) error { return fault(err, "indexing metadata") },
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r vms) Delete(ctx context.Context, project, id domain.ID) error {
	r.tx.read = readVM{}
	w := where{}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	w.add("observed = 'deleted'")
	n, err := r.s.Exec(ctx, "DELETE FROM vms"+w.String(), w.args...)
	if err != nil {
		return fault(err, "deleting a VM")
	}
	if n == 0 {
		if _, err := r.Get(ctx, project, id); err != nil {
			return err
		}
		return errors.New(errors.Conflict, "VM %s is not deleted yet", id)
	}
	return nil
}

func (r vms) List(ctx context.Context, f storage.VMFilter) (storage.List[*domain.VM], error) {
	w := &where{}
	w.eq("project_id", f.ProjectID)
	w.eq("worker_id", f.WorkerID)
	if !f.IncludeDeleted && !slices.Contains(f.States, domain.Deleted) {
		w.add("observed <> 'deleted'")
	}
	inStates(w, f.States)
	if f.Name != "" {
		w.add("name = ?", f.Name)
	}
	if f.Template != "" {
		w.add("? IN (template, template_id, build_id, snapshot_id)", f.Template)
	}
	for _, k := range slices.Sorted(maps.Keys(f.Metadata)) {
		if f.ProjectID != "" {
			w.add("id IN (SELECT vm_id FROM vm_metadata WHERE project_id = ? AND key = ? AND value = ?)", string(f.ProjectID), k, f.Metadata[k])
			continue
		}
		w.add("EXISTS (SELECT 1 FROM vm_metadata m WHERE m.vm_id = vms.id AND m.project_id = vms.project_id AND m.key = ? AND m.value = ?)", k, f.Metadata[k])
	}
	return page(ctx, r.s, vmSelect, w, f.Page, scanVM, func(vm *domain.VM) (time.Time, domain.ID) { return vm.CreatedAt, vm.ID })
}

// inStates narrows a list to states as domain.VM.State tells them.
func inStates(w *where, states []domain.ObservedState) {
	const known = "(observed IN ('stopped', 'paused', 'deleted', 'failed') OR NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = vms.worker_id AND w.state = 'away'))"
	anyOf(w, "observed", states)
	switch {
	case slices.Contains(states, domain.Unreachable):
		last := &w.conds[len(w.conds)-1]
		*last = "(" + *last + " AND " + known + " OR NOT " + known + ")"
	case slices.ContainsFunc(states, func(s domain.ObservedState) bool { return !s.Rests() }):
		w.add(known)
	}
}

// The conditions below repeat those of the partial indexes word for word; that
// is how a planner sees that the index serves.

func (r vms) Unconverged(ctx context.Context, worker domain.ID, limit int) ([]*domain.VM, error) {
	return queryAll(ctx, r.s, scanVM, vmSelect+` WHERE worker_id = ?
		AND observed <> desired AND observed <> 'deleted' AND (observed <> 'failed' OR desired = 'deleted')
		ORDER BY updated_at LIMIT ?`, string(worker), clampLimit(limit))
}

func (r vms) DeadlineDue(ctx context.Context, worker domain.ID, now time.Time, limit int) ([]*domain.VM, error) {
	return queryAll(ctx, r.s, scanVM, vmSelect+` WHERE worker_id = ? AND deadline <= ?
		AND deadline IS NOT NULL AND desired <> 'deleted' AND observed <> 'deleted'
		AND NOT (on_timeout = 'pause' AND desired = 'paused') AND NOT (on_timeout = 'stop' AND desired = 'stopped')
		ORDER BY deadline LIMIT ?`, string(worker), micros(now), clampLimit(limit))
}

func (r vms) Unacked(ctx context.Context, worker domain.ID, limit int) ([]*domain.VM, error) {
	return queryAll(ctx, r.s, scanVM, vmSelect+` WHERE worker_id = ?
		AND (deadline_ack < deadline_gen OR egress_ack < egress_gen) AND observed <> 'deleted'
		ORDER BY updated_at LIMIT ?`, string(worker), clampLimit(limit))
}

func (r vms) Timed(ctx context.Context, worker, after domain.ID, limit int) ([]*domain.VM, error) {
	return queryAll(ctx, r.s, scanVM, vmSelect+` WHERE worker_id = ? AND id > ? AND observed <> 'deleted'
		AND desired <> 'deleted' AND (deadline IS NOT NULL OR idle_timeout > 0)
		ORDER BY id LIMIT ?`, string(worker), string(after), clampLimit(limit))
}

func (r vms) OnWorker(ctx context.Context, worker, after domain.ID, limit int) ([]*domain.VM, error) {
	return queryAll(ctx, r.s, scanVM, vmSelect+` WHERE worker_id = ? AND id > ? AND observed <> 'deleted'
		ORDER BY id LIMIT ?`, string(worker), string(after), clampLimit(limit))
}

func (r vms) Tombstones(ctx context.Context, worker domain.ID, before time.Time, limit int) ([]*domain.VM, error) {
	return queryAll(ctx, r.s, scanVM, vmSelect+" WHERE observed = 'deleted' AND ended_at < ? AND "+heldBy("vms")+" ORDER BY ended_at LIMIT ?",
		micros(before), string(worker), clampLimit(limit))
}

// heldBy is the condition that a VM, or a build, is a worker's, or of one that is no
// more: whoever comes first sweeps up after that.
func heldBy(rows string) string {
	return "(" + rows + ".worker_id = ? OR NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = " + rows + ".worker_id))"
}

func (r vms) Count(ctx context.Context, project domain.ID) (map[domain.ObservedState]int64, error) {
	w := where{}
	w.add("observed <> 'deleted'")
	w.eq("project_id", project)
	out := make(map[domain.ObservedState]int64)
	err := r.s.Query(ctx, func(row Row) error {
		var state domain.ObservedState
		var n int64
		if err := row.Scan(&state, &n); err != nil {
			return err
		}
		out[state] = n
		return nil
	}, "SELECT observed, COUNT(*) FROM vms"+w.String()+" GROUP BY observed", w.args...)
	return out, err
}
