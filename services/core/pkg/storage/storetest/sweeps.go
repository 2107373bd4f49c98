package storetest

import (
	"runtime"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

var (
	allDesired  = []domain.DesiredState{domain.WantRunning, domain.WantPaused, domain.WantStopped, domain.WantDeleted}
	allObserved = []domain.ObservedState{
		domain.Pending, domain.Creating, domain.Starting, domain.Running, domain.Pausing, domain.Paused, domain.Resuming,
		domain.Stopping, domain.Stopped, domain.Deleting, domain.Deleted, domain.Failed, domain.Unreachable,
	}
)

// Every pair of desired and observed state: the sweep finds what the life
// cycle says has somewhere to go.
func vmUnconverged(e *env) {
	p, w, other := e.project("p"), domain.NewID(), domain.NewID()
	var want []domain.ID
	for _, d := range allDesired {
		for _, o := range allObserved {
			vm := e.vm(p, func(vm *domain.VM) {
				vm.WorkerID, vm.Desired, vm.Observed = w, d, o
				if o == domain.Deleted {
					vm.EndedAt = ptr(e.now)
				}
			})
			if !lifecycle.Converged(d, o) || o == domain.Failed && d == domain.WantDeleted {
				want = append(want, vm.ID)
			}
		}
	}
	e.vm(p, func(vm *domain.VM) { vm.WorkerID = other })
	sweep := func(limit int) []domain.ID {
		return vmIDs(read(e, func(tx storage.Tx) ([]*domain.VM, error) { return tx.VMs().Unconverged(e.ctx(), w, limit) }))
	}
	same(e, "unconverged, longest unchanged first", sweep(1000), want)
	same(e, "limited", sweep(3), want[:3])
}

func vmDeadlines(e *env) {
	p, w := e.project("p"), domain.NewID()
	now := e.now.Add(time.Hour)
	due := func(limit int) []domain.ID {
		return vmIDs(read(e, func(tx storage.Tx) ([]*domain.VM, error) { return tx.VMs().DeadlineDue(e.ctx(), w, now, limit) }))
	}
	set := func(at time.Duration, on domain.OnTimeout, d domain.DesiredState, o domain.ObservedState) *domain.VM {
		return e.vm(p, func(vm *domain.VM) {
			vm.WorkerID, vm.OnTimeout, vm.Desired, vm.Observed, vm.Deadline = w, on, d, o, ptr(now.Add(at))
			if o == domain.Deleted {
				vm.EndedAt = ptr(e.now)
			}
		})
	}
	late := set(-time.Second, domain.TimeoutKill, domain.WantRunning, domain.Running)
	later := set(-time.Minute, domain.TimeoutPause, domain.WantRunning, domain.Starting)
	exact := set(0, domain.TimeoutStop, domain.WantPaused, domain.Paused)
	ahead := set(time.Microsecond, domain.TimeoutKill, domain.WantRunning, domain.Running)
	set(-time.Second, domain.TimeoutPause, domain.WantPaused, domain.Pausing) // has had its effect
	set(-time.Second, domain.TimeoutStop, domain.WantStopped, domain.Stopped) // likewise
	set(-time.Second, domain.TimeoutKill, domain.WantDeleted, domain.Deleting)
	set(-time.Second, domain.TimeoutKill, domain.WantDeleted, domain.Deleted)
	e.vm(p, func(vm *domain.VM) { vm.WorkerID = w }) // no deadline
	same(e, "due, earliest first", due(10), []domain.ID{later.ID, late.ID, exact.ID})
	same(e, "limited", due(1), []domain.ID{later.ID})

	idle := e.vm(p, func(vm *domain.VM) { vm.WorkerID, vm.IdleTimeout = w, time.Minute })
	timed := vmIDs(read(e, func(tx storage.Tx) ([]*domain.VM, error) { return tx.VMs().Timed(e.ctx(), w, "", 100) }))
	for what, vm := range map[string]*domain.VM{"a deadline ahead": ahead, "idle only": idle, "past": late} {
		if !slices.Contains(timed, vm.ID) {
			e.Errorf("Timed misses %s", what)
		}
	}
	if len(timed) != 7 || !slices.IsSorted(timed) {
		e.Errorf("Timed: %d VMs, sorted %v", len(timed), slices.IsSorted(timed))
	}
	rest := vmIDs(read(e, func(tx storage.Tx) ([]*domain.VM, error) { return tx.VMs().Timed(e.ctx(), w, timed[2], 100) }))
	same(e, "from after an ID on", rest, timed[3:])

	unacked := func() []domain.ID {
		return vmIDs(read(e, func(tx storage.Tx) ([]*domain.VM, error) { return tx.VMs().Unacked(e.ctx(), w, 10) }))
	}
	same(e, "nothing unacknowledged", unacked(), []domain.ID{})
	e.save(late, func(vm *domain.VM) { vm.DeadlineGen = 3 })
	same(e, "one unacknowledged", unacked(), []domain.ID{late.ID})
	e.save(late, func(vm *domain.VM) { vm.DeadlineAck = 3 })
	same(e, "acknowledged", unacked(), []domain.ID{})
	e.save(late, func(vm *domain.VM) { vm.EgressGen = 2 })
	same(e, "an egress policy unacknowledged", unacked(), []domain.ID{late.ID})
	e.save(late, func(vm *domain.VM) { vm.EgressAck = 2 })
	same(e, "the egress policy acknowledged", unacked(), []domain.ID{})
}

func vmOnWorker(e *env) {
	p, w := e.project("p"), domain.NewID()
	var want []domain.ID
	for range 7 {
		want = append(want, e.vm(p, func(vm *domain.VM) { vm.WorkerID = w }).ID)
	}
	e.vm(p, nil)
	e.vm(p, func(vm *domain.VM) {
		vm.WorkerID, vm.Desired, vm.Observed, vm.EndedAt = w, domain.WantDeleted, domain.Deleted, ptr(e.now)
	})
	slices.Sort(want)
	var got []domain.ID
	for after := domain.ID(""); ; after = got[len(got)-1] {
		part := vmIDs(read(e, func(tx storage.Tx) ([]*domain.VM, error) { return tx.VMs().OnWorker(e.ctx(), w, after, 3) }))
		got = append(got, part...)
		if len(part) < 3 {
			break
		}
	}
	same(e, "walked", got, want)
}

// hire inserts a worker.
func (e *env) hire(name string) domain.ID {
	e.Helper()
	id := domain.NewID()
	e.update(func(tx storage.Tx) error {
		return tx.Workers().Insert(e.ctx(), &domain.Worker{ID: id, Name: name, SeenAt: e.now, JoinedAt: e.now})
	})
	return id
}

func vmTombstones(e *env) {
	p := e.project("p")
	mine, its := e.hire("mine"), e.hire("another")
	bury := func(ended time.Time) *domain.VM {
		vm := e.vm(p, func(vm *domain.VM) {
			vm.WorkerID = mine
			vm.Metadata, vm.Desired, vm.Observed, vm.EndedAt = map[string]string{"k": "v"}, domain.WantDeleted, domain.Deleted, &ended
		})
		return vm
	}
	limit := e.now.Add(time.Hour)
	young, old, oldest := bury(limit), bury(limit.Add(-time.Second)), bury(limit.Add(-time.Minute))
	live := e.vm(p, func(vm *domain.VM) { vm.Desired, vm.Observed = domain.WantDeleted, domain.Deleting })
	of := func(worker domain.ID) []domain.ID {
		return vmIDs(read(e, func(tx storage.Tx) ([]*domain.VM, error) { return tx.VMs().Tombstones(e.ctx(), worker, limit, 10) }))
	}
	same(e, "older than", of(mine), []domain.ID{oldest.ID, old.ID})
	same(e, "of another worker", of(its), []domain.ID{})
	x := e.execution(old, nil)
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.VMs().Delete(e.ctx(), p, live.ID) })
	e.update(func(tx storage.Tx) error { return tx.VMs().Delete(e.ctx(), p, old.ID) })
	e.update(func(tx storage.Tx) error { return tx.VMs().Delete(e.ctx(), storage.System, oldest.ID) })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.VMs().Delete(e.ctx(), p, old.ID) })
	if c := code(e, func(tx storage.Tx) (*domain.Execution, error) { return tx.Executions().Get(e.ctx(), p, x.ID) }); c != errors.NotFound {
		e.Errorf("an execution outlived its VM's row: %s", c)
	}
	orphan := bury(limit.Add(-time.Hour))
	e.update(func(tx storage.Tx) error { return tx.Workers().Delete(e.ctx(), mine) })
	same(e, "of a worker that is no more", of(its), []domain.ID{orphan.ID})
	e.update(func(tx storage.Tx) error { return tx.VMs().Delete(e.ctx(), p, orphan.ID) })
	same(e, "the young one stays", e.listVMs(storage.VMFilter{ProjectID: p, States: []domain.ObservedState{domain.Deleted}}), []domain.ID{young.ID})
}

