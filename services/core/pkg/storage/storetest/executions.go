package storetest

import (
	"fmt"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

func (e *env) newExecution(vm *domain.VM) *domain.Execution {
	return &domain.Execution{ID: domain.NewID(), ProjectID: vm.ProjectID, VMID: vm.ID, Epoch: 1, State: domain.ExecutionStarting, CreatedAt: e.tick()}
}

func (e *env) execution(vm *domain.VM, change func(*domain.Execution)) *domain.Execution {
	e.Helper()
	x := e.newExecution(vm)
	if change != nil {
		change(x)
	}
	e.update(func(tx storage.Tx) error { return tx.Executions().Insert(e.ctx(), x) })
	return x
}

func (e *env) getExecution(project, id domain.ID) *domain.Execution {
	e.Helper()
	return read(e, func(tx storage.Tx) (*domain.Execution, error) { return tx.Executions().Get(e.ctx(), project, id) })
}

func (e *env) upsert(xs ...*domain.Execution) {
	e.Helper()
	e.update(func(tx storage.Tx) error { return tx.Executions().Upsert(e.ctx(), xs...) })
}

func xids(xs []*domain.Execution) []domain.ID {
	return ids(xs, func(x *domain.Execution) domain.ID { return x.ID })
}

func executionFields(e *env) {
	p, q := e.project("p"), e.project("q")
	vm, foreign := e.vm(p, nil), e.vm(q, nil)
	x := e.execution(vm, func(x *domain.Execution) {
		x.CommandSealed, x.State, x.PID, x.ExitCode, x.Signal, x.OutputBytes = []byte{1, 0, 2}, domain.ExecutionExited, 42, ptr(137), 9, 1<<40
		x.LostReason, x.TimedOut, x.StartedAt, x.EndedAt = "", true, ptr(e.now), ptr(e.now.Add(time.Second))
	})
	same(e, "stored", e.getExecution(p, x.ID), x)
	zero := e.execution(vm, func(x *domain.Execution) {
		x.State, x.ExitCode, x.EndedAt = domain.ExecutionExited, ptr(0), ptr(e.now)
	})
	same(e, "exit code 0 is not none", e.getExecution(p, zero.ID), zero)

	e.refused(errors.AlreadyExists, func(tx storage.Tx) error { return tx.Executions().Insert(e.ctx(), x) })
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		y := e.newExecution(vm)
		y.VMID = domain.NewID()
		return tx.Executions().Insert(e.ctx(), y)
	})
	e.refused(errors.NotFound, func(tx storage.Tx) error { // a VM of another project is not there
		y := e.newExecution(vm)
		y.VMID = foreign.ID
		return tx.Executions().Insert(e.ctx(), y)
	})
	e.refused(errors.InvalidArgument, func(tx storage.Tx) error {
		y := e.newExecution(vm)
		y.State = domain.ExecutionLost // without an end time
		return tx.Executions().Insert(e.ctx(), y)
	})
	// Callers mint these IDs: another project may use the same one and learns nothing.
	if c := code(e, func(tx storage.Tx) (*domain.Execution, error) { return tx.Executions().Get(e.ctx(), q, x.ID) }); c != errors.NotFound {
		e.Errorf("another project's execution: %s", c)
	}
	twin := e.execution(foreign, func(y *domain.Execution) { y.ID = x.ID })
	same(e, "its own", e.getExecution(q, x.ID), twin)
	same(e, "still its own", e.getExecution(p, x.ID), x)
	if c := code(e, func(tx storage.Tx) (*domain.Execution, error) {
		return tx.Executions().Get(e.ctx(), storage.System, x.ID)
	}); c != errors.Conflict {
		e.Errorf("an ID of two projects, for the system: %s", c)
	}
}

