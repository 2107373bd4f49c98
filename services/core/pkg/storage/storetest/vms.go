package storetest

import (
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

func (e *env) getVM(project, id domain.ID) *domain.VM {
	e.Helper()
	return read(e, func(tx storage.Tx) (*domain.VM, error) { return tx.VMs().Get(e.ctx(), project, id) })
}

func (e *env) listVMs(f storage.VMFilter) []domain.ID {
	e.Helper()
	return vmIDs(read(e, func(tx storage.Tx) (storage.List[*domain.VM], error) { return tx.VMs().List(e.ctx(), f) }).Items)
}

func vmFields(e *env) {
	project := e.project("p")
	at := func(s int) *time.Time { return ptr(e.now.Add(time.Duration(s) * time.Second)) }
	vm := &domain.VM{
		ID: domain.NewID(), ProjectID: project, Name: "n", Metadata: map[string]string{"k": "v", "": "empty key"},
		Spec: domain.VMSpec{
			Template: "base:latest", TemplateID: domain.NewID(), BuildID: domain.NewID(), SnapshotID: domain.NewID(), Driver: "oci",
			MinIsolation: domain.IsolationGVisor, Platform: "linux/arm64", Resources: domain.Resources{MilliCPU: 1, MemoryBytes: 2, DiskBytes: 3, PIDs: 4},
			Network: domain.NetworkNone, Mounts: []domain.Mount{{Source: "v", Target: "/v", ReadOnly: true}}, Hostname: "h", DefaultUser: "u",
			Egress: domain.EgressPolicy{Allow: []string{"a.com"}, Deny: []string{"*"}, Learn: true}, Secrets: []domain.SecretUse{{Name: "s", Env: "S", Hosts: []string{"a.com"}, Placeholder: "p"}},
		},
		Isolation: domain.IsolationMicroVM, Desired: domain.WantPaused, Observed: domain.Pausing, PauseMode: domain.PauseMemory,
		Generation: 5, Epoch: 6, WorkerID: domain.NewID(), MachineID: domain.NewID(),
		StoredID: domain.NewID(), Moves: []domain.Move{{WorkerID: "w", Epoch: 3, At: e.now}},
		Deadline: at(60), DeadlineGen: 7, DeadlineAck: 8, EgressGen: 9, EgressAck: 4, OnTimeout: domain.TimeoutPause, IdleTimeout: 90 * time.Second, AutoResume: true,
		EnvSealed: []byte{0, 1, 255}, TokenSealed: []byte("token"), Reason: "why",
		Tombstone: &domain.Tombstone{Cause: domain.CauseOOM, By: "worker", Detail: "d", LastOutput: "o", MachineID: domain.NewID(), At: e.now},
		CreatedAt: e.now, UpdatedAt: *at(1), StartedAt: at(2), EndedAt: at(3),
	}
	e.update(func(tx storage.Tx) error { return tx.VMs().Insert(e.ctx(), vm) })
	if vm.Revision != 1 {
		e.Fatalf("revision %d after Insert", vm.Revision)
	}
	same(e, "inserted", e.getVM(project, vm.ID), vm)

	e.save(vm, func(vm *domain.VM) {
		vm.Name, vm.Metadata, vm.Isolation = "m", map[string]string{"a": "b"}, domain.IsolationContainer
		vm.Desired, vm.Observed, vm.PauseMode, vm.Generation, vm.Epoch = domain.WantDeleted, domain.Failed, domain.PauseDisk, 9, 10
		vm.WorkerID, vm.MachineID, vm.Deadline, vm.DeadlineGen, vm.DeadlineAck = "", "", nil, 11, 12
		vm.StoredID, vm.Moves = "", nil
		vm.EgressGen, vm.EgressAck, vm.Spec.Egress = 13, 14, domain.EgressPolicy{}
		vm.OnTimeout, vm.IdleTimeout, vm.AutoResume, vm.EnvSealed, vm.TokenSealed = domain.TimeoutStop, 0, false, nil, nil
		vm.Reason, vm.Tombstone, vm.UpdatedAt, vm.StartedAt, vm.EndedAt = "", nil, *at(9), nil, nil
	})
	if vm.Revision != 2 {
		e.Fatalf("revision %d after Update", vm.Revision)
	}
	same(e, "updated", e.getVM(storage.System, vm.ID), vm)

	e.refused(errors.AlreadyExists, func(tx storage.Tx) error { return tx.VMs().Insert(e.ctx(), vm) })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.VMs().Insert(e.ctx(), e.newVM(domain.NewID())) })
}

