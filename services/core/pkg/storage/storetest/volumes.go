package storetest

import (
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

func (e *env) volume(project domain.ID, name string) *domain.Volume {
	e.Helper()
	v := &domain.Volume{
		ID: domain.NewID(), ProjectID: project, Name: name, WorkerID: "w", DiskBytes: 1 << 30, TokenSealed: []byte("token " + name), CreatedAt: e.tick(),
	}
	e.update(func(tx storage.Tx) error { return tx.Volumes().Insert(e.ctx(), v) })
	return v
}

func volumes(e *env) {
	p, q := e.project("p"), e.project("q")
	a := e.volume(p, "a")
	b, others := e.volume(p, "b"), e.volume(q, "a")
	get := func(project, id domain.ID) *domain.Volume {
		return read(e, func(tx storage.Tx) (*domain.Volume, error) { return tx.Volumes().Get(e.ctx(), project, id) })
	}
	same(e, "every field", get(p, a.ID), a)
	same(e, "for the system", get(storage.System, others.ID), others)
	same(e, "by name", read(e, func(tx storage.Tx) (*domain.Volume, error) { return tx.Volumes().ByName(e.ctx(), q, "a") }), others)
	e.refused(errors.NotFound, func(tx storage.Tx) error { _, err := tx.Volumes().Get(e.ctx(), q, a.ID); return err })
	e.refused(errors.NotFound, func(tx storage.Tx) error { _, err := tx.Volumes().ByName(e.ctx(), q, "b"); return err })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Volumes().Delete(e.ctx(), q, a.ID) })
	insert := func(change func(*domain.Volume)) func(tx storage.Tx) error {
		v := *a
		v.ID = domain.NewID()
		change(&v)
		return func(tx storage.Tx) error { return tx.Volumes().Insert(e.ctx(), &v) }
	}
	e.refused(errors.AlreadyExists, insert(func(*domain.Volume) {}))
	e.refused(errors.AlreadyExists, insert(func(v *domain.Volume) { v.ID, v.Name = a.ID, "c" }))
	e.refused(errors.NotFound, insert(func(v *domain.Volume) { v.ProjectID = domain.NewID() }))

	list := func(page storage.Page) storage.List[*domain.Volume] {
		return read(e, func(tx storage.Tx) (storage.List[*domain.Volume], error) { return tx.Volumes().List(e.ctx(), p, page) })
	}
	first := list(storage.Page{Limit: 1, Order: "asc"})
	same(e, "the first page", first.Items, []*domain.Volume{a})
	same(e, "the next", list(storage.Page{Limit: 1, Order: "asc", Cursor: first.Next}).Items, []*domain.Volume{b})
	same(e, "count", read(e, func(tx storage.Tx) (int, error) { return tx.Volumes().Count(e.ctx(), p) }), 2)
	var onWorker int
	for after := domain.ID(""); ; onWorker++ {
		next := read(e, func(tx storage.Tx) ([]*domain.Volume, error) { return tx.Volumes().OnWorker(e.ctx(), "w", after, 1) })
		if len(next) == 0 {
			break
		}
		after = next[0].ID
	}
	same(e, "on the worker", onWorker, 3)

	held := read(e, func(tx storage.Tx) (domain.Quota, error) { return tx.Quotas().Held(e.ctx(), p, "") })
	same(e, "what a project holds", held, domain.Quota{DiskBytes: 2 << 30})
	on, empty := &domain.Worker{ID: "w"}, &domain.Worker{ID: "empty", VMs: 1, Reserved: domain.Resources{DiskBytes: 1}}
	e.update(func(tx storage.Tx) error { _, err := tx.Workers().Count(e.ctx(), on, empty); return err })
	same(e, "what is promised of the worker", on.Reserved, domain.Resources{DiskBytes: 3 << 30})
	same(e, "what is promised of one with nothing", *empty, domain.Worker{ID: "empty"})
	e.update(func(tx storage.Tx) error { return tx.Volumes().Delete(e.ctx(), p, b.ID) })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Volumes().Delete(e.ctx(), p, b.ID) })
}

// A volume stays as long as a VM has it that has not ended.
func volumesInUse(e *env) {
	p := e.project("p")
	v := e.volume(p, "v")
	mounts := func(vm *domain.VM) {
		vm.Spec.Mounts = []domain.Mount{{Source: "v", VolumeID: v.ID, Target: "/mnt/a"}, {Source: "v", VolumeID: v.ID, Target: "/mnt/b"}}
	}
	one, two := e.vm(p, mounts), e.vm(p, mounts)
	remove := func(tx storage.Tx) error { return tx.Volumes().Delete(e.ctx(), p, v.ID) }
	e.refused(errors.Conflict, remove)
	end := func(vm *domain.VM) { vm.Observed, vm.Desired, vm.EndedAt = domain.Deleted, domain.WantDeleted, &e.now }
	e.save(one, end)
	e.refused(errors.Conflict, remove)
	e.update(func(tx storage.Tx) error { return tx.VMs().Delete(e.ctx(), p, one.ID) })
	e.refused(errors.Conflict, remove)
	e.save(two, end)
	e.update(remove)
	same(e, "the tombstone's mounts", e.getVM(p, two.ID).Spec.Mounts, two.Spec.Mounts)
	e.update(func(tx storage.Tx) error { return tx.VMs().Delete(e.ctx(), p, two.ID) })

	vm := e.newVM(p)
	mounts(vm)
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.VMs().Insert(e.ctx(), vm) })
}