func executionUpserts(e *env) {
	p := e.project("p")
	vm, other := e.vm(p, nil), e.vm(p, nil)
	x := e.newExecution(vm)
	x.CommandSealed = []byte("sealed")
	started := *x
	started.State, started.PID, started.StartedAt, started.CommandSealed = domain.ExecutionRunning, 7, ptr(e.now), nil
	ended := started
	ended.State, ended.ExitCode, ended.EndedAt, ended.OutputBytes = domain.ExecutionExited, ptr(3), ptr(e.now.Add(time.Second)), 10
	expect := func(what string, want domain.Execution) {
		e.Helper()
		want.CommandSealed = x.CommandSealed // written once, kept
		same(e, what, e.getExecution(p, x.ID), &want)
	}
	e.upsert(x)
	expect("new", *x)
	e.upsert(&started)
	expect("running", started)
	e.upsert(x)
	expect("not back to starting", started)
	progress := started
	progress.OutputBytes = 5
	e.upsert(&progress)
	expect("progress", progress)
	e.upsert(&ended)
	expect("ended", ended)
	lost := ended
	lost.State, lost.LostReason = domain.ExecutionLost, "too late"
	e.upsert(&started, &lost)
	expect("final", ended)

	stray := *x
	stray.VMID = other.ID
	stray.State, stray.ExitCode, stray.EndedAt = domain.ExecutionExited, ptr(1), ptr(e.now)
	y := e.newExecution(vm)
	gone := e.newExecution(vm)
	gone.VMID = domain.NewID()
	e.upsert(&stray, gone, y)
	expect("of another VM", ended)
	same(e, "the rest of the batch", e.getExecution(p, y.ID), y)
	if c := code(e, func(tx storage.Tx) (*domain.Execution, error) { return tx.Executions().Get(e.ctx(), p, gone.ID) }); c != errors.NotFound {
		e.Errorf("an execution of no VM: %s", c)
	}

	var batch []*domain.Execution
	for range 500 {
		batch = append(batch, e.newExecution(vm))
	}
	e.upsert(batch...)
	open := read(e, func(tx storage.Tx) ([]*domain.Execution, error) { return tx.Executions().Open(e.ctx(), vm.ID) })
	if len(open) != 501 {
		e.Errorf("%d open after a batch, want 501", len(open))
	}
}

func executionQueries(e *env) {
	p := e.project("p")
	vm, other := e.vm(p, nil), e.vm(p, nil)
	end := func(at time.Time) func(*domain.Execution) {
		return func(x *domain.Execution) { x.State, x.ExitCode, x.EndedAt = domain.ExecutionExited, ptr(0), &at }
	}
	limit := e.now.Add(time.Hour)
	old, oldest, young := e.execution(vm, end(limit.Add(-time.Second))), e.execution(other, end(limit.Add(-time.Minute))), e.execution(vm, end(limit))
	running := e.execution(vm, func(x *domain.Execution) { x.State = domain.ExecutionRunning })
	starting := e.execution(vm, func(x *domain.Execution) { x.Epoch = 2 })

	list := func(f storage.ExecutionFilter) []domain.ID {
		f.ProjectID = p
		return xids(read(e, func(tx storage.Tx) (storage.List[*domain.Execution], error) { return tx.Executions().List(e.ctx(), f) }).Items)
	}
	same(e, "of a VM, newest first", list(storage.ExecutionFilter{VMID: vm.ID}), []domain.ID{starting.ID, running.ID, young.ID, old.ID})
	same(e, "by state", list(storage.ExecutionFilter{VMID: vm.ID, States: []domain.ExecutionState{domain.ExecutionRunning}}), []domain.ID{running.ID})
	same(e, "of the project, one page", list(storage.ExecutionFilter{Page: storage.Page{Limit: 2, Order: "asc"}}), []domain.ID{old.ID, oldest.ID})
	same(e, "open", xids(read(e, func(tx storage.Tx) ([]*domain.Execution, error) { return tx.Executions().Open(e.ctx(), vm.ID) })),
		[]domain.ID{running.ID, starting.ID})
	same(e, "expired", xids(read(e, func(tx storage.Tx) ([]*domain.Execution, error) { return tx.Executions().Expired(e.ctx(), limit, 10) })),
		[]domain.ID{oldest.ID, old.ID})

	at := e.tick()
	e.update(func(tx storage.Tx) error {
		lost, err := tx.Executions().LoseOpen(e.ctx(), vm.ID, 1, "the host restarted", at)
		if len(lost) != 1 || lost[0].ID != running.ID || lost[0].State != domain.ExecutionLost || lost[0].LostReason != "the host restarted" || !lost[0].EndedAt.Equal(at) {
			e.Errorf("lost: %+v", lost)
		}
		return err
	})
	if got := e.getExecution(p, starting.ID); got.State != domain.ExecutionStarting {
		e.Errorf("an execution of a later epoch is %s", got.State)
	}
	e.update(func(tx storage.Tx) error {
		return tx.Executions().Delete(e.ctx(), storage.System, old.ID, starting.ID, domain.NewID())
	})
	same(e, "only the ended one is deleted", list(storage.ExecutionFilter{VMID: vm.ID}), []domain.ID{starting.ID, running.ID, young.ID})
}

