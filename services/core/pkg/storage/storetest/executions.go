package storetest

import (
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
		x.OriginID = domain.NewID()
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
	p, mine := e.project("p"), e.hire("mine")
	placed := func(vm *domain.VM) { vm.WorkerID = mine }
	vm, other := e.vm(p, placed), e.vm(p, placed)
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
	expired := func(worker domain.ID) []domain.ID {
		return xids(read(e, func(tx storage.Tx) ([]*domain.Execution, error) {
			return tx.Executions().Expired(e.ctx(), worker, limit, 10)
		}))
	}
	same(e, "expired", expired(mine), []domain.ID{oldest.ID, old.ID})
	same(e, "expired on another worker", expired(e.hire("another")), []domain.ID{})

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
	drop := func(project domain.ID, ids ...domain.ID) (gone []domain.ID) {
		e.update(func(tx storage.Tx) (err error) {
			gone, err = tx.Executions().Delete(e.ctx(), project, ids...)
			return err
		})
		return gone
	}
	same(e, "what is deleted", drop(storage.System, old.ID, starting.ID, domain.NewID()), []domain.ID{old.ID})
	same(e, "only the ended one is deleted", list(storage.ExecutionFilter{VMID: vm.ID}), []domain.ID{starting.ID, running.ID, young.ID})

	// Many at once, as a sweep has them.
	many := make([]*domain.Execution, 1234)
	gone := make([]domain.ID, len(many))
	for i := range many {
		many[i] = e.newExecution(vm)
		ended(e)(many[i])
		gone[i] = many[i].ID
	}
	e.upsert(many...)
	if n := len(drop(p, append(gone, running.ID)...)); n != len(gone)+1 {
		e.Errorf("%d of %d are deleted", n, len(gone)+1)
	}
	same(e, "many are deleted", list(storage.ExecutionFilter{VMID: vm.ID}), []domain.ID{starting.ID, young.ID})
}