func vmTenancy(e *env) {
	a, b := e.project("a"), e.project("b")
	vm := e.vm(a, func(vm *domain.VM) { vm.Name = "x" })
	for what, f := range map[string]func(tx storage.Tx) (*domain.VM, error){
		"Get":    func(tx storage.Tx) (*domain.VM, error) { return tx.VMs().Get(e.ctx(), b, vm.ID) },
		"ByName": func(tx storage.Tx) (*domain.VM, error) { return tx.VMs().ByName(e.ctx(), b, "x") },
		"absent": func(tx storage.Tx) (*domain.VM, error) { return tx.VMs().Get(e.ctx(), a, domain.NewID()) },
	} {
		if c := code(e, f); c != errors.NotFound {
			e.Errorf("%s from another project: %s", what, c)
		}
	}
	stranger := *vm
	stranger.ProjectID = b
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.VMs().Update(e.ctx(), &stranger) })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.VMs().Delete(e.ctx(), b, vm.ID) })
	if got := e.listVMs(storage.VMFilter{ProjectID: b}); len(got) != 0 {
		e.Errorf("b lists %v", got)
	}
	e.vm(b, func(vm *domain.VM) { vm.Name = "x" }) // the same name elsewhere is fine
	if got := e.listVMs(storage.VMFilter{}); len(got) != 2 {
		e.Errorf("the system lists %v", got)
	}
}

func vmNames(e *env) {
	p := e.project("p")
	byName := func(name string) domain.ID {
		return read(e, func(tx storage.Tx) (*domain.VM, error) { return tx.VMs().ByName(e.ctx(), p, name) }).ID
	}
	e.vm(p, nil)
	e.vm(p, nil) // any number without a name
	if c := code(e, func(tx storage.Tx) (*domain.VM, error) { return tx.VMs().ByName(e.ctx(), p, "") }); c != errors.NotFound {
		e.Errorf("the empty name: %s", c)
	}
	first := e.vm(p, func(vm *domain.VM) { vm.Name = "x" })
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error {
		vm := e.newVM(p)
		vm.Name = "x"
		return tx.VMs().Insert(e.ctx(), vm)
	})
	other := e.vm(p, func(vm *domain.VM) { vm.Name = "y" })
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error {
		vm := *other
		vm.Name = "x"
		return tx.VMs().Update(e.ctx(), &vm)
	})
	// A VM that is wanted deleted has given its name up, and is still found by it.
	e.save(first, func(vm *domain.VM) { vm.Desired = domain.WantDeleted })
	if got := byName("x"); got != first.ID {
		e.Errorf("x is %s, want the one being deleted", got)
	}
	second := e.vm(p, func(vm *domain.VM) { vm.Name = "x" })
	if got := byName("x"); got != second.ID {
		e.Errorf("x is %s, want the living one", got)
	}
	for _, vm := range []*domain.VM{first, second} {
		e.save(vm, func(vm *domain.VM) {
			vm.Desired, vm.Observed, vm.EndedAt = domain.WantDeleted, domain.Deleted, ptr(e.tick())
		})
	}
	if got := byName("x"); got != second.ID {
		e.Errorf("x is %s, want the newest tombstone", got)
	}
}

func vmOptimistic(e *env) {
	p := e.project("p")
	vm := e.vm(p, nil)
	stale := *vm
	e.save(vm, func(vm *domain.VM) { vm.Observed = domain.Creating })
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.VMs().Update(e.ctx(), &stale) })
	if got := e.getVM(p, vm.ID); got.Observed != domain.Creating || got.Revision != 2 {
		e.Errorf("a stale write changed the row: %+v", got)
	}
	gone := *vm
	gone.ID = domain.NewID()
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.VMs().Update(e.ctx(), &gone) })
}