func templates(e *env) {
	p, q := e.project("p"), e.project("q")
	tpl := &domain.Template{ID: domain.NewID(), ProjectID: p, Name: "base", Tags: map[string]domain.ID{}, CreatedAt: e.now, UpdatedAt: e.now}
	e.update(func(tx storage.Tx) error { return tx.Templates().Insert(e.ctx(), tpl) })
	get := func() *domain.Template {
		e.Helper()
		return read(e, func(tx storage.Tx) (*domain.Template, error) { return tx.Templates().Get(e.ctx(), p, tpl.ID) })
	}
	same(e, "stored", get(), tpl)
	b1, b2 := e.build(tpl, nil), e.build(tpl, nil)
	stale := *tpl
	tpl.Tags = map[string]domain.ID{"latest": b1.ID, "v1": b1.ID}
	e.update(func(tx storage.Tx) error { return tx.Templates().Update(e.ctx(), tpl) })
	same(e, "tagged", get(), tpl)
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Templates().Update(e.ctx(), &stale) })
	tpl.Name, tpl.Tags, tpl.UpdatedAt = "base2", map[string]domain.ID{"latest": b2.ID}, e.tick()
	e.update(func(tx storage.Tx) error { return tx.Templates().Update(e.ctx(), tpl) })
	same(e, "retagged and renamed", read(e, func(tx storage.Tx) (*domain.Template, error) { return tx.Templates().ByName(e.ctx(), p, "base2") }), tpl)
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		bad := *tpl
		bad.Tags = map[string]domain.ID{"x": domain.NewID()}
		return tx.Templates().Update(e.ctx(), &bad)
	})

	// One namespace with snapshots; the old name is free again.
	resolve := func(name string) (n storage.Named, c errors.Code) {
		err := e.store.View(e.ctx(), func(tx storage.Tx) (err error) {
			n, err = tx.Names().Resolve(e.ctx(), p, name)
			return err
		})
		return n, errors.CodeOf(err)
	}
	snap := &domain.Snapshot{ID: domain.NewID(), ProjectID: p, VMID: domain.NewID(), Name: "base", Kind: domain.SnapshotDisk, State: domain.BuildReady, CreatedAt: e.tick()}
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Insert(e.ctx(), snap) })
	if n, _ := resolve("base"); n != (storage.Named{Kind: storage.KindSnapshot, ProjectID: p, ID: snap.ID}) {
		e.Errorf("base is %+v", n)
	}
	if n, _ := resolve("base2"); n != (storage.Named{Kind: storage.KindTemplate, ProjectID: p, ID: tpl.ID}) {
		e.Errorf("base2 is %+v", n)
	}
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error {
		return tx.Templates().Insert(e.ctx(), &domain.Template{ID: domain.NewID(), ProjectID: p, Name: "base"})
	})
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error {
		bad := *tpl
		bad.Name = "base"
		return tx.Templates().Update(e.ctx(), &bad)
	})
	e.update(func(tx storage.Tx) error { // elsewhere it is free
		return tx.Templates().Insert(e.ctx(), &domain.Template{ID: domain.NewID(), ProjectID: q, Name: "base"})
	})
	list := read(e, func(tx storage.Tx) (storage.List[*domain.Template], error) {
		return tx.Templates().List(e.ctx(), storage.TemplateFilter{ProjectID: p})
	})
	same(e, "list", list.Items, []*domain.Template{tpl})

	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Templates().Delete(e.ctx(), q, tpl.ID) })
	e.update(func(tx storage.Tx) error { return tx.Templates().Delete(e.ctx(), p, tpl.ID) })
	if _, c := resolve("base2"); c != errors.NotFound {
		e.Errorf("the name of a deleted template: %s", c)
	}
	orphans := read(e, func(tx storage.Tx) ([]*domain.Build, error) { return tx.Builds().Orphans(e.ctx(), 10) })
	same(e, "orphans", ids(orphans, func(b *domain.Build) domain.ID { return b.ID }), []domain.ID{b1.ID, b2.ID})
}

