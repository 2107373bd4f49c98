package storetest

import (
	"crypto/sha256"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// single gives what one statement tells, without a transaction around it.
func single[T any](e *env, f func(tx storage.Tx) (T, error)) T {
	e.Helper()
	var out T
	if err := e.store.Read(e.ctx(), func(tx storage.Tx) (err error) {
		out, err = f(tx)
		return err
	}); err != nil {
		e.Fatalf("read: %v", err)
	}
	return out
}

// heldKeys are told with who has them, in one statement.
func heldKeys(e *env) {
	p, q := e.project("p"), e.project("q")
	mk := func(name string, user domain.ID) *domain.APIKey {
		k := &domain.APIKey{
			ID: domain.NewID(), ProjectID: p, UserID: user, Name: name, Prefix: name, Hash: sha256.Sum256([]byte(name)),
			Scopes: domain.Scopes{domain.ScopeRun}, CreatedAt: e.tick(),
		}
		e.update(func(tx storage.Tx) error { return tx.Keys().Insert(e.ctx(), k) })
		return k
	}
	member, admin := e.user("member", nil), e.user("admin", func(u *domain.User) { u.Admin, u.DisabledAt = true, ptr(e.now) })
	e.update(func(tx storage.Tx) error {
		return errors.Join(
			tx.Members().Put(e.ctx(), &domain.Member{ProjectID: p, UserID: member.ID, Role: domain.RoleViewer, CreatedAt: e.now}),
			tx.Members().Put(e.ctx(), &domain.Member{ProjectID: q, UserID: admin.ID, Role: domain.RoleMaintainer, CreatedAt: e.now}),
		)
	})
	for _, want := range []storage.HeldKey{
		{APIKey: mk("nobody's", "")},
		{APIKey: mk("a member's", member.ID), User: &domain.User{ID: member.ID}, Role: domain.RoleViewer},
		{APIKey: mk("of who is a member elsewhere", admin.ID), User: &domain.User{ID: admin.ID, Admin: true, DisabledAt: admin.DisabledAt}},
		{APIKey: mk("of who is gone", domain.NewID())},
	} {
		same(e, want.Name, single(e, func(tx storage.Tx) (storage.HeldKey, error) { return tx.Keys().HeldByHash(e.ctx(), want.Hash) }), want)
		same(e, want.Name+", by ID", single(e, func(tx storage.Tx) (storage.HeldKey, error) { return tx.Keys().Held(e.ctx(), want.ID) }), want)
	}
	vm, other, x := e.vm(p, nil), e.vm(q, nil), domain.NewID()
	ran := e.execution(other, nil)
	type found struct {
		key  storage.HeldKey
		vm   *domain.VM
		used bool
	}
	withVM := func(hash [32]byte, id, execution domain.ID) func(storage.Tx) (found, error) {
		return func(tx storage.Tx) (f found, err error) {
			f.key, f.vm, f.used, err = tx.Keys().HeldWithVM(e.ctx(), hash, id, execution)
			return f, err
		}
	}
	for _, name := range []string{"nobody's", "a member's"} {
		hash := sha256.Sum256([]byte(name))
		held := single(e, func(tx storage.Tx) (storage.HeldKey, error) { return tx.Keys().HeldByHash(e.ctx(), hash) })
		same(e, name+", with a VM", single(e, withVM(hash, vm.ID, x)), found{held, vm, false})
		same(e, name+", with a VM and an ID that is used", single(e, withVM(hash, vm.ID, ran.ID)), found{held, vm, true})
		same(e, name+", with another project's VM", single(e, withVM(hash, other.ID, x)), found{held, other, false})
		if c := code(e, withVM(hash, domain.NewID(), x)); c != errors.NotFound {
			e.Errorf("%s, with no VM: %s", name, c)
		}
	}
	if c := code(e, withVM([32]byte{1}, vm.ID, x)); c != errors.NotFound {
		e.Errorf("no key, with a VM: %s", c)
	}
	rotated := mk("rotated", "")
	old := rotated.Hash
	e.update(func(tx storage.Tx) error {
		return tx.Keys().Rotate(e.ctx(), p, rotated.ID, storage.KeySecret{Prefix: "new", Hash: sha256.Sum256([]byte("new")), At: e.now}, ptr(e.now.Add(time.Hour)))
	})
	if k := single(e, func(tx storage.Tx) (storage.HeldKey, error) { return tx.Keys().HeldByHash(e.ctx(), old) }); k.ID != rotated.ID {
		e.Errorf("by the secret before: %+v", k)
	}
	for name, f := range map[string]func(tx storage.Tx) (storage.HeldKey, error){
		"another secret": func(tx storage.Tx) (storage.HeldKey, error) { return tx.Keys().HeldByHash(e.ctx(), [32]byte{1}) },
		"another ID":     func(tx storage.Tx) (storage.HeldKey, error) { return tx.Keys().Held(e.ctx(), domain.NewID()) },
	} {
		if c := code(e, f); c != errors.NotFound {
			e.Errorf("%s: %s", name, c)
		}
	}
}

// joinedVMs are read with whether there is something else, in one statement.
func joinedVMs(e *env) {
	type joined struct {
		vm    *domain.VM
		there bool
	}
	p, q := e.project("p"), e.project("q")
	vm, other := e.vm(p, func(vm *domain.VM) { vm.Metadata = map[string]string{"k": "v"} }), e.vm(q, nil)
	x := e.execution(other, nil)
	forExecution := func(project, id, execution domain.ID) func(storage.Tx) (joined, error) {
		return func(tx storage.Tx) (j joined, err error) {
			j.vm, j.there, err = tx.VMs().ForExecution(e.ctx(), project, id, execution)
			return j, err
		}
	}
	same(e, "an ID that nobody used", single(e, forExecution(p, vm.ID, domain.NewID())), joined{vm, false})
	same(e, "one of another project's VM", single(e, forExecution(p, vm.ID, x.ID)), joined{vm, true})
	same(e, "any project's VM", single(e, forExecution(storage.System, other.ID, x.ID)), joined{other, true})
	if c := code(e, forExecution(p, other.ID, domain.NewID())); c != errors.NotFound {
		e.Errorf("another project's VM: %s", c)
	}

	serving := func(tx storage.Tx) (j joined, err error) {
		j.vm, j.there, err = tx.VMs().Serving(e.ctx(), vm.ID)
		return j, err
	}
	task := &domain.Task{ID: domain.NewID(), ProjectID: p, Kind: "vm.create", Subject: vm.ID, State: domain.TaskPending, MaxAttempts: 1, CreatedAt: e.now, UpdatedAt: e.now, RunAt: e.now}
	foreign := *task
	foreign.ID, foreign.ProjectID, foreign.State = domain.NewID(), q, domain.TaskRunning
	e.update(func(tx storage.Tx) error {
		return errors.Join(tx.Tasks().Insert(e.ctx(), task), tx.Tasks().Insert(e.ctx(), &foreign))
	})
	for _, tc := range []struct {
		state domain.TaskState
		want  bool
	}{{domain.TaskPending, false}, {domain.TaskRunning, true}, {domain.TaskSucceeded, false}} {
		task.State = tc.state
		if tc.state == domain.TaskSucceeded {
			task.EndedAt = ptr(e.now)
		}
		e.update(func(tx storage.Tx) error { return tx.Tasks().Update(e.ctx(), task) })
		same(e, "with a task that is "+string(tc.state), single(e, serving), joined{vm, tc.want})
	}
	// What was read in this way is known to the update: metadata that stays is not
	// written again, and what changes is found.
	e.update(func(tx storage.Tx) error {
		row, _, err := tx.VMs().Serving(e.ctx(), vm.ID)
		if err != nil {
			return err
		}
		row.Metadata = map[string]string{"k": "w"}
		return tx.VMs().Update(e.ctx(), row)
	})
	for value, want := range map[string][]domain.ID{"v": {}, "w": {vm.ID}} {
		same(e, "by metadata "+value, e.listVMs(storage.VMFilter{ProjectID: p, Metadata: map[string]string{"k": value}}), want)
	}
}

// machinesBegin an epoch by one statement, which keeps their handle unless there is another.
func machinesBegin(e *env) {
	m := &domain.Machine{ID: domain.NewID(), WorkerID: domain.NewID(), Driver: "oci", Handle: []byte{1}, VMID: domain.NewID(), CreatedAt: e.now}
	e.update(func(tx storage.Tx) error { return tx.Machines().Insert(e.ctx(), m) })
	for _, handle := range [][]byte{nil, {2, 0, 255}, nil} {
		m.Epoch++
		if handle != nil {
			m.Handle = handle
		}
		e.update(func(tx storage.Tx) error { return tx.Machines().Began(e.ctx(), m.ID, handle, m.Epoch) })
		same(e, "began", read(e, func(tx storage.Tx) (*domain.Machine, error) { return tx.Machines().Get(e.ctx(), m.ID) }), m)
	}
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Machines().Began(e.ctx(), domain.NewID(), nil, 1) })
}

