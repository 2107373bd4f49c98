package storetest

import (
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

func quotas(e *env) {
	p, q := e.project("p"), e.project("q")
	override := func(project domain.ID) domain.QuotaOverride {
		return read(e, func(tx storage.Tx) (domain.QuotaOverride, error) { return tx.Quotas().Override(e.ctx(), project) })
	}
	same(e, "without one", override(p), domain.QuotaOverride{})
	full := domain.QuotaOverride{
		VMs: ptr(int64(1)), MilliCPU: ptr(int64(2)), MemoryBytes: ptr(int64(3)), DiskBytes: ptr(int64(4)), CreatesPerMinute: ptr(int64(5)),
		Snapshots: ptr(int64(0)), Templates: ptr(domain.MaxQuota),
	}
	put := func(project domain.ID, o domain.QuotaOverride) func(storage.Tx) error {
		return func(tx storage.Tx) error { return tx.Quotas().PutOverride(e.ctx(), project, o) }
	}
	e.update(put(p, full))
	same(e, "every field", override(p), full)
	same(e, "another project's", override(q), domain.QuotaOverride{})
	e.update(put(p, domain.QuotaOverride{VMs: ptr(int64(7))}))
	same(e, "replaced whole", override(p), domain.QuotaOverride{VMs: ptr(int64(7))})
	e.update(put(p, domain.QuotaOverride{}))
	same(e, "removed", override(p), domain.QuotaOverride{})
	e.refused(errors.NotFound, put(domain.NewID(), full))
	e.refused(errors.NotFound, put(domain.NewID(), domain.QuotaOverride{}))

	held := func(project, except domain.ID) domain.Quota {
		return read(e, func(tx storage.Tx) (domain.Quota, error) { return tx.Quotas().Held(e.ctx(), project, except) })
	}
	same(e, "nothing held", held(p, ""), domain.Quota{})
	runs := e.vm(p, func(vm *domain.VM) { vm.Observed = domain.Running })
	e.vm(q, func(vm *domain.VM) { vm.Observed = domain.Running })
	e.vm(p, func(vm *domain.VM) { vm.Observed, vm.Desired = domain.Stopped, domain.WantStopped })
	e.vm(p, func(vm *domain.VM) { vm.Observed = domain.Failed })
	e.vm(p, func(vm *domain.VM) {
		vm.Observed, vm.Desired, vm.PauseMode = domain.Paused, domain.WantPaused, domain.PauseMemory
	})
	frozen := e.vm(p, func(vm *domain.VM) { vm.Observed, vm.Desired = domain.Paused, domain.WantPaused })
	e.vm(p, func(vm *domain.VM) { vm.Observed, vm.Desired, vm.EndedAt = domain.Deleted, domain.WantDeleted, &e.now })
	// Running and frozen ones hold all they have, the others their disk.
	same(e, "held", held(p, ""), domain.Quota{VMs: 5, MilliCPU: 2000, MemoryBytes: 2 << 30, DiskBytes: 20 << 30})
	same(e, "held without one", held(p, runs.ID), domain.Quota{VMs: 4, MilliCPU: 1000, MemoryBytes: 1 << 30, DiskBytes: 16 << 30})
	same(e, "held by another", held(q, ""), domain.Quota{VMs: 1, MilliCPU: 1000, MemoryBytes: 1 << 30, DiskBytes: 4 << 30})

	created := func(after time.Time) int64 {
		return read(e, func(tx storage.Tx) (int64, error) { return tx.Quotas().Created(e.ctx(), p, after) })
	}
	if all, some := created(runs.CreatedAt.Add(-time.Microsecond)), created(frozen.CreatedAt); all != 6 || some != 1 {
		e.Errorf("created: %d and %d, tombstones included", all, some)
	}
	nth := func(n int64, after time.Time) (time.Time, bool) {
		var at time.Time
		var found bool
		e.view(func(tx storage.Tx) (err error) {
			at, found, err = tx.Quotas().NthCreated(e.ctx(), p, n, after)
			return err
		})
		return at, found
	}
	if at, found := nth(2, runs.CreatedAt); !found || !at.Equal(frozen.CreatedAt) {
		e.Errorf("the second newest: %v, %v", at, found)
	}
	if _, found := nth(6, runs.CreatedAt); found {
		e.Error("the sixth newest was made before")
	}
	kept := func() (s, t int64) {
		e.view(func(tx storage.Tx) (err error) {
			s, t, err = tx.Quotas().Kept(e.ctx(), p)
			return err
		})
		return s, t
	}
	if s, t := kept(); s != 0 || t != 0 {
		e.Errorf("kept: %d and %d", s, t)
	}
	for _, ephemeral := range []bool{false, true} {
		snap := &domain.Snapshot{ID: domain.NewID(), ProjectID: p, VMID: runs.ID, Kind: domain.SnapshotDisk, Ephemeral: ephemeral, State: domain.BuildReady, CreatedAt: e.tick()}
		e.update(func(tx storage.Tx) error { return tx.Snapshots().Insert(e.ctx(), snap) })
	}
	tmpl := &domain.Template{ID: domain.NewID(), ProjectID: p, Name: "t", CreatedAt: e.tick(), UpdatedAt: e.now}
	e.update(func(tx storage.Tx) error { return tx.Templates().Insert(e.ctx(), tmpl) })
	if s, t := kept(); s != 1 || t != 1 {
		e.Errorf("kept: %d and %d", s, t)
	}
}