func publicTemplates(e *env) {
	p, q := e.project("p"), e.project("q")
	mk := func(project domain.ID, name string, public bool) *domain.Template {
		tpl := &domain.Template{ID: domain.NewID(), ProjectID: project, Name: name, Public: public, Tags: map[string]domain.ID{}, CreatedAt: e.tick(), UpdatedAt: e.now}
		e.update(func(tx storage.Tx) error { return tx.Templates().Insert(e.ctx(), tpl) })
		return tpl
	}
	shared, private := mk(p, "base", true), mk(p, "mine", false)
	build := e.build(shared, nil)
	hidden := e.build(private, nil)
	byName := func(project domain.ID, name string) domain.ID {
		return read(e, func(tx storage.Tx) (*domain.Template, error) { return tx.Templates().ByName(e.ctx(), project, name) }).ID
	}
	if got := byName(q, "base"); got != shared.ID {
		e.Errorf("q's base is %s", got)
	}
	read(e, func(tx storage.Tx) (*domain.Template, error) { return tx.Templates().Get(e.ctx(), q, shared.ID) })
	read(e, func(tx storage.Tx) (*domain.Build, error) { return tx.Builds().Get(e.ctx(), q, build.ID) })
	for what, c := range map[string]errors.Code{
		"private template": code(e, func(tx storage.Tx) (*domain.Template, error) { return tx.Templates().Get(e.ctx(), q, private.ID) }),
		"by name":          code(e, func(tx storage.Tx) (*domain.Template, error) { return tx.Templates().ByName(e.ctx(), q, "mine") }),
		"private build":    code(e, func(tx storage.Tx) (*domain.Build, error) { return tx.Builds().Get(e.ctx(), q, hidden.ID) }),
		"resolve":          code(e, func(tx storage.Tx) (storage.Named, error) { return tx.Names().Resolve(e.ctx(), q, "mine") }),
	} {
		if c != errors.NotFound {
			e.Errorf("%s of another project: %s", what, c)
		}
	}
	// Readable is not writable.
	stranger := *shared
	stranger.ProjectID = q
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Templates().Update(e.ctx(), &stranger) })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Templates().Delete(e.ctx(), q, shared.ID) })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Builds().Delete(e.ctx(), q, build.ID) })

	own := mk(q, "base", false)
	if got := byName(q, "base"); got != own.ID {
		e.Errorf("one's own goes first, got %s", got)
	}
	both := read(e, func(tx storage.Tx) (storage.List[*domain.Template], error) {
		return tx.Templates().List(e.ctx(), storage.TemplateFilter{ProjectID: q, IncludePublic: true})
	})
	same(e, "own and public", ids(both.Items, func(t *domain.Template) domain.ID { return t.ID }), []domain.ID{own.ID, shared.ID})
}