func (e *env) machine(worker domain.ID, change func(*domain.Machine)) *domain.Machine {
	e.Helper()
	m := &domain.Machine{
		ID: domain.NewID(), WorkerID: worker, Driver: "oci", Handle: []byte(`{"v":1}`), BuildID: "buildbuildbuildbuild", CreatedAt: e.tick(),
		Shape: domain.Shape{Resources: domain.Resources{MilliCPU: 1, MemoryBytes: 2, DiskBytes: 3, PIDs: 4}, Network: domain.NetworkNAT},
	}
	if change != nil {
		change(m)
	}
	e.update(func(tx storage.Tx) error { return tx.Machines().Insert(e.ctx(), m) })
	return m
}

func machines(e *env) {
	w := domain.NewID()
	vm := domain.NewID()
	m := e.machine(w, func(m *domain.Machine) { m.VMID, m.Epoch = vm, 3 })
	get := func(id domain.ID) *domain.Machine {
		return read(e, func(tx storage.Tx) (*domain.Machine, error) { return tx.Machines().Get(e.ctx(), id) })
	}
	same(e, "stored", get(m.ID), m)
	same(e, "by VM", read(e, func(tx storage.Tx) (*domain.Machine, error) { return tx.Machines().ByVM(e.ctx(), vm) }), m)
	m.Handle, m.Epoch = []byte("two"), 4
	e.update(func(tx storage.Tx) error { return tx.Machines().Update(e.ctx(), m) })
	same(e, "updated", get(m.ID), m)
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error { return tx.Machines().Insert(e.ctx(), m) })
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error {
		second := *m
		second.ID = domain.NewID()
		return tx.Machines().Insert(e.ctx(), &second) // one machine for a VM
	})
	free := e.machine(w, nil)
	all := read(e, func(tx storage.Tx) ([]*domain.Machine, error) { return tx.Machines().OnWorker(e.ctx(), w) })
	same(e, "on the worker", all, []*domain.Machine{m, free})
	for range 2 { // absent is success
		e.update(func(tx storage.Tx) error { return tx.Machines().Delete(e.ctx(), m.ID) })
	}
	if c := code(e, func(tx storage.Tx) (*domain.Machine, error) { return tx.Machines().ByVM(e.ctx(), vm) }); c != errors.NotFound {
		e.Errorf("a deleted machine: %s", c)
	}
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Machines().Update(e.ctx(), m) })
}

