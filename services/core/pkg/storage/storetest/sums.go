package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// Sums counts what workers and projects hold by all rows, and says what the sums
// that are kept of it say otherwise.
func Sums(ctx context.Context, s storage.Store) (wrong []string, err error) {
	err = s.View(ctx, func(tx storage.Tx) error {
		workers, projects, err := counted(ctx, tx)
		if err != nil {
			return err
		}
		for id, want := range workers {
			w := &domain.Worker{ID: id}
			if _, err := tx.Workers().Count(ctx, w); err != nil {
				return err
			}
			if got := (held{w.Reserved, w.VMs, w.Active, w.Tasks}); got != *want {
				wrong = append(wrong, fmt.Sprintf("worker %s: %+v is kept, and %+v there", id, got, *want))
			}
		}
		for id, want := range projects {
			got, err := tx.Quotas().Held(ctx, id, "")
			if err != nil {
				return err
			}
			if got != *want {
				wrong = append(wrong, fmt.Sprintf("project %s: %+v is kept, and %+v there", id, got, *want))
			}
		}
		return nil
	})
	return wrong, err
}

// held is what is summed of a worker.
type held struct {
	reserved           domain.Resources
	vms, active, tasks int
}

// counted counts what each worker and each project holds.
func counted(ctx context.Context, tx storage.Tx) (map[domain.ID]*held, map[domain.ID]*domain.Quota, error) {
	workers, projects := map[domain.ID]*held{}, map[domain.ID]*domain.Quota{}
	of := func(worker, project domain.ID) (*held, *domain.Quota) {
		if workers[worker] == nil && worker != "" {
			workers[worker] = new(held)
		}
		if projects[project] == nil {
			projects[project] = new(domain.Quota)
		}
		if worker == "" {
			return new(held), projects[project]
		}
		return workers[worker], projects[project]
	}
	all, err := tx.Workers().All(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range all {
		workers[w.ID] = new(held)
	}
	return workers, projects, errors.Join(
		each(func(p storage.Page) (storage.List[*domain.Project], error) { return tx.Projects().List(ctx, p) },
			func(p *domain.Project) { of("", p.ID) }),
		each(func(p storage.Page) (storage.List[*domain.VM], error) {
			return tx.VMs().List(ctx, storage.VMFilter{IncludeDeleted: true, Page: p})
		}, func(vm *domain.VM) {
			w, p := of(vm.WorkerID, vm.ProjectID)
			if vm.Observed == domain.Deleted {
				return
			}
			r := vm.Spec.Resources
			p.VMs, p.DiskBytes = p.VMs+1, p.DiskBytes+r.DiskBytes
			if !(vm.InStorage() && (vm.Desired == domain.WantStopped || vm.KeepsMemory())) { // else no worker has it, or is to
				w.vms, w.reserved.DiskBytes = w.vms+1, w.reserved.DiskBytes+r.DiskBytes
			}
			if !active(vm) {
				return
			}
			w.active++
			w.reserved.PIDs += r.PIDs
			w.reserved.MilliCPU, p.MilliCPU = w.reserved.MilliCPU+r.MilliCPU, p.MilliCPU+r.MilliCPU
			w.reserved.MemoryBytes, p.MemoryBytes = w.reserved.MemoryBytes+r.MemoryBytes, p.MemoryBytes+r.MemoryBytes
		}),
		each(func(p storage.Page) (storage.List[*domain.Volume], error) {
			return tx.Volumes().List(ctx, storage.System, p)
		},
			func(v *domain.Volume) {
				w, p := of(v.WorkerID, v.ProjectID)
				w.reserved.DiskBytes, p.DiskBytes = w.reserved.DiskBytes+v.DiskBytes, p.DiskBytes+v.DiskBytes
			}),
		each(func(p storage.Page) (storage.List[*domain.Task], error) {
			return tx.Tasks().List(ctx, storage.TaskFilter{Page: p})
		}, func(t *domain.Task) {
			if w, _ := of(t.WorkerID, t.ProjectID); t.EndedAt == nil {
				w.tasks++
			}
		}),
	)
}

// active reports whether a VM that is not deleted holds more than its disk.
func active(vm *domain.VM) bool {
	switch vm.Observed {
	case domain.Failed:
		return false
	case domain.Stopped:
		return vm.Desired == domain.WantRunning || vm.Desired == domain.WantPaused
	case domain.Paused:
		return vm.PauseMode == domain.PauseFreeze || vm.Desired == domain.WantRunning || vm.Desired == domain.WantStopped
	}
	return true
}

// each calls f for every item of all pages.
func each[T any](list func(storage.Page) (storage.List[T], error), f func(T)) error {
	p := storage.Page{Limit: storage.MaxPage}
	for {
		l, err := list(p)
		if err != nil {
			return err
		}
		for _, item := range l.Items {
			f(item)
		}
		if p.Cursor = l.Next; p.Cursor == "" {
			return nil
		}
	}
}

// sums has histories of all that is summed, in transactions of which some fail,
// and counts again and again.
func sums(e *env) {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // repeatable
	c := &chronicle{env: e, Rand: r}
	for i := range 4 {
		w := &domain.Worker{ID: domain.NewID(), Name: fmt.Sprintf("w%d", i), State: domain.WorkerReady, SeenAt: e.now, JoinedAt: e.now}
		e.update(func(tx storage.Tx) error { return tx.Workers().Insert(e.ctx(), w) })
		c.workers = append(c.workers, w.ID)
		c.projects = append(c.projects, e.project(fmt.Sprintf("p%d", i)))
	}
	c.workers = append(c.workers, domain.NewID(), "") // one that never joined, and none
	did := map[string]int{}
	for i := range 1000 {
		kept := c.IntN(4) > 0
		err := e.store.Update(e.ctx(), func(tx storage.Tx) error {
			after := *c
			after.vms, after.volumes, after.tasks = copies(c.vms), copies(c.volumes), copies(c.tasks)
			for range 1 + c.IntN(4) {
				what, err := after.do(tx)
				if err != nil {
					return fmt.Errorf("%s: %w", what, err)
				}
				did[what]++
			}
			if !kept {
				return errTakenBack
			}
			*c = after
			return nil
		})
		if err != nil && !errors.Is(err, errTakenBack) {
			e.Fatal(err)
		}
		if i%20 == 19 {
			e.summed()
		}
	}
	for _, what := range []string{"make", "change", "remove", "make volume", "remove volume", "make task", "end task", "sweep tasks"} {
		if did[what] == 0 {
			e.Errorf("%q never came to pass: %v", what, did)
		}
	}
	// Of a VM that is counted already the rest is told.
	for _, vm := range c.vms {
		got := read(e, func(tx storage.Tx) (domain.Quota, error) { return tx.Quotas().Held(e.ctx(), vm.ProjectID, vm.ID) })
		all := read(e, func(tx storage.Tx) (domain.Quota, error) { return tx.Quotas().Held(e.ctx(), vm.ProjectID, "") })
		if vm.Observed != domain.Deleted {
			all.VMs, all.DiskBytes = all.VMs-1, all.DiskBytes-vm.Spec.Resources.DiskBytes
			if active(vm) {
				all.MilliCPU, all.MemoryBytes = all.MilliCPU-vm.Spec.Resources.MilliCPU, all.MemoryBytes-vm.Spec.Resources.MemoryBytes
			}
		}
		same(e, "held without "+vm.ID.String(), got, all)
	}
	// What goes with a project is counted no more.
	for _, vm := range c.vms {
		if vm.ProjectID == c.projects[0] && vm.Observed != domain.Deleted {
			e.save(vm, func(vm *domain.VM) {
				vm.Desired, vm.Observed, vm.EndedAt = domain.WantDeleted, domain.Deleted, ptr(e.now)
			})
		}
	}
	e.update(func(tx storage.Tx) error { return tx.Projects().Delete(e.ctx(), c.projects[0]) })
	e.summed()
}

// summed fails the test unless all sums are as counted.
func (e *env) summed() {
	e.Helper()
	wrong, err := Sums(e.ctx(), e.store)
	if err != nil {
		e.Fatal(err)
	}
	for _, w := range wrong {
		e.Error(w)
	}
	if len(wrong) > 0 {
		e.FailNow()
	}
}

var errTakenBack = errors.Plain("taken back")

// chronicle is what there is that is summed.
type chronicle struct {
	*env
	*rand.Rand
	projects, workers []domain.ID
	vms               []*domain.VM
	volumes           []*domain.Volume
	tasks             []*domain.Task // that have not ended
}

// copies are values of their own.
func copies[T any](of []*T) []*T {
	out := make([]*T, len(of))
	for i, v := range of {
		out[i] = new(*v)
	}
	return out
}

func one[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

// do does one thing, if it can be done now, and says what it was.
func (c *chronicle) do(tx storage.Tx) (what string, err error) {
	switch n := c.IntN(20); {
	case n < 6 || len(c.vms) == 0:
		vm := c.newVM(one(c.Rand, c.projects))
		vm.WorkerID = one(c.Rand, c.workers)
		vm.Spec.Resources = domain.Resources{MilliCPU: c.Int64N(1 << 20), MemoryBytes: c.Int64N(1 << 40), DiskBytes: c.Int64N(1 << 45), PIDs: c.Int64N(1 << 20)}
		c.befall(vm)
		c.vms = append(c.vms, vm)
		return "make", tx.VMs().Insert(c.ctx(), vm)
	case n < 13:
		vm := one(c.Rand, c.vms)
		if c.IntN(8) == 0 {
			vm.WorkerID = one(c.Rand, c.workers)
		}
		c.befall(vm)
		return "change", tx.VMs().Update(c.ctx(), vm)
	case n < 15:
		i := c.IntN(len(c.vms))
		vm := c.vms[i]
		if vm.Observed != domain.Deleted {
			return "nothing", nil
		}
		c.vms = append(c.vms[:i:i], c.vms[i+1:]...)
		return "remove", tx.VMs().Delete(c.ctx(), vm.ProjectID, vm.ID)
	case n < 16:
		v := &domain.Volume{ID: domain.NewID(), ProjectID: one(c.Rand, c.projects), WorkerID: one(c.Rand, c.workers), DiskBytes: c.Int64N(1 << 45), TokenSealed: []byte{1}, CreatedAt: c.tick()}
		v.Name = v.ID.String()
		c.volumes = append(c.volumes, v)
		return "make volume", tx.Volumes().Insert(c.ctx(), v)
	case n < 17 && len(c.volumes) > 0:
		i := c.IntN(len(c.volumes))
		v := c.volumes[i]
		c.volumes = append(c.volumes[:i:i], c.volumes[i+1:]...)
		return "remove volume", tx.Volumes().Delete(c.ctx(), v.ProjectID, v.ID)
	case n < 18:
		t := &domain.Task{
			ID: domain.NewID(), ProjectID: one(c.Rand, c.projects), WorkerID: one(c.Rand, c.workers), Kind: "k", Subject: domain.NewID(),
			State: domain.TaskPending, MaxAttempts: 1, CreatedAt: c.tick(), UpdatedAt: c.now, RunAt: c.now,
		}
		c.tasks = append(c.tasks, t)
		return "make task", tx.Tasks().Insert(c.ctx(), t)
	case n < 19 && len(c.tasks) > 0:
		i := c.IntN(len(c.tasks))
		t := c.tasks[i]
		c.tasks = append(c.tasks[:i:i], c.tasks[i+1:]...)
		t.State, t.EndedAt = domain.TaskSucceeded, ptr(c.tick())
		return "end task", tx.Tasks().Update(c.ctx(), t)
	}
	due, err := tx.Tasks().Ended(c.ctx(), c.now, 2)
	if err == nil {
		_, err = tx.Tasks().Delete(c.ctx(), due...)
	}
	return "sweep tasks", err
}

// befall brings a VM into any state, at once or by one thing that changes.
func (c *chronicle) befall(vm *domain.VM) {
	which := c.IntN(6)
	if which == 0 || which > 2 {
		vm.Desired = one(c.Rand, []domain.DesiredState{domain.WantRunning, domain.WantStopped, domain.WantPaused, domain.WantDeleted})
	}
	if which == 1 || which > 2 {
		vm.Observed = one(c.Rand, []domain.ObservedState{
			domain.Pending, domain.Starting, domain.Running, domain.Stopping, domain.Stopped, domain.Stopped, domain.Paused, domain.Paused,
			domain.Failed, domain.Deleting, domain.Deleted,
		})
	}
	if which == 0 || which > 3 {
		vm.StoredID, vm.MachineID = one(c.Rand, []domain.ID{"", "s", "t"}), one(c.Rand, []domain.ID{"", "", "m"})
	}
	if which >= 2 {
		vm.PauseMode = one(c.Rand, []domain.PauseMode{"", domain.PauseFreeze, domain.PauseMemory, domain.PauseDisk})
	}
	vm.EndedAt = nil
	if vm.Observed == domain.Deleted {
		vm.EndedAt = ptr(c.tick())
	}
}