func (e *env) build(tpl *domain.Template, change func(*domain.Build)) *domain.Build {
	e.Helper()
	b := &domain.Build{ID: domain.NewID(), ProjectID: tpl.ProjectID, TemplateID: tpl.ID, State: domain.BuildWaiting, CreatedAt: e.tick()}
	if change != nil {
		change(b)
	}
	e.update(func(tx storage.Tx) error { return tx.Builds().Insert(e.ctx(), b) })
	return b
}

func (e *env) template(project domain.ID, name string) *domain.Template {
	e.Helper()
	tpl := &domain.Template{ID: domain.NewID(), ProjectID: project, Name: name, CreatedAt: e.tick(), UpdatedAt: e.now}
	e.update(func(tx storage.Tx) error { return tx.Templates().Insert(e.ctx(), tpl) })
	return tpl
}

func builds(e *env) {
	p := e.project("p")
	tpl := e.template(p, "base")
	b := e.build(tpl, func(b *domain.Build) {
		b.Platform, b.Source, b.Shape = "linux/amd64", domain.TemplateSource{Packages: []string{"git"}, Suite: "bookworm"}, domain.Resources{MilliCPU: 1, MemoryBytes: 2, DiskBytes: 3, PIDs: 4}
	})
	get := func() *domain.Build {
		return read(e, func(tx storage.Tx) (*domain.Build, error) { return tx.Builds().Get(e.ctx(), p, b.ID) })
	}
	same(e, "stored", get(), b)
	stale := *b
	b.State, b.Kernel, b.DriverVersion, b.ReadyAt = domain.BuildReady, "6.1", "v1", ptr(e.tick())
	b.Artifacts, b.DefaultUser, b.Env, b.WorkDir = []domain.Artifact{{Kind: "rootfs", Path: "p", Digest: "sha256:0", Bytes: 5}}, "user", map[string]string{"A": "B"}, "/w"
	e.update(func(tx storage.Tx) error { return tx.Builds().Update(e.ctx(), b) })
	same(e, "ready", get(), b)
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Builds().Update(e.ctx(), &stale) })
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Builds().Update(e.ctx(), b) }) // ready never changes
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		return tx.Builds().Insert(e.ctx(), &domain.Build{ID: domain.NewID(), ProjectID: p, TemplateID: domain.NewID()})
	})
	failed := e.build(tpl, func(b *domain.Build) { b.State, b.Reason = domain.BuildError, "no" })
	list := func(f storage.BuildFilter) []domain.ID {
		f.ProjectID, f.TemplateID = p, tpl.ID
		return ids(read(e, func(tx storage.Tx) (storage.List[*domain.Build], error) { return tx.Builds().List(e.ctx(), f) }).Items, func(b *domain.Build) domain.ID { return b.ID })
	}
	same(e, "newest first", list(storage.BuildFilter{}), []domain.ID{failed.ID, b.ID})
	same(e, "by state", list(storage.BuildFilter{States: []domain.BuildState{domain.BuildReady}}), []domain.ID{b.ID})
}