func vmLists(e *env) {
	p := e.project("p")
	build := domain.NewID()
	worker := domain.NewID()
	a := e.vm(p, func(vm *domain.VM) { vm.Name, vm.Observed = "a", domain.Running })
	b := e.vm(p, func(vm *domain.VM) {
		vm.Observed, vm.WorkerID, vm.Spec.Template, vm.Spec.BuildID = domain.Stopped, worker, "node", build
	})
	c := e.vm(p, func(vm *domain.VM) {
		vm.Desired, vm.Observed, vm.EndedAt = domain.WantDeleted, domain.Deleted, ptr(e.now)
	})
	for _, tc := range []struct {
		name string
		f    storage.VMFilter
		want []domain.ID
	}{
		{"newest first, no tombstones", storage.VMFilter{}, []domain.ID{b.ID, a.ID}},
		{"oldest first", storage.VMFilter{Page: storage.Page{Order: "asc"}}, []domain.ID{a.ID, b.ID}},
		{"tombstones too", storage.VMFilter{IncludeDeleted: true}, []domain.ID{c.ID, b.ID, a.ID}},
		{"only tombstones", storage.VMFilter{States: []domain.ObservedState{domain.Deleted}}, []domain.ID{c.ID}},
		{"states", storage.VMFilter{States: []domain.ObservedState{domain.Running, domain.Paused}}, []domain.ID{a.ID}},
		{"name", storage.VMFilter{Name: "a"}, []domain.ID{a.ID}},
		{"worker", storage.VMFilter{WorkerID: worker}, []domain.ID{b.ID}},
		{"template as asked", storage.VMFilter{Template: "node"}, []domain.ID{b.ID}},
		{"template by build", storage.VMFilter{Template: string(build)}, []domain.ID{b.ID}},
		{"nothing", storage.VMFilter{Name: "a", Template: "node"}, []domain.ID{}},
	} {
		tc.f.ProjectID = p
		same(e, tc.name, e.listVMs(tc.f), tc.want)
	}
	if c := code(e, func(tx storage.Tx) (storage.List[*domain.VM], error) {
		return tx.VMs().List(e.ctx(), storage.VMFilter{Page: storage.Page{Order: "sideways"}})
	}); c != errors.InvalidArgument {
		e.Errorf("an order that does not exist: %s", c)
	}
	count := read(e, func(tx storage.Tx) (map[domain.ObservedState]int64, error) { return tx.VMs().Count(e.ctx(), p) })
	same(e, "count", count, map[domain.ObservedState]int64{domain.Running: 1, domain.Stopped: 1})
}

func vmMetadata(e *env) {
	p, q := e.project("p"), e.project("q")
	a := e.vm(p, func(vm *domain.VM) { vm.Metadata = map[string]string{"team": "red", "tier": "1"} })
	b := e.vm(p, func(vm *domain.VM) { vm.Metadata = map[string]string{"team": "red"} })
	e.vm(q, func(vm *domain.VM) { vm.Metadata = map[string]string{"team": "red"} })
	find := func(project domain.ID, m map[string]string) []domain.ID {
		return e.listVMs(storage.VMFilter{ProjectID: project, Metadata: m, Page: storage.Page{Order: "asc"}})
	}
	same(e, "one key", find(p, map[string]string{"team": "red"}), []domain.ID{a.ID, b.ID})
	same(e, "all keys", find(p, map[string]string{"team": "red", "tier": "1"}), []domain.ID{a.ID})
	same(e, "no match", find(p, map[string]string{"team": "blue"}), []domain.ID{})
	if got := find(storage.System, map[string]string{"team": "red"}); len(got) != 3 {
		e.Errorf("the system finds %v", got)
	}
	e.save(a, func(vm *domain.VM) { vm.Metadata = map[string]string{"team": "blue"} })
	same(e, "changed away", find(p, map[string]string{"team": "red"}), []domain.ID{b.ID})
	same(e, "changed to", find(p, map[string]string{"team": "blue"}), []domain.ID{a.ID})
	e.save(a, func(vm *domain.VM) { vm.Metadata = nil })
	same(e, "removed", find(p, map[string]string{"team": "blue"}), []domain.ID{})
	// Several times in one transaction, in the map that was read, with others between.
	e.update(func(tx storage.Tx) error {
		one, err := tx.VMs().Get(e.ctx(), p, b.ID)
		if err != nil {
			return err
		}
		one.Metadata["team"] = "green"
		another, err := tx.VMs().Get(e.ctx(), p, a.ID)
		if err != nil {
			return err
		}
		another.Metadata = map[string]string{"team": "white"}
		err = errors.Join(tx.VMs().Update(e.ctx(), one), tx.VMs().Update(e.ctx(), another))
		one.Metadata["team"] = "black"
		return errors.Join(err, tx.VMs().Update(e.ctx(), one))
	})
	for team, want := range map[string][]domain.ID{"red": {}, "green": {}, "black": {b.ID}, "white": {a.ID}} {
		same(e, team, find(p, map[string]string{"team": team}), want)
	}
}