// manyAtOnce are written together, as first and as later statements of a transaction,
// all of them or none.
func manyAtOnce(e *env) {
	vm := e.vm(e.project("p"), nil)
	some := func(n int) (xs []*domain.Execution) {
		for range n {
			xs = append(xs, e.newExecution(vm))
		}
		return xs
	}
	list := func() []domain.ID {
		return xids(read(e, func(tx storage.Tx) (storage.List[*domain.Execution], error) {
			return tx.Executions().List(e.ctx(), storage.ExecutionFilter{VMID: vm.ID, Page: storage.Page{Order: "asc", Limit: 1000}})
		}).Items)
	}
	first, later := some(300), some(2)
	e.update(func(tx storage.Tx) error {
		return errors.Join(tx.Executions().Upsert(e.ctx()), tx.Executions().Upsert(e.ctx(), first...), tx.Executions().Upsert(e.ctx(), later...))
	})
	want := slices.Concat(xids(first), xids(later))
	same(e, "all", list(), want)
	bad := some(3)
	bad[1].State = domain.ExecutionExited // without a time
	e.refused(errors.InvalidArgument, func(tx storage.Tx) error { return tx.Executions().Upsert(e.ctx(), bad...) })
	e.refused(errors.Internal, func(tx storage.Tx) error {
		if err := tx.Executions().Upsert(e.ctx(), some(2)...); err != nil {
			return err
		}
		return errors.New(errors.Internal, "not to be")
	})
	same(e, "none of those that failed", list(), want)
	// Records of what was done take no turn.
	var records []*domain.AuditRecord
	for range 40 {
		records = append(records, &domain.AuditRecord{ID: domain.NewID(), At: e.tick(), Operation: "create-vm", Status: 201})
	}
	for range 2 {
		if err := e.store.Aside(e.ctx(), func(tx storage.Tx) error { return tx.Audit().Insert(e.ctx(), records...) }); err != nil {
			e.Fatal(err)
		}
	}
	same(e, "records", read(e, func(tx storage.Tx) (storage.List[*domain.AuditRecord], error) {
		return tx.Audit().List(e.ctx(), storage.AuditFilter{Page: storage.Page{Order: "asc"}})
	}).Items, records)
}