func buildsInUse(e *env) {
	p := e.project("p")
	tpl := e.template(p, "base")
	b := e.build(tpl, nil)
	tpl.Tags = map[string]domain.ID{"latest": b.ID}
	e.update(func(tx storage.Tx) error { return tx.Templates().Update(e.ctx(), tpl) })
	used := func() bool {
		return read(e, func(tx storage.Tx) (bool, error) { return tx.Builds().InUse(e.ctx(), b.ID) })
	}
	remove := func(tx storage.Tx) error { return tx.Builds().Delete(e.ctx(), p, b.ID) }
	held := func(by string) {
		e.Helper()
		if !used() {
			e.Errorf("not in use though %s uses it", by)
		}
		e.refused(errors.Conflict, remove)
	}
	if used() {
		e.Error("a tag alone is no use")
	}
	vm := e.vm(p, func(vm *domain.VM) { vm.Spec.BuildID = b.ID })
	held("a VM")
	e.save(vm, func(vm *domain.VM) {
		vm.Desired, vm.Observed, vm.EndedAt = domain.WantDeleted, domain.Deleted, ptr(e.now)
	})
	snap := &domain.Snapshot{ID: domain.NewID(), ProjectID: p, VMID: vm.ID, BuildID: b.ID, CreatedAt: e.now}
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Insert(e.ctx(), snap) })
	held("a snapshot")
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Delete(e.ctx(), p, snap.ID) })
	m := e.machine(domain.NewID(), func(m *domain.Machine) { m.BuildID = b.ID })
	held("a machine")
	e.update(func(tx storage.Tx) error { return tx.Machines().Delete(e.ctx(), m.ID) })
	if used() {
		e.Error("in use though nothing uses it")
	}
	e.update(remove)
	e.refused(errors.NotFound, remove)
	got := read(e, func(tx storage.Tx) (*domain.Template, error) { return tx.Templates().Get(e.ctx(), p, tpl.ID) })
	if len(got.Tags) != 0 {
		e.Errorf("tags on a deleted build: %v", got.Tags)
	}
}

func snapshots(e *env) {
	p, q := e.project("p"), e.project("q")
	vm := e.vm(p, nil)
	s := &domain.Snapshot{
		ID: domain.NewID(), ProjectID: p, VMID: vm.ID, Name: "s", BuildID: domain.NewID(), Driver: "oci", DriverVersion: "1", Kind: domain.SnapshotDisk,
		Spec: vm.Spec, EnvSealed: []byte{9}, WorkerID: domain.NewID(), State: domain.BuildWaiting, CreatedAt: e.tick(),
	}
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Insert(e.ctx(), s) })
	byName := func(project domain.ID) func(tx storage.Tx) (*domain.Snapshot, error) {
		return func(tx storage.Tx) (*domain.Snapshot, error) { return tx.Snapshots().ByName(e.ctx(), project, s.Name) }
	}
	same(e, "stored", read(e, byName(p)), s)
	if c := code(e, byName(q)); c != errors.NotFound {
		e.Errorf("another project's snapshot: %s", c)
	}
	stale := *s
	s.State, s.Bytes, s.Name = domain.BuildReady, 5, "t"
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Update(e.ctx(), s) })
	same(e, "updated", read(e, byName(p)), s)
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Snapshots().Update(e.ctx(), &stale) })
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error {
		twin := *s
		twin.ID = domain.NewID()
		return tx.Snapshots().Insert(e.ctx(), &twin)
	})
	nameless := *s
	nameless.ID, nameless.Name, nameless.CreatedAt = domain.NewID(), "", e.tick()
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Insert(e.ctx(), &nameless) })
	list := func(f storage.SnapshotFilter) []domain.ID {
		return ids(read(e, func(tx storage.Tx) (storage.List[*domain.Snapshot], error) { return tx.Snapshots().List(e.ctx(), f) }).Items,
			func(s *domain.Snapshot) domain.ID { return s.ID })
	}
	both := []domain.ID{nameless.ID, s.ID}
	same(e, "of the project", list(storage.SnapshotFilter{ProjectID: p}), both)
	same(e, "of the VM", list(storage.SnapshotFilter{ProjectID: p, VMID: vm.ID}), both)
	same(e, "on the worker", list(storage.SnapshotFilter{WorkerID: s.WorkerID, States: []domain.BuildState{domain.BuildReady}}), both)

	fork := e.vm(p, func(vm *domain.VM) { vm.Spec.SnapshotID = s.ID })
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Snapshots().Delete(e.ctx(), p, s.ID) })
	e.save(fork, func(vm *domain.VM) { vm.Observed = domain.Running })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Snapshots().Delete(e.ctx(), q, s.ID) })
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Delete(e.ctx(), p, s.ID) })
	if c := code(e, func(tx storage.Tx) (storage.Named, error) { return tx.Names().Resolve(e.ctx(), p, "t") }); c != errors.NotFound {
		e.Errorf("the name of a deleted snapshot: %s", c)
	}
}