func claims(e *env) {
	w := domain.NewID()
	first, second := e.machine(w, nil), e.machine(w, nil)
	for _, other := range []func(*domain.Machine){
		func(m *domain.Machine) { m.Driver = "qemu" },
		func(m *domain.Machine) { m.BuildID = "another" },
		func(m *domain.Machine) { m.Shape.Resources.MilliCPU++ },
		func(m *domain.Machine) { m.Shape.Resources.MemoryBytes++ },
		func(m *domain.Machine) { m.Shape.Resources.DiskBytes++ },
		func(m *domain.Machine) { m.Shape.Network = domain.NetworkNone },
		func(m *domain.Machine) { m.Memory = true },
		func(m *domain.Machine) { m.WorkerID = domain.NewID() },
	} {
		e.machine(w, other)
	}
	key := storage.PoolKey{WorkerID: w, Driver: first.Driver, BuildID: first.BuildID, Shape: first.Shape}
	free := func() []*domain.Machine {
		return read(e, func(tx storage.Tx) ([]*domain.Machine, error) { return tx.Machines().Unclaimed(e.ctx(), key, 10) })
	}
	same(e, "pool", free(), []*domain.Machine{first, second})
	pooled := func(keys ...storage.PoolKey) []domain.ID {
		return read(e, func(tx storage.Tx) ([]domain.ID, error) { return tx.Machines().Pooled(e.ctx(), keys...) })
	}
	elsewhere, larger, shared := key, key, key
	elsewhere.WorkerID, larger.Shape.Resources.PIDs, shared.Shape.Network = domain.NewID(), 7, domain.NetworkNone
	same(e, "pools with a machine", pooled(elsewhere, key, larger), []domain.ID{w})
	same(e, "another pool of the worker with one", pooled(shared), []domain.ID{w})
	same(e, "pools without", pooled(elsewhere, larger), nil)
	same(e, "no pools", pooled(), nil)
	claim := func(id, vm domain.ID) (m *domain.Machine, err error) {
		err = e.store.Update(e.ctx(), func(tx storage.Tx) (err error) {
			m, err = tx.Machines().Claim(e.ctx(), id, vm, 1)
			return err
		})
		return m, err
	}
	take := func(id, vm domain.ID) (m *domain.Machine, err error) {
		if err := e.store.Update(e.ctx(), func(tx storage.Tx) error { return tx.Machines().Take(e.ctx(), id, vm, 1) }); err != nil {
			return nil, err
		}
		return read(e, func(tx storage.Tx) (*domain.Machine, error) { return tx.Machines().Get(e.ctx(), id) }), nil
	}
	ways := []func(id, vm domain.ID) (*domain.Machine, error){claim, take}
	// Ten ask at once for two machines: two get one each.
	type answer struct {
		m   *domain.Machine
		err error
	}
	answers := make(chan answer)
	for i := range 10 {
		go func() {
			m, err := ways[i/2%2]([]domain.ID{first.ID, second.ID}[i%2], domain.NewID())
			answers <- answer{m, err}
		}()
	}
	got := map[domain.ID]domain.ID{}
	for range 10 {
		switch a := <-answers; {
		case a.err == nil:
			got[a.m.ID] = a.m.VMID
			if a.m.Epoch != 1 || a.m.VMID == "" {
				e.Errorf("claimed %+v", a.m)
			}
		case !errors.HasCode(a.err, errors.NotFound):
			e.Error(a.err)
		}
	}
	if len(got) != 2 || got[first.ID] == got[second.ID] {
		e.Errorf("claims: %v", got)
	}
	if left := free(); len(left) != 0 {
		e.Errorf("still free: %v", left)
	}
	third := e.machine(w, nil)
	for i, way := range ways {
		if _, err := way(third.ID, got[first.ID]); !errors.HasCode(err, errors.AlreadyExists) {
			e.Errorf("way %d: a second machine for a VM: %v", i, err)
		}
		if _, err := way(domain.NewID(), domain.NewID()); !errors.HasCode(err, errors.NotFound) {
			e.Errorf("way %d: a machine that is not there: %v", i, err)
		}
	}
}

