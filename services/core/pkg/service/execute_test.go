package service_test

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// runs is a worker of another process that runs commands in no time.
type runs struct {
	node
	silent  bool   // output comes by a call of its own
	request string // what it says that the execution was asked for by
	begun   []domain.ID
	outputs int // calls of Output
	closed  int // readers
}

func (r *runs) Execute(_ context.Context, vm *domain.VM, req vmm.StartExecution) (*domain.Execution, vmm.OutputReader, error) {
	r.begun = append(r.begun, req.ID)
	x := &domain.Execution{ID: req.ID, ProjectID: vm.ProjectID, VMID: vm.ID, Command: domain.Command{Request: r.request}}
	if r.silent {
		return x, nil, nil
	}
	return x, &ended{r}, nil
}

func (r *runs) Output(context.Context, *domain.Execution, int64, bool) (vmm.OutputReader, error) {
	r.outputs++
	return &ended{r}, nil
}

func (r *runs) Execution(context.Context, domain.ID) (*domain.Execution, error) {
	return nil, errors.New(errors.NotFound, "it is forgotten")
}

func (r *runs) Node(domain.ID) (service.Node, error) { return r, nil }
func (r *runs) Here() service.Node                   { return nil }

type ended struct{ r *runs }

func (*ended) Next(context.Context) (domain.OutputEvent, error) { return domain.OutputEvent{}, io.EOF }
func (*ended) Hold()                                            {}
func (e *ended) Close() error                                   { e.r.closed++; return nil }

// reads counts what the store is asked.
type reads struct {
	storage.Store
	n atomic.Int64
}

func (s *reads) Read(ctx context.Context, f func(storage.Tx) error) error {
	s.n.Add(1)
	return s.Store.Read(ctx, f)
}

func (s *reads) View(ctx context.Context, f func(storage.Tx) error) error {
	s.n.Add(1)
	return s.Store.View(ctx, f)
}

// A gateway asks the database once before it has a worker run a command, and no
// command runs twice under one ID.
func TestExecuteByAGateway(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	store, worker := &reads{Store: b.store}, &runs{}
	b.Service = service.New(b.config, service.Deps{Store: store, Nodes: worker, Sealer: b.sealer, Changes: new(watch.Hub[domain.ID]), Log: slog.New(slog.DiscardHandler)})
	running := func() *domain.VM {
		vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
		must(t, err)
		vm.Observed = domain.Running
		must(t, b.store.Update(b.ctx, func(tx storage.Tx) error { return tx.VMs().Update(b.ctx, vm) }))
		return vm
	}
	vm, other := running(), running()
	execute := func(vm, id domain.ID, request string) (*domain.Execution, error) {
		x, out, err := b.Execute(b.ctx, b.by, vm, vmm.StartExecution{ID: id, Command: domain.Command{Args: []string{"true"}, Request: request}})
		if err == nil {
			must(t, out.Close())
		}
		return x, err
	}
	id := domain.NewID()
	before := store.n.Load()
	x, err := execute(vm.ID, id, "")
	must(t, err)
	if asked := store.n.Load() - before; x.ID != id || len(worker.begun) != 1 || worker.outputs != 0 || asked != 1 {
		t.Errorf("%+v, begun %v, %d outputs, asked the database %d times", x, worker.begun, worker.outputs, asked)
	}
	if x, err := execute(vm.ID, "", ""); err != nil || x.ID == "" || len(worker.begun) != 2 {
		t.Errorf("without an ID: %+v, %v", x, err)
	}
	if _, err := execute(domain.NewID(), domain.NewID(), ""); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("in a VM that there is not: %v", err)
	}
	if _, err := execute(vm.ID, "!", ""); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("a bad ID: %v", err)
	}

	// What was read along with the credentials is not read again, unless somebody
	// used the ID or it is another project's.
	ahead := func(row *domain.VM, x domain.ID, used bool) context.Context {
		ctx := vmm.WithAhead(b.ctx, row.ID, x)
		vmm.AheadOf(ctx).Found(row, used)
		return ctx
	}
	foreign := *vm
	foreign.ProjectID = domain.NewID()
	for name, tc := range map[string]struct {
		row    *domain.VM
		used   bool
		asking int64
	}{"nobody used it": {row: vm}, "somebody may have": {row: vm, used: true, asking: 1}, "another project's": {row: &foreign, asking: 1}} {
		x, begun, before := domain.NewID(), len(worker.begun), store.n.Load()
		got, out, err := b.Execute(ahead(tc.row, x, tc.used), b.by, vm.ID, vmm.StartExecution{ID: x, Command: domain.Command{Args: []string{"true"}}})
		must(t, err)
		must(t, out.Close())
		if asked := store.n.Load() - before; got.ID != x || len(worker.begun) != begun+1 || asked != tc.asking {
			t.Errorf("%s: %+v, begun %v, asked the database %d times", name, got, worker.begun, asked)
		}
	}
	before = store.n.Load()
	if got, err := b.GetVM(ahead(vm, "", false), b.by, vm.ID); err != nil || got != vm || store.n.Load() != before {
		t.Errorf("a VM that was read ahead: %v, %v", got, err)
	}
	if _, err := b.GetVM(ahead(&foreign, "", false), b.by, vm.ID); err != nil || store.n.Load() != before+1 {
		t.Errorf("another project's: %v", err)
	}
	worker.begun = worker.begun[:2]

	// Its row is written: whoever asks again is given what it has written.
	now := b.now()
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		return tx.Executions().Upsert(b.ctx, &domain.Execution{
			ID: id, ProjectID: b.by.ProjectID, VMID: vm.ID, Epoch: 1, State: domain.ExecutionExited, ExitCode: new(int), CreatedAt: now, StartedAt: &now, EndedAt: &now,
		})
	}))
	if x, err := execute(vm.ID, id, ""); err != nil || x.ID != id || len(worker.begun) != 2 || worker.outputs != 1 {
		t.Errorf("again: %+v, %v, begun %v", x, err, worker.begun)
	}
	if _, err := execute(other.ID, id, ""); !errors.HasCode(err, errors.AlreadyExists) || len(worker.begun) != 2 {
		t.Errorf("in another VM: %v, begun %v", err, worker.begun)
	}
	if _, err := execute(domain.NewID(), id, ""); !errors.HasCode(err, errors.AlreadyExists) {
		t.Errorf("in one that there is not: %v", err)
	}

	// A worker that gives no output with the start is asked for it.
	worker.silent = true
	if _, err := execute(vm.ID, domain.NewID(), ""); err != nil || len(worker.begun) != 3 || worker.outputs != 2 {
		t.Errorf("without its output: %v, %d outputs", err, worker.outputs)
	}
	// One that the worker knows by another request is nobody's to read.
	worker.silent, worker.request = false, "one"
	closed := worker.closed
	if _, err := execute(vm.ID, domain.NewID(), "another"); !errors.HasCode(err, errors.IdempotencyMismatch) || worker.closed != closed+1 {
		t.Errorf("another request's: %v, closed %d", err, worker.closed-closed)
	}
}