func tasks(e *env) {
	p, q := e.project("p"), e.project("q")
	mk := func(change func(*domain.Task)) *domain.Task {
		at := e.tick()
		task := &domain.Task{
			ID: domain.NewID(), ProjectID: p, Kind: "vm.create", Subject: domain.NewID(), State: domain.TaskPending, Args: []byte(`{"a": 1}`),
			MaxAttempts: 3, CreatedAt: at, UpdatedAt: at, RunAt: at,
		}
		if change != nil {
			change(task)
		}
		e.update(func(tx storage.Tx) error { return tx.Tasks().Insert(e.ctx(), task) })
		return task
	}
	task := mk(nil)
	get := func(project domain.ID) func(storage.Tx) (*domain.Task, error) {
		return func(tx storage.Tx) (*domain.Task, error) { return tx.Tasks().Get(e.ctx(), project, task.ID) }
	}
	same(e, "stored", read(e, get(p)), task)
	if c := code(e, get(q)); c != errors.NotFound {
		e.Errorf("another project's task: %s", c)
	}
	tids := func(ts []*domain.Task) []domain.ID {
		return ids(ts, func(t *domain.Task) domain.ID { return t.ID })
	}
	runnable := func(at time.Time) []domain.ID {
		return tids(read(e, func(tx storage.Tx) ([]*domain.Task, error) { return tx.Tasks().Runnable(e.ctx(), at, 10) }))
	}
	later := mk(func(t *domain.Task) { t.RunAt = e.now.Add(time.Hour) })
	sooner := mk(func(t *domain.Task) { t.RunAt = task.RunAt.Add(-time.Minute) })
	same(e, "runnable, earliest first", runnable(e.now), []domain.ID{sooner.ID, task.ID})
	same(e, "runnable in an hour", runnable(later.RunAt), []domain.ID{sooner.ID, task.ID, later.ID})

	stale := *task
	task.State, task.Attempts, task.CancelAsked, task.UpdatedAt = domain.TaskRunning, 1, true, e.tick()
	e.update(func(tx storage.Tx) error { return tx.Tasks().Update(e.ctx(), task) })
	same(e, "running", read(e, get(storage.System)), task)
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Tasks().Update(e.ctx(), &stale) })
	same(e, "interrupted by a crash", tids(read(e, func(tx storage.Tx) ([]*domain.Task, error) { return tx.Tasks().Running(e.ctx(), 10) })), []domain.ID{task.ID})
	task.State, task.Result, task.Error, task.EndedAt = domain.TaskFailed, []byte(`[]`), &domain.TaskError{Code: "c", Message: "m"}, ptr(e.tick())
	e.update(func(tx storage.Tx) error { return tx.Tasks().Update(e.ctx(), task) })
	same(e, "ended", read(e, get(p)), task)

	list := func(f storage.TaskFilter) []domain.ID {
		f.ProjectID = p
		return tids(read(e, func(tx storage.Tx) (storage.List[*domain.Task], error) { return tx.Tasks().List(e.ctx(), f) }).Items)
	}
	same(e, "by subject", list(storage.TaskFilter{Subject: later.Subject}), []domain.ID{later.ID})
	same(e, "by state", list(storage.TaskFilter{States: []domain.TaskState{domain.TaskPending}}), []domain.ID{sooner.ID, later.ID})
	same(e, "by kind", list(storage.TaskFilter{Kind: "nothing"}), []domain.ID{})
	for _, bad := range []func(*domain.Task){
		func(t *domain.Task) { t.Args = []byte("{") },
		func(t *domain.Task) { t.State = domain.TaskSucceeded }, // without an end time
	} {
		e.refused(errors.InvalidArgument, func(tx storage.Tx) error {
			t := *later
			t.ID = domain.NewID()
			bad(&t)
			return tx.Tasks().Insert(e.ctx(), &t)
		})
	}
	e.update(func(tx storage.Tx) error {
		n, err := tx.Tasks().DeleteEnded(e.ctx(), task.EndedAt.Add(time.Microsecond), 10)
		if n != 1 {
			e.Errorf("%d ended tasks deleted", n)
		}
		return err
	})
	same(e, "left", list(storage.TaskFilter{}), []domain.ID{sooner.ID, later.ID})
}

