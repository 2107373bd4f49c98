package storetest

import (
	"fmt"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// failedWrites has writes fail of which nobody looks at the outcome, or takes it for
// something else: nothing of their transactions is done, and each fails with its own.
func failedWrites(e *env) {
	p := e.project("p")
	taken := e.vm(p, func(vm *domain.VM) { vm.Name = "taken" })
	stale := *taken
	e.save(taken, func(vm *domain.VM) { vm.Reason = "later" })
	twice := e.vm(p, nil)
	used := e.machine(domain.NewID(), func(m *domain.Machine) { m.VMID = twice.ID })
	task := func(kind string) *domain.Task {
		return &domain.Task{ID: domain.NewID(), ProjectID: p, Kind: kind, State: domain.TaskPending, CreatedAt: e.now, UpdatedAt: e.now, RunAt: e.now}
	}
	failing := map[string]struct {
		code  errors.Code
		write func(tx storage.Tx) error
	}{
		"a name that is taken": {errors.AlreadyExists, func(tx storage.Tx) error {
			vm := e.newVM(p)
			vm.Name = "taken"
			return tx.VMs().Insert(e.ctx(), vm)
		}},
		"a project that is not there": {errors.NotFound, func(tx storage.Tx) error { return tx.VMs().Insert(e.ctx(), e.newVM(domain.NewID())) }},
		"a row that changed meanwhile": {errors.Conflict, func(tx storage.Tx) error {
			vm := stale
			return tx.VMs().Update(e.ctx(), &vm)
		}},
		"a machine that is not there": {errors.NotFound, func(tx storage.Tx) error { return tx.Machines().Began(e.ctx(), domain.NewID(), nil, 1) }},
		"a second machine": {errors.AlreadyExists, func(tx storage.Tx) error {
			m := *used
			m.ID = domain.NewID()
			return tx.Machines().Insert(e.ctx(), &m)
		}},
		"a task that is there": {errors.AlreadyExists, func(tx storage.Tx) error {
			t := task("k")
			if err := tx.Tasks().Insert(e.ctx(), t); err != nil {
				return err
			}
			return tx.Tasks().Insert(e.ctx(), t)
		}},
	}
	mark := func(tx storage.Tx, key string) error {
		return errors.Join(tx.Settings().Set(e.ctx(), key, "done"),
			tx.Outbox().Append(e.ctx(), &domain.Event{ProjectID: p, Type: key, At: e.now}),
			tx.Tasks().Insert(e.ctx(), task(key)))
	}
	told := func(tx storage.Tx, key string) (n int, err error) {
		es, err := tx.Outbox().List(e.ctx(), storage.EventFilter{Limit: storage.MaxPage})
		for _, x := range es {
			if x.Type == key {
				n++
			}
		}
		return n, err
	}
	nothing := func(what, key string) {
		e.view(func(tx storage.Tx) error {
			if _, err := tx.Settings().Get(e.ctx(), key); !errors.HasCode(err, errors.NotFound) {
				e.Errorf("%s: a setting is there: %v", what, err)
			}
			tasks, err := tx.Tasks().List(e.ctx(), storage.TaskFilter{ProjectID: p, Kind: key})
			if len(tasks.Items) > 0 {
				e.Errorf("%s: a task is there", what)
			}
			n, lerr := told(tx, key)
			if n > 0 {
				e.Errorf("%s: an event is there", what)
			}
			return errors.Join(err, lerr)
		})
	}
	refused := func(what string, code errors.Code, f func(tx storage.Tx) error) {
		if err := e.store.Update(e.ctx(), f); !errors.HasCode(err, code) {
			e.Errorf("%s: %v, want %s", what, err, code)
		}
	}
	for what, c := range failing {
		// As all there is, before the commit, before more that is written, before a
		// question, and as an answer that does not matter to who asked.
		refused(what, c.code, c.write)
		refused(what, c.code, func(tx storage.Tx) error {
			if err := c.write(tx); err != nil {
				return err
			}
			return mark(tx, "first")
		})
		nothing(what, "first")
		then := func(key string, f func(tx storage.Tx) error) {
			refused(what, c.code, func(tx storage.Tx) error {
				if err := errors.Join(mark(tx, key), c.write(tx)); err != nil {
					return err
				}
				return f(tx)
			})
			nothing(what, key)
		}
		then("last", func(storage.Tx) error { return nil })
		then("asked", func(tx storage.Tx) error { _, err := tx.VMs().Get(e.ctx(), p, taken.ID); return err })
		then("mistaken", func(tx storage.Tx) error {
			_, _ = tx.VMs().Get(e.ctx(), p, taken.ID)
			return errors.New(errors.QuotaExceeded, "what it makes of that")
		})
		then("content", func(tx storage.Tx) error { _, _ = tx.Settings().Get(e.ctx(), "content"); return nil })
		if err := e.store.Aside(e.ctx(), func(tx storage.Tx) error { return c.write(tx) }); !errors.HasCode(err, c.code) {
			e.Errorf("%s, aside: %v, want %s", what, err, c.code)
		}
	}
	// There are more than go along with one statement.
	many := domain.NewID()
	e.update(func(tx storage.Tx) error {
		for range 150 {
			t := task("many")
			t.GroupID = many
			if err := tx.Tasks().Insert(e.ctx(), t); err != nil {
				return err
			}
		}
		return nil
	})
	if l := read(e, func(tx storage.Tx) (storage.List[*domain.Task], error) {
		return tx.Tasks().List(e.ctx(), storage.TaskFilter{ProjectID: p, GroupID: many, Page: storage.Page{Limit: 500}})
	}); len(l.Items) != 150 {
		e.Errorf("%d of 150 tasks", len(l.Items))
	}
	// Others share the turn: what fails is nobody else's.
	var all sync.WaitGroup
	for i := range 24 {
		key := fmt.Sprint("shared", i)
		all.Go(func() {
			if i%2 == 0 {
				if err := e.store.Update(e.ctx(), func(tx storage.Tx) error { return mark(tx, key) }); err != nil {
					e.Errorf("%s: %v", key, err)
				}
				return
			}
			refused(key, errors.NotFound, func(tx storage.Tx) error {
				if err := mark(tx, key); err != nil {
					return err
				}
				return tx.Machines().Began(e.ctx(), domain.NewID(), nil, 1)
			})
		})
	}
	all.Wait()
	for i := range 24 {
		key := fmt.Sprint("shared", i)
		if i%2 == 1 {
			nothing(key, key)
			continue
		}
		e.view(func(tx storage.Tx) error {
			_, err := tx.Settings().Get(e.ctx(), key)
			n, lerr := told(tx, key)
			if n != 1 {
				e.Errorf("%s: %d events", key, n)
			}
			return errors.Join(err, lerr)
		})
	}
	// What is written is what there was when it was asked for.
	e.update(func(tx storage.Tx) error {
		vm, err := tx.VMs().Get(e.ctx(), p, twice.ID)
		if err != nil {
			return err
		}
		vm.Spec.Tools, vm.Moves = []string{"a@1"}, nil
		vm.Tombstone = &domain.Tombstone{Detail: "then"}
		if err := tx.VMs().Update(e.ctx(), vm); err != nil {
			return err
		}
		vm.Spec.Tools[0], vm.Tombstone.Detail = "b@2", "now"
		return nil
	})
	if vm := e.getVM(p, twice.ID); vm.Spec.Tools[0] != "a@1" || vm.Tombstone.Detail != "then" {
		e.Errorf("written were %v, %+v", vm.Spec.Tools, vm.Tombstone)
	}
	// A view writes nothing, also where nobody asks for the outcome.
	if err := e.store.View(e.ctx(), func(tx storage.Tx) error { return tx.Machines().Delete(e.ctx(), used.ID) }); err == nil {
		e.Error("a view could write")
	}
	e.view(func(tx storage.Tx) error { _, err := tx.Machines().Get(e.ctx(), used.ID); return err })
}
