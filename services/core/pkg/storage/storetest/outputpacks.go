package storetest

import (
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// ended has an execution end.
func ended(e *env) func(*domain.Execution) {
	return func(x *domain.Execution) {
		x.State, x.ExitCode, x.EndedAt = domain.ExecutionExited, ptr(0), ptr(e.tick())
	}
}

func (e *env) newPack(project domain.ID) *domain.OutputPack {
	id := domain.NewID()
	return &domain.OutputPack{
		ID: id, ProjectID: project, KeySealed: []byte("key of " + id), CreatedAt: e.tick(),
		Packed: domain.Packed{Store: "file:///output", Digest: "sha256:" + string(id), Bytes: 7},
	}
}

func (e *env) insertPack(p *domain.OutputPack, of ...*domain.Execution) (n int) {
	e.Helper()
	e.update(func(tx storage.Tx) (err error) {
		n, err = tx.OutputPacks().Insert(e.ctx(), p, of...)
		return err
	})
	return n
}

// packed has the output of executions be in the storage.
func (e *env) packed(of ...*domain.Execution) *domain.OutputPack {
	e.Helper()
	p := e.newPack(of[0].ProjectID)
	if n := e.insertPack(p, of...); n != len(of) {
		e.Fatalf("a pack has the output of %d executions, not %d", n, len(of))
	}
	return p
}

func (e *env) unusedPacks(ids ...domain.ID) []domain.ID {
	e.Helper()
	return packIDs(read(e, func(tx storage.Tx) ([]*domain.OutputPack, error) { return tx.OutputPacks().Unused(e.ctx(), ids...) }))
}

func packIDs(ps []*domain.OutputPack) []domain.ID {
	return ids(ps, func(p *domain.OutputPack) domain.ID { return p.ID })
}

func outputPacks(e *env) {
	p, q := e.project("p"), e.project("q")
	vm, foreign := e.vm(p, nil), e.vm(q, nil)
	one, two, open := e.execution(vm, ended(e)), e.execution(vm, ended(e)), e.execution(vm, nil)
	twin := e.execution(foreign, func(x *domain.Execution) { ended(e)(x); x.ID = one.ID })

	// Of what has ended, in the VM and epoch that are told, and of nothing else.
	stale := *two
	stale.Epoch++
	strange := *two
	strange.VMID = foreign.ID
	first := e.newPack(p)
	if n := e.insertPack(first, one, open, &stale, &strange); n != 1 {
		e.Errorf("the output of %d executions is in it", n)
	}
	same(e, "the pack", read(e, func(tx storage.Tx) (*domain.OutputPack, error) { return tx.OutputPacks().Get(e.ctx(), p, first.ID) }), first)
	want := *one
	want.PackID = first.ID
	same(e, "what is in it", e.getExecution(p, one.ID), &want)
	same(e, "what has not ended", e.getExecution(p, open.ID), open)
	same(e, "what is of another epoch, or VM", e.getExecution(p, two.ID), two)
	same(e, "another project's", e.getExecution(q, twin.ID), twin)
	same(e, "found in its VM", read(e, func(tx storage.Tx) (*domain.Execution, error) {
		return tx.Executions().InVM(e.ctx(), vm.ID, one.ID)
	}), &want)
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		_, err := tx.Executions().InVM(e.ctx(), foreign.ID, two.ID)
		return err
	})
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		_, err := tx.OutputPacks().Get(e.ctx(), q, first.ID)
		return err
	})
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error {
		again := *first
		_, err := tx.OutputPacks().Insert(e.ctx(), &again, two)
		return err
	})

	// What is stored twice is where it was stored first; a pack of nothing is none.
	second := e.newPack(p)
	if n := e.insertPack(second, one, open); n != 0 {
		e.Errorf("the output of %d executions is in it", n)
	}
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		_, err := tx.OutputPacks().Get(e.ctx(), p, second.ID)
		return err
	})
	// Rows that are written late change nothing of it.
	e.upsert(one)
	same(e, "written again", e.getExecution(p, one.ID), &want)

	both := e.packed(two, e.execution(vm, ended(e)))
	others := e.packed(twin)
	all := []domain.ID{first.ID, both.ID, others.ID}
	list := read(e, func(tx storage.Tx) (storage.List[*domain.OutputPack], error) {
		return tx.OutputPacks().List(e.ctx(), storage.Page{Order: "asc"})
	})
	same(e, "all", packIDs(list.Items), all)
	same(e, "none is unused", e.unusedPacks(all...), []domain.ID{})
	same(e, "none is asked for", e.unusedPacks(), []domain.ID{})
	drop := func(ids ...domain.ID) (gone []*domain.OutputPack) {
		e.Helper()
		e.update(func(tx storage.Tx) (err error) {
			gone, err = tx.OutputPacks().DeleteUnused(e.ctx(), ids...)
			return err
		})
		return gone
	}
	// The twin's ID is that of another project's: it is deleted, and no more.
	e.update(func(tx storage.Tx) error {
		_, err := tx.Executions().Delete(e.ctx(), p, one.ID, two.ID)
		return err
	})
	same(e, "one is unused", e.unusedPacks(all...), []domain.ID{first.ID})
	same(e, "it is not asked for", e.unusedPacks(both.ID, others.ID), []domain.ID{})
	same(e, "none goes", packIDs(append(drop(both.ID), drop()...)), []domain.ID{})
	if gone := drop(all...); len(gone) != 1 {
		e.Errorf("%d packs go", len(gone))
	} else {
		same(e, "an unused one goes", gone[0], first)
	}
	same(e, "once", packIDs(drop(first.ID)), []domain.ID{})
	gone := func(vm *domain.VM) {
		vm.Desired, vm.Observed, vm.EndedAt = domain.WantDeleted, domain.Deleted, ptr(e.now)
	}
	e.save(vm, gone)
	e.update(func(tx storage.Tx) error { return tx.VMs().Delete(e.ctx(), p, vm.ID) })
	same(e, "a VM's", e.unusedPacks(all...), []domain.ID{both.ID})

	e.save(foreign, gone)
	e.update(func(tx storage.Tx) error { return tx.Projects().Delete(e.ctx(), q) })
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		_, err := tx.OutputPacks().Get(e.ctx(), storage.System, others.ID)
		return err
	})
}