func outbox(e *env) {
	p, q, vm := e.project("p"), e.project("q"), domain.NewID()
	bounds := func() (oldest, newest int64) {
		e.view(func(tx storage.Tx) (err error) {
			oldest, newest, err = tx.Outbox().Bounds(e.ctx())
			return err
		})
		return oldest, newest
	}
	if a, b := bounds(); a != 0 || b != 0 {
		e.Errorf("empty: %d..%d", a, b)
	}
	var all []domain.Event
	start := e.now
	for i := range 10 {
		ev := &domain.Event{ProjectID: p, Type: "vm.updated", Subject: domain.NewID(), Data: fmt.Appendf(nil, `{"i":%d}`, i), At: e.tick()}
		if i%3 == 0 {
			ev.ProjectID = q
		}
		if i%2 == 0 {
			ev.VMID = vm
		}
		e.update(func(tx storage.Tx) error { return tx.Outbox().Append(e.ctx(), ev) })
		if len(all) > 0 && ev.Seq <= all[len(all)-1].Seq {
			e.Fatalf("cursor %d after %d", ev.Seq, all[len(all)-1].Seq)
		}
		all = append(all, *ev)
	}
	list := func(f storage.EventFilter) []domain.Event {
		return read(e, func(tx storage.Tx) ([]domain.Event, error) { return tx.Outbox().List(e.ctx(), f) })
	}
	pick := func(keep func(int, domain.Event) bool) []domain.Event {
		var out []domain.Event
		for i, ev := range all {
			if keep(i, ev) {
				out = append(out, ev)
			}
		}
		return out
	}
	same(e, "all", list(storage.EventFilter{}), all)
	same(e, "a page", list(storage.EventFilter{After: all[3].Seq, Limit: 2}), all[4:6])
	same(e, "of a project", list(storage.EventFilter{ProjectID: q}), pick(func(i int, _ domain.Event) bool { return i%3 == 0 }))
	same(e, "of a VM", list(storage.EventFilter{ProjectID: p, VMID: vm}), pick(func(i int, _ domain.Event) bool { return i%3 != 0 && i%2 == 0 }))
	e.refused(errors.InvalidArgument, func(tx storage.Tx) error {
		return tx.Outbox().Append(e.ctx(), &domain.Event{Type: "t", Data: []byte("{")})
	})
	purge := func(before time.Time, limit, want int) {
		e.Helper()
		e.update(func(tx storage.Tx) error {
			n, err := tx.Outbox().DeleteBefore(e.ctx(), before, limit)
			if n != want {
				e.Errorf("deleted %d, want %d", n, want)
			}
			return err
		})
	}
	purge(start, 100, 0)
	purge(all[4].At, 3, 3)
	purge(all[4].At, 100, 1)
	if a, b := bounds(); a != all[4].Seq || b != all[9].Seq {
		e.Errorf("after deleting four: %d..%d", a, b)
	}
	purge(e.now.Add(time.Hour), 100, 5) // the newest is kept: cursors never start over
	if a, b := bounds(); a != all[9].Seq || b != all[9].Seq {
		e.Errorf("after deleting all: %d..%d", a, b)
	}
}