func pages(e *env) {
	p := e.project("p")
	var all []domain.ID
	at := e.tick()
	for i := range 25 {
		// Groups of five share a creation time: ties go by ID.
		vm := e.vm(p, func(vm *domain.VM) { vm.CreatedAt = at.Add(time.Duration(i/5) * time.Second) })
		all = append(all, vm.ID)
	}
	for i := 0; i < len(all); i += 5 {
		slices.Sort(all[i : i+5])
	}
	walk := func(f storage.VMFilter, between func()) []domain.ID {
		var got []domain.ID
		for {
			list := read(e, func(tx storage.Tx) (storage.List[*domain.VM], error) { return tx.VMs().List(e.ctx(), f) })
			got = append(got, vmIDs(list.Items)...)
			if list.Next == "" {
				return got
			}
			if len(list.Items) != f.Limit {
				e.Fatalf("a page that is not the last has %d items", len(list.Items))
			}
			f.Cursor = list.Next
			between()
		}
	}
	for _, limit := range []int{1, 4, 5, 24, 25, 26} {
		same(e, "oldest first", walk(storage.VMFilter{ProjectID: p, Page: storage.Page{Limit: limit, Order: "asc"}}, func() {}), all)
		back := slices.Clone(all)
		slices.Reverse(back)
		same(e, "newest first", walk(storage.VMFilter{ProjectID: p, Page: storage.Page{Limit: limit}}, func() {}), back)
	}
	// New VMs between pages don't disturb a walk from the newest on.
	back := slices.Clone(all)
	slices.Reverse(back)
	same(e, "while others are made", walk(storage.VMFilter{ProjectID: p, Page: storage.Page{Limit: 5}}, func() { e.vm(p, func(vm *domain.VM) { vm.CreatedAt = at.Add(time.Hour) }) }), back)
}

func badCursors(e *env) {
	p := e.project("p")
	e.vm(p, nil)
	e.vm(p, nil)
	first := read(e, func(tx storage.Tx) (storage.List[*domain.VM], error) {
		return tx.VMs().List(e.ctx(), storage.VMFilter{ProjectID: p, Page: storage.Page{Limit: 1}})
	})
	try := func(pg storage.Page) errors.Code {
		return code(e, func(tx storage.Tx) (storage.List[*domain.VM], error) {
			return tx.VMs().List(e.ctx(), storage.VMFilter{ProjectID: p, Page: pg})
		})
	}
	if c := try(storage.Page{Cursor: first.Next}); c != "" {
		e.Fatalf("a good cursor: %s", c)
	}
	for _, bad := range []string{"x", "!!", "MS5kZXNjLjEueA", strings.Repeat("A", 10000), first.Next + "AAAA", first.Next[:len(first.Next)-3]} {
		if c := try(storage.Page{Cursor: bad}); c != errors.InvalidArgument {
			e.Errorf("cursor %.40q: %q", bad, c)
		}
	}
	if c := try(storage.Page{Cursor: first.Next, Order: "asc"}); c != errors.InvalidArgument {
		e.Errorf("a cursor of the other order: %q", c)
	}
}

func hostileText(e *env) {
	p := e.project("p")
	for _, text := range []string{
		"'; DROP TABLE vms; --", `"quotes" \ and %_ wildcards`, "snow ☃ 𝄞", "line\nbreak\ttab", "nul\x00inside", "?1 $1 :x @y",
	} {
		vm := e.vm(p, func(vm *domain.VM) {
			vm.Name, vm.Reason, vm.Metadata, vm.Spec.Hostname = text, text, map[string]string{text: text}, text
		})
		same(e, "stored", e.getVM(p, vm.ID), vm)
		same(e, "by name", e.listVMs(storage.VMFilter{ProjectID: p, Name: text}), []domain.ID{vm.ID})
		same(e, "by metadata", e.listVMs(storage.VMFilter{ProjectID: p, Metadata: map[string]string{text: text}}), []domain.ID{vm.ID})
	}
}