func workers(e *env) {
	p := e.project("p")
	w := &domain.Worker{
		ID: domain.NewID(), Name: "host", Address: "host:7400", Version: "1", Platform: "linux/amd64",
		Drivers:  []domain.DriverInfo{{Name: "oci", Version: "2", Isolation: domain.IsolationContainer, Usable: true, Capabilities: []string{"fork"}}},
		Capacity: domain.Resources{MilliCPU: 4000, MemoryBytes: 8 << 30, DiskBytes: 100 << 30, PIDs: 9000},
		State:    domain.WorkerReady, SeenAt: e.now, JoinedAt: e.now, Storage: "s3://host/bucket",
	}
	e.update(func(tx storage.Tx) error { return tx.Workers().Insert(e.ctx(), w) })
	get := func() *domain.Worker {
		e.Helper()
		return read(e, func(tx storage.Tx) (*domain.Worker, error) { return tx.Workers().ByName(e.ctx(), "host") })
	}
	same(e, "stored", get(), w)
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error {
		return tx.Workers().Insert(e.ctx(), &domain.Worker{ID: domain.NewID(), Name: "host"})
	})
	stale := *w
	w.State, w.Version, w.Address, w.Storage = domain.WorkerCordoned, "2", "[2001:db8::1]:7400", ""
	e.update(func(tx storage.Tx) error { return tx.Workers().Update(e.ctx(), w) })
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Workers().Update(e.ctx(), &stale) })
	same(e, "updated", get(), w)

	res := domain.Resources{MilliCPU: 10, MemoryBytes: 100, DiskBytes: 1000, PIDs: 1}
	disk := domain.Resources{DiskBytes: 1000}
	none := domain.Resources{}
	var placed []*domain.VM
	for _, tc := range []struct {
		desired  domain.DesiredState
		observed domain.ObservedState
		mode     domain.PauseMode
		holds    domain.Resources
	}{
		{domain.WantRunning, domain.Pending, "", res},
		{domain.WantRunning, domain.Running, "", res},
		{domain.WantRunning, domain.Unreachable, "", res},
		{domain.WantStopped, domain.Stopping, "", res},
		{domain.WantStopped, domain.Stopped, "", disk},
		{domain.WantRunning, domain.Stopped, "", res},
		{domain.WantDeleted, domain.Stopped, "", disk},
		{domain.WantPaused, domain.Paused, domain.PauseFreeze, res},
		{domain.WantPaused, domain.Paused, domain.PauseMemory, disk},
		{domain.WantPaused, domain.Paused, domain.PauseDisk, disk},
		{domain.WantRunning, domain.Paused, domain.PauseMemory, res},
		{domain.WantDeleted, domain.Deleting, "", res},
		{domain.WantRunning, domain.Failed, "", disk},
		{domain.WantDeleted, domain.Deleted, "", none},
	} {
		before := get().Reserved
		placed = append(placed, e.vm(p, func(vm *domain.VM) {
			vm.WorkerID, vm.Desired, vm.Observed, vm.PauseMode, vm.Spec.Resources = w.ID, tc.desired, tc.observed, tc.mode, res
			if tc.observed == domain.Deleted {
				vm.EndedAt = ptr(e.now)
			}
		}))
		after := get().Reserved
		delta := domain.Resources{
			MilliCPU: after.MilliCPU - before.MilliCPU, MemoryBytes: after.MemoryBytes - before.MemoryBytes,
			DiskBytes: after.DiskBytes - before.DiskBytes, PIDs: after.PIDs - before.PIDs,
		}
		if delta != tc.holds {
			e.Errorf("want %s, observed %s, mode %s: holds %+v, want %+v", tc.desired, tc.observed, tc.mode, delta, tc.holds)
		}
	}
	if now := get(); now.VMs != len(placed)-1 || now.Active != 8 {
		e.Errorf("%d VMs, %d active", now.VMs, now.Active)
	}
	for _, ended := range []bool{false, true, false} {
		task := &domain.Task{
			ID: domain.NewID(), ProjectID: p, Kind: "template.build", Subject: domain.NewID(), WorkerID: w.ID, State: domain.TaskRunning,
			MaxAttempts: 1, CreatedAt: e.now, UpdatedAt: e.now, RunAt: e.now,
		}
		if ended {
			task.State, task.EndedAt = domain.TaskFailed, ptr(e.now)
		}
		e.update(func(tx storage.Tx) error { return tx.Tasks().Insert(e.ctx(), task) })
	}
	same(e, "tasks that have not ended", get().Tasks, 2)
	before := get().Reserved
	pooled := e.machine(w.ID, func(m *domain.Machine) { m.Shape.Resources = res })
	if after := get().Reserved; after != before { // the pool gives way to VMs
		e.Errorf("a pooled machine makes %+v of %+v", after, before)
	}
	all := read(e, func(tx storage.Tx) ([]*domain.Worker, error) {
		all, err := tx.Workers().All(e.ctx())
		_, cerr := tx.Workers().Count(e.ctx(), all...)
		return all, errors.Join(err, cerr)
	})
	same(e, "all", all, []*domain.Worker{get()})

	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Workers().Delete(e.ctx(), w.ID) })
	e.update(func(tx storage.Tx) error { return tx.Machines().Delete(e.ctx(), pooled.ID) })
	for _, vm := range placed {
		e.save(vm, func(vm *domain.VM) {
			vm.Desired, vm.Observed, vm.EndedAt = domain.WantDeleted, domain.Deleted, ptr(e.now)
		})
	}
	snap := &domain.Snapshot{ID: domain.NewID(), ProjectID: p, VMID: domain.NewID(), CreatedAt: e.now}
	e.update(func(tx storage.Tx) error {
		return errors.Join(tx.Snapshots().Insert(e.ctx(), snap), tx.Snapshots().Copied(e.ctx(), snap, w.ID))
	})
	e.update(func(tx storage.Tx) error { return tx.Workers().Delete(e.ctx(), w.ID) })
	same(e, "copies of a worker that is gone", len(read(e, func(tx storage.Tx) ([]domain.ID, error) { return tx.Snapshots().Copies(e.ctx(), snap) })), 0)
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Workers().Delete(e.ctx(), w.ID) })
}

// Whether a worker lives is a matter of the database's clock.
func (e *env) seen(worker domain.ID) (sign storage.Sign, err error) {
	err = e.store.Aside(e.ctx(), func(tx storage.Tx) (err error) {
		sign, err = tx.Workers().Seen(e.ctx(), worker)
		return err
	})
	return sign, err
}

func liveness(e *env) {
	p := e.project("p")
	w := &domain.Worker{ID: domain.NewID(), Name: "host", State: domain.WorkerReady, SeenAt: e.now, JoinedAt: e.now}
	other := &domain.Worker{ID: domain.NewID(), Name: "other", State: domain.WorkerAway, SeenAt: e.now, JoinedAt: e.now}
	for _, w := range []*domain.Worker{w, other} {
		e.update(func(tx storage.Tx) error { return tx.Workers().Insert(e.ctx(), w) })
	}
	get := func() *domain.Worker {
		e.Helper()
		return read(e, func(tx storage.Tx) (*domain.Worker, error) { return tx.Workers().Get(e.ctx(), w.ID) })
	}
	silent := func(since time.Duration) []domain.ID {
		e.Helper()
		return read(e, func(tx storage.Tx) ([]domain.ID, error) { return tx.Workers().Silent(e.ctx(), since) })
	}
	away := func(id domain.ID, since time.Duration) (did bool) {
		e.Helper()
		e.update(func(tx storage.Tx) (err error) {
			did, err = tx.Workers().Away(e.ctx(), id, since)
			return err
		})
		return did
	}

	// e.now lies long ago for any database, so w has been silent for long.
	const long = 30 * 24 * time.Hour
	if ids := silent(long); len(ids) != 1 || ids[0] != w.ID {
		e.Fatalf("silent: %v", ids)
	}
	sign, err := e.seen(w.ID)
	if err != nil || sign != (storage.Sign{State: domain.WorkerReady}) {
		e.Fatalf("%+v, %v", sign, err)
	}
	if seen := get(); !seen.SeenAt.After(e.now) || seen.Revision != w.Revision {
		e.Errorf("%+v", seen)
	}
	if _, err := e.seen(domain.NewID()); !errors.HasCode(err, errors.NotFound) {
		e.Errorf("a sign of nobody: %v", err)
	}
	if ids := silent(long); len(ids) != 0 {
		e.Errorf("silent after a sign: %v", ids)
	}
	if away(w.ID, long) {
		e.Error("away right after a sign")
	}

	// Once only, and who held the row before must read it again.
	held := get()
	for len(silent(0)) == 0 {
		runtime.Gosched() // until the clock has moved on since the sign
	}
	if !away(w.ID, 0) || away(w.ID, 0) || away(other.ID, 0) || away(domain.NewID(), 0) {
		e.Error("not away once")
	}
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Workers().Update(e.ctx(), held) })
	state := read(e, func(tx storage.Tx) (domain.WorkerState, error) { return tx.Workers().State(e.ctx(), w.ID) })
	if gone := get(); gone.State != domain.WorkerAway || state != domain.WorkerAway || !gone.SeenAt.Equal(held.SeenAt) {
		e.Errorf("%+v, %s", gone, state)
	}
	if sign, err = e.seen(w.ID); err != nil || sign.State != domain.WorkerAway {
		e.Errorf("a sign does not bring back by itself: %+v, %v", sign, err)
	}

	// What is wanted of it is kept.
	until := ptr(e.now)
	e.update(func(tx storage.Tx) error {
		w, err := tx.Workers().Get(e.ctx(), w.ID)
		if err == nil {
			w.Cordoned, w.DrainAt, w.Moving, w.Staying = true, until, true, 2
			err = tx.Workers().Update(e.ctx(), w)
		}
		return err
	})
	if got := get(); !got.Cordoned || !got.Moving || got.Staying != 2 || got.DrainAt == nil || !got.DrainAt.Equal(*until) || got.Standing() != domain.WorkerCordoned {
		e.Errorf("%+v", got)
	}
	if sign, err = e.seen(w.ID); err != nil || !sign.Cordoned || !sign.Moving || sign.Drain == nil || *sign.Drain > -long {
		e.Errorf("%+v, %v", sign, err)
	}
	e.update(func(tx storage.Tx) error {
		now, err := tx.Workers().Clock(e.ctx())
		if err != nil {
			return err
		}
		w, err := tx.Workers().Get(e.ctx(), w.ID)
		if err != nil {
			return err
		}
		w.DrainAt = ptr(now.Add(time.Hour))
		return tx.Workers().Update(e.ctx(), w)
	})
	if sign, err = e.seen(w.ID); err != nil || sign.Drain == nil || *sign.Drain > time.Hour || *sign.Drain <= 0 {
		e.Errorf("%+v, %v", sign, err)
	}

	// What rests in the storage is not lost with who looks after it, and holds nothing of it.
	disk := &domain.Snapshot{ID: domain.NewID(), ProjectID: p, BuildID: domain.NewID(), State: domain.BuildReady, DiskOfVM: true, CreatedAt: e.now}
	stored := e.vm(p, func(vm *domain.VM) {
		vm.WorkerID, vm.Desired, vm.Observed, vm.StoredID = w.ID, domain.WantStopped, domain.Stopped, disk.ID
	})
	disk.VMID = stored.ID
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Insert(e.ctx(), disk) })
	if got := get(); e.getVM(p, stored.ID).UnreachableSince != nil || got.VMs != 0 || got.Reserved != (domain.Resources{}) {
		e.Errorf("%v, %d VMs that hold %+v", e.getVM(p, stored.ID).UnreachableSince, got.VMs, got.Reserved)
	}
	disks := func(f storage.SnapshotFilter) int {
		return len(read(e, func(tx storage.Tx) (storage.List[*domain.Snapshot], error) { return tx.Snapshots().List(e.ctx(), f) }).Items)
	}
	kept := read(e, func(tx storage.Tx) (int64, error) {
		n, _, err := tx.Quotas().Kept(e.ctx(), p)
		return n, err
	})
	if n := disks(storage.SnapshotFilter{ProjectID: p}); n != 0 || kept != 0 {
		e.Errorf("%d snapshots are shown, %d counted", n, kept)
	}
	if n := disks(storage.SnapshotFilter{IncludeEphemeral: true}); n != 1 {
		e.Errorf("%d are there", n)
	}
	abandoned := storage.SnapshotFilter{IncludeEphemeral: true, Abandoned: true}
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Snapshots().Delete(e.ctx(), p, disk.ID) })
	if n := disks(abandoned); n != 0 {
		e.Errorf("%d that VMs rest in are abandoned", n)
	}
	e.save(stored, func(vm *domain.VM) {
		vm.Desired, vm.Observed, vm.PauseMode = domain.WantPaused, domain.Paused, domain.PauseMemory
	})
	if got := get(); e.getVM(p, stored.ID).UnreachableSince != nil || got.VMs != 0 || got.Reserved != (domain.Resources{}) {
		e.Errorf("with its memory: %v, %d VMs that hold %+v", e.getVM(p, stored.ID).UnreachableSince, got.VMs, got.Reserved)
	}
	for _, kind := range []domain.SnapshotKind{domain.SnapshotMemory, domain.SnapshotDisk} { // it is given up, too
		disk.Kind = kind
		e.update(func(tx storage.Tx) error { return tx.Snapshots().Update(e.ctx(), disk) })
		if got := read(e, func(tx storage.Tx) (*domain.Snapshot, error) { return tx.Snapshots().Get(e.ctx(), p, disk.ID) }); got.Kind != kind {
			e.Errorf("the kind is %q, not %q", got.Kind, kind)
		}
	}
	e.save(stored, func(vm *domain.VM) { vm.Desired, vm.Observed = domain.WantRunning, domain.Stopped })
	if got := get(); e.getVM(p, stored.ID).UnreachableSince == nil || got.VMs != 1 || got.Reserved.DiskBytes != stored.Spec.Resources.DiskBytes {
		e.Errorf("%d VMs that hold %+v", got.VMs, got.Reserved)
	}
	e.save(stored, func(vm *domain.VM) {
		vm.StoredID, vm.Desired, vm.Observed, vm.EndedAt = "", domain.WantDeleted, domain.Deleted, ptr(e.now)
	})
	if n := disks(abandoned); n != 1 {
		e.Errorf("%d are abandoned", n)
	}
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Delete(e.ctx(), p, disk.ID) })
	e.update(func(tx storage.Tx) error { return tx.VMs().Delete(e.ctx(), p, stored.ID) })

	// VMs of it keep what they are, and tell that it is not known.
	states := []domain.ObservedState{domain.Pending, domain.Running, domain.Stopped, domain.Paused, domain.Failed, domain.Deleted}
	for _, s := range states {
		e.vm(p, func(vm *domain.VM) {
			vm.WorkerID, vm.Observed = w.ID, s
			if s == domain.Deleted {
				vm.EndedAt = ptr(e.now)
			}
		})
	}
	e.vm(p, func(vm *domain.VM) { vm.Observed = domain.Running })
	list := func(states ...domain.ObservedState) (out []domain.ObservedState) {
		e.Helper()
		got := read(e, func(tx storage.Tx) (storage.List[*domain.VM], error) {
			return tx.VMs().List(e.ctx(), storage.VMFilter{ProjectID: p, States: states, IncludeDeleted: true, Page: storage.Page{Order: "asc"}})
		})
		for _, vm := range got.Items {
			if lost := vm.WorkerID == w.ID && vm.Observed != domain.Deleted && get().State == domain.WorkerAway; lost != (vm.UnreachableSince != nil) {
				e.Errorf("the %s VM: %v", vm.Observed, vm.UnreachableSince)
			}
			out = append(out, vm.State())
		}
		return out
	}
	same(e, "all", list(), []domain.ObservedState{
		domain.Unreachable, domain.Unreachable, domain.Stopped, domain.Paused, domain.Failed, domain.Deleted, domain.Running,
	})
	same(e, "running", list(domain.Running), []domain.ObservedState{domain.Running})
	same(e, "unreachable", list(domain.Unreachable), []domain.ObservedState{domain.Unreachable, domain.Unreachable})
	same(e, "running or not known", list(domain.Running, domain.Unreachable), []domain.ObservedState{domain.Unreachable, domain.Unreachable, domain.Running})
	same(e, "at rest", list(domain.Paused, domain.Stopped), []domain.ObservedState{domain.Stopped, domain.Paused})
	e.update(func(tx storage.Tx) error {
		w, err := tx.Workers().Get(e.ctx(), w.ID)
		if err == nil {
			w.State = w.Standing()
			err = tx.Workers().Update(e.ctx(), w)
		}
		return err
	})
	same(e, "back", list(), append(states, domain.Running))
}
