package storetest

import (
	"crypto/sha256"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

func (e *env) user(name string, change func(*domain.User)) *domain.User {
	e.Helper()
	at := e.tick()
	u := &domain.User{ID: domain.NewID(), Name: name, CreatedAt: at, UpdatedAt: at}
	if change != nil {
		change(u)
	}
	e.update(func(tx storage.Tx) error { return tx.Users().Insert(e.ctx(), u) })
	return u
}

// bumps runs a change and checks that who remembers keys hears of it.
func (e *env) bumps(what string, f func(tx storage.Tx) error) {
	e.Helper()
	before, changed := e.store.KeysVersion(), e.store.KeysChanged()
	e.update(f)
	if now := e.store.KeysVersion(); before != 0 && now == before {
		e.Errorf("%s: the keys' version is still %d", what, now)
	}
	select {
	case <-changed:
	default:
		e.Errorf("%s wakes nobody", what)
	}
}

func users(e *env) {
	alice := e.user("alice@example.com", func(u *domain.User) { u.Issuer, u.Subject, u.Admin, u.AdminBy = "https://id", "1", true, "https://id" })
	bob := e.user("bob", nil)
	carol := e.user("carol", nil) // two users without a subject are no clash
	same(e, "by ID", read(e, func(tx storage.Tx) (*domain.User, error) { return tx.Users().Get(e.ctx(), alice.ID) }), alice)
	same(e, "by name", read(e, func(tx storage.Tx) (*domain.User, error) { return tx.Users().ByName(e.ctx(), "bob") }), bob)
	same(e, "by subject", read(e, func(tx storage.Tx) (*domain.User, error) { return tx.Users().BySubject(e.ctx(), "https://id", "1") }), alice)
	for name, f := range map[string]func(tx storage.Tx) (*domain.User, error){
		"another ID":            func(tx storage.Tx) (*domain.User, error) { return tx.Users().Get(e.ctx(), domain.NewID()) },
		"another name":          func(tx storage.Tx) (*domain.User, error) { return tx.Users().ByName(e.ctx(), "ALICE@example.com") },
		"another issuer":        func(tx storage.Tx) (*domain.User, error) { return tx.Users().BySubject(e.ctx(), "https://id/", "1") },
		"nobody's subject":      func(tx storage.Tx) (*domain.User, error) { return tx.Users().BySubject(e.ctx(), "", "") },
		"a subject of no issue": func(tx storage.Tx) (*domain.User, error) { return tx.Users().BySubject(e.ctx(), "https://id", "") },
	} {
		if c := code(e, f); c != errors.NotFound {
			e.Errorf("%s: %s", name, c)
		}
	}
	for name, twin := range map[string]domain.User{
		"ID": {ID: alice.ID, Name: "x"}, "name": {ID: domain.NewID(), Name: "bob"},
		"subject": {ID: domain.NewID(), Name: "y", Issuer: "https://id", Subject: "1"},
	} {
		if err := e.store.Update(e.ctx(), func(tx storage.Tx) error { return tx.Users().Insert(e.ctx(), &twin) }); !errors.HasCode(err, errors.AlreadyExists) {
			e.Errorf("a second %s: %v", name, err)
		}
	}
	bob.Name, bob.Issuer, bob.Subject, bob.DisabledAt, bob.UpdatedAt = "robert", "https://id", "2", ptr(e.now), e.now
	e.bumps("a changed user", func(tx storage.Tx) error { return tx.Users().Update(e.ctx(), bob) })
	same(e, "changed", read(e, func(tx storage.Tx) (*domain.User, error) { return tx.Users().Get(e.ctx(), bob.ID) }), bob)
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error {
		twin := *bob
		twin.Name = "carol"
		return tx.Users().Update(e.ctx(), &twin)
	})
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		return tx.Users().Update(e.ctx(), &domain.User{ID: domain.NewID(), Name: "z"})
	})
	list := read(e, func(tx storage.Tx) (storage.List[*domain.User], error) {
		return tx.Users().List(e.ctx(), storage.Page{Order: "asc", Limit: 2})
	})
	same(e, "list", list.Items, []*domain.User{alice, bob})
	if list.Next == "" {
		e.Error("there is no next page")
	}

	p := e.project("p")
	e.update(func(tx storage.Tx) error {
		return tx.Members().Put(e.ctx(), &domain.Member{ProjectID: p, UserID: carol.ID, Role: domain.RoleViewer, CreatedAt: e.now})
	})
	mine := &domain.APIKey{ID: domain.NewID(), ProjectID: p, UserID: carol.ID, Name: "k", Hash: sha256.Sum256([]byte("a")), CreatedAt: e.now}
	others := &domain.APIKey{ID: domain.NewID(), ProjectID: p, Name: "k", Hash: sha256.Sum256([]byte("b")), CreatedAt: e.now}
	e.update(func(tx storage.Tx) error {
		return errors.Join(tx.Keys().Insert(e.ctx(), mine), tx.Keys().Insert(e.ctx(), others))
	})
	e.bumps("a deleted user", func(tx storage.Tx) error { return tx.Users().Delete(e.ctx(), carol.ID, e.now) })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Users().Delete(e.ctx(), carol.ID, e.now) })
	for key, ended := range map[domain.ID]bool{mine.ID: true, others.ID: false} {
		k := read(e, func(tx storage.Tx) (*domain.APIKey, error) { return tx.Keys().Get(e.ctx(), p, key) })
		if k.Usable(e.now) == ended {
			e.Errorf("%s's key of a user who is gone: %+v", k.UserID, k)
		}
	}
	if left := read(e, func(tx storage.Tx) ([]*domain.Member, error) { return tx.Members().OfProject(e.ctx(), p) }); len(left) != 0 {
		e.Errorf("members %+v", left)
	}
}

func members(e *env) {
	p, q := e.project("p"), e.project("q")
	alice, bob := e.user("alice", nil), e.user("bob", nil)
	put := func(project, user domain.ID, role domain.Role, source string) *domain.Member {
		e.Helper()
		m := &domain.Member{ProjectID: project, UserID: user, Role: role, Source: source, CreatedAt: e.tick()}
		e.bumps("a membership", func(tx storage.Tx) error { return tx.Members().Put(e.ctx(), m) })
		return m
	}
	a, b, c := put(p, alice.ID, domain.RoleViewer, ""), put(p, bob.ID, domain.RoleDeveloper, "https://id"), put(q, alice.ID, domain.RoleMaintainer, "")
	same(e, "of a project", read(e, func(tx storage.Tx) ([]*domain.Member, error) { return tx.Members().OfProject(e.ctx(), p) }), []*domain.Member{a, b})
	same(e, "of a user", read(e, func(tx storage.Tx) ([]*domain.Member, error) { return tx.Members().OfUser(e.ctx(), alice.ID) }), []*domain.Member{a, c})
	put(p, alice.ID, domain.RoleMaintainer, "https://id")
	a.Role, a.Source = domain.RoleMaintainer, "https://id" // and the first time stays
	get := func(project, user domain.ID) func(tx storage.Tx) (*domain.Member, error) {
		return func(tx storage.Tx) (*domain.Member, error) { return tx.Members().Get(e.ctx(), project, user) }
	}
	same(e, "another role", read(e, get(p, alice.ID)), a)
	if got := code(e, get(q, bob.ID)); got != errors.NotFound {
		e.Errorf("no member: %s", got)
	}
	for _, m := range []domain.Member{{ProjectID: p, UserID: domain.NewID()}, {ProjectID: domain.NewID(), UserID: bob.ID}} {
		m.Role, m.CreatedAt = domain.RoleViewer, e.now
		e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Members().Put(e.ctx(), &m) })
	}
	e.bumps("an ended membership", func(tx storage.Tx) error { return tx.Members().Delete(e.ctx(), p, bob.ID) })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Members().Delete(e.ctx(), p, bob.ID) })
	same(e, "left", read(e, func(tx storage.Tx) ([]*domain.Member, error) { return tx.Members().OfProject(e.ctx(), p) }), []*domain.Member{a})
}

// A project goes with everything of it, and nothing of another's.
func projectsGo(e *env) {
	p, q := e.project("p"), e.project("q")
	same(e, "first", read(e, func(tx storage.Tx) (*domain.Project, error) { return tx.Projects().First(e.ctx()) }).ID, p)
	e.update(func(tx storage.Tx) error { return tx.Projects().Rename(e.ctx(), p, "renamed") })
	if got := read(e, func(tx storage.Tx) (*domain.Project, error) { return tx.Projects().ByName(e.ctx(), "renamed") }); got.ID != p {
		e.Errorf("renamed: %+v", got)
	}
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error { return tx.Projects().Rename(e.ctx(), p, "q") })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Projects().Rename(e.ctx(), domain.NewID(), "r") })

	fill := func(project domain.ID) *domain.VM {
		built := domain.NewID()
		vm := e.vm(project, func(vm *domain.VM) { vm.Metadata, vm.Spec.BuildID = map[string]string{"a": "b"}, built })
		at := e.tick()
		user := e.user("user-"+string(project), nil)
		tmpl := &domain.Template{ID: domain.NewID(), ProjectID: project, Name: "t", Tags: map[string]domain.ID{}, CreatedAt: at, UpdatedAt: at}
		build := &domain.Build{ID: built, ProjectID: project, TemplateID: tmpl.ID, State: domain.BuildReady, CreatedAt: at}
		e.update(func(tx storage.Tx) error {
			return errors.Join(
				tx.Templates().Insert(e.ctx(), tmpl),
				tx.Builds().Insert(e.ctx(), build),
				tx.Snapshots().Insert(e.ctx(), &domain.Snapshot{ID: domain.NewID(), ProjectID: project, VMID: vm.ID, Name: "s", State: domain.BuildReady, CreatedAt: at}),
				tx.Tasks().Insert(e.ctx(), &domain.Task{ID: domain.NewID(), ProjectID: project, Kind: "k", State: domain.TaskPending, CreatedAt: at, UpdatedAt: at, RunAt: at}),
				tx.Executions().Upsert(e.ctx(), &domain.Execution{ID: domain.NewID(), ProjectID: project, VMID: vm.ID, State: domain.ExecutionRunning, CreatedAt: at}),
				tx.Usage().Record(e.ctx(), domain.Usage{ProjectID: project, VMID: vm.ID, From: at, To: at.Add(time.Second)}),
				tx.Outbox().Append(e.ctx(), &domain.Event{ProjectID: project, Type: "t", Subject: vm.ID, VMID: vm.ID, At: at}),
				tx.Keys().Insert(e.ctx(), &domain.APIKey{ID: domain.NewID(), ProjectID: project, Name: "k", Hash: sha256.Sum256([]byte(project)), CreatedAt: at}),
				tx.Members().Put(e.ctx(), &domain.Member{ProjectID: project, UserID: user.ID, Role: domain.RoleViewer, CreatedAt: at}),
				tx.Idempotency().Insert(e.ctx(), &storage.Idempotent{ProjectID: project, Key: "k", CreatedAt: at, ExpiresAt: at.Add(time.Hour)}),
				tx.Answers().Insert(e.ctx(), &storage.Answer{ID: storage.AnswerID("k"), ProjectID: project, CreatedAt: at, ExpiresAt: at.Add(time.Hour)}),
				tx.Secrets().Put(e.ctx(), &domain.Secret{ID: domain.NewID(), ProjectID: project, Name: "S", Sealed: []byte{1}, CreatedAt: at, UpdatedAt: at}),
			)
		})
		tmpl.Tags[domain.DefaultTag] = build.ID
		e.update(func(tx storage.Tx) error { return tx.Templates().Update(e.ctx(), tmpl) })
		return vm
	}
	vm := fill(p)
	fill(q)
	gone := func(tx storage.Tx) error { return tx.Projects().Delete(e.ctx(), p) }
	e.refused(errors.Conflict, gone) // a VM lives
	e.save(vm, func(vm *domain.VM) {
		vm.Desired, vm.Observed, vm.EndedAt = domain.WantDeleted, domain.Deleted, ptr(e.now)
	})
	borrower := e.vm(q, func(o *domain.VM) { o.Spec.BuildID = vm.Spec.BuildID })
	e.refused(errors.Conflict, gone) // another project's VM is made from its build
	e.save(borrower, func(vm *domain.VM) {
		vm.Desired, vm.Observed, vm.EndedAt = domain.WantDeleted, domain.Deleted, ptr(e.now)
	})
	e.bumps("a deleted project", gone)
	e.refused(errors.NotFound, gone)

	count := func(project domain.ID) (n int) {
		e.view(func(tx storage.Tx) error {
			add := func(found int, err error) {
				if err != nil {
					e.Fatal(err)
				}
				n += found
			}
			vms, err := tx.VMs().List(e.ctx(), storage.VMFilter{ProjectID: project, IncludeDeleted: true})
			add(len(vms.Items), err)
			templates, err := tx.Templates().List(e.ctx(), storage.TemplateFilter{ProjectID: project})
			add(len(templates.Items), err)
			builds, err := tx.Builds().List(e.ctx(), storage.BuildFilter{ProjectID: project})
			add(len(builds.Items), err)
			snapshots, err := tx.Snapshots().List(e.ctx(), storage.SnapshotFilter{ProjectID: project})
			add(len(snapshots.Items), err)
			tasks, err := tx.Tasks().List(e.ctx(), storage.TaskFilter{ProjectID: project})
			add(len(tasks.Items), err)
			executions, err := tx.Executions().List(e.ctx(), storage.ExecutionFilter{ProjectID: project})
			add(len(executions.Items), err)
			usage, err := tx.Usage().List(e.ctx(), storage.UsageFilter{ProjectID: project}, 10)
			add(len(usage), err)
			happened, err := tx.Outbox().List(e.ctx(), storage.EventFilter{ProjectID: project})
			add(len(happened), err)
			keys, err := tx.Keys().List(e.ctx(), project, storage.Page{})
			add(len(keys.Items), err)
			members, err := tx.Members().OfProject(e.ctx(), project)
			add(len(members), err)
			secrets, err := tx.Secrets().List(e.ctx(), project)
			add(len(secrets), err)
			return nil
		})
		return n
	}
	if n, rest := count(p), count(q); n != 0 || rest != 12 {
		e.Errorf("%d things are left of the project, %d of the other", n, rest)
	}
	same(e, "first", read(e, func(tx storage.Tx) (*domain.Project, error) { return tx.Projects().First(e.ctx()) }).ID, q)
	// What was never of a project has no part in it: users stay.
	list := read(e, func(tx storage.Tx) (storage.List[*domain.User], error) {
		return tx.Users().List(e.ctx(), storage.Page{})
	})
	if len(list.Items) != 2 {
		e.Errorf("users %+v", list.Items)
	}
}

// What a project was goes piece by piece, and nothing that is, or is another's.
func projectsPast(e *env) {
	p, q := e.project("p"), e.project("q")
	fill := func(project domain.ID) (ended, lives *domain.VM) {
		ended = e.vm(project, func(vm *domain.VM) {
			vm.Metadata, vm.Desired, vm.Observed, vm.EndedAt = map[string]string{"a": "b"}, domain.WantDeleted, domain.Deleted, ptr(e.now)
		})
		lives = e.vm(project, nil)
		for range 3 {
			at := e.tick()
			x, open := e.newExecution(lives), e.newExecution(lives)
			x.State, x.EndedAt = domain.ExecutionExited, &at
			last := e.newExecution(ended)
			last.State, last.EndedAt = domain.ExecutionExited, &at
			e.upsert(x, open, last)
			e.update(func(tx storage.Tx) error {
				task := &domain.Task{ID: domain.NewID(), ProjectID: project, Kind: "k", State: domain.TaskSucceeded, CreatedAt: at, UpdatedAt: at, RunAt: at, EndedAt: &at}
				open := &domain.Task{ID: domain.NewID(), ProjectID: project, Kind: "k", State: domain.TaskPending, CreatedAt: at, UpdatedAt: at, RunAt: at}
				event := &domain.Event{ProjectID: project, Type: "t", Subject: ended.ID, VMID: ended.ID, At: at}
				return errors.Join(
					tx.Tasks().Insert(e.ctx(), task), tx.Tasks().Insert(e.ctx(), open),
					tx.Usage().Record(e.ctx(), domain.Usage{ProjectID: project, VMID: ended.ID, From: at, To: at}),
					tx.Idempotency().Insert(e.ctx(), &storage.Idempotent{ProjectID: project, Key: string(task.ID), CreatedAt: at, ExpiresAt: at.Add(time.Hour)}),
					tx.Outbox().Append(e.ctx(), event),
				)
			})
		}
		return ended, lives
	}
	ended, lives := fill(p)
	fill(q)
	// has counts a project's rows of each kind.
	has := func(project domain.ID) []int {
		return read(e, func(tx storage.Tx) ([]int, error) {
			xs, err := tx.Executions().List(e.ctx(), storage.ExecutionFilter{ProjectID: project})
			tasks, terr := tx.Tasks().List(e.ctx(), storage.TaskFilter{ProjectID: project})
			vms, verr := tx.VMs().List(e.ctx(), storage.VMFilter{ProjectID: project, IncludeDeleted: true})
			used, uerr := tx.Usage().List(e.ctx(), storage.UsageFilter{ProjectID: project}, 100)
			events, oerr := tx.Outbox().List(e.ctx(), storage.EventFilter{ProjectID: project})
			return []int{len(xs.Items), len(tasks.Items), len(vms.Items), len(used), len(events)}, errors.Join(err, terr, verr, uerr, oerr)
		})
	}
	all := []int{9, 6, 2, 3, 3}
	same(e, "a project's rows", has(p), all)
	same(e, "another's", has(q), all)
	// 3 events and tasks, 6 executions, a VM, 3 spans; keys stay for as long as the project may.
	for i, want := range []int{4, 4, 4, 4, 0} {
		e.update(func(tx storage.Tx) error {
			n, err := tx.Projects().DeletePast(e.ctx(), p, 4)
			if err == nil && n != want {
				e.Errorf("the %d. time %d rows go, not %d", i+1, n, want)
			}
			return err
		})
	}
	same(e, "what is left", has(p), []int{3, 3, 1, 0, 0})
	same(e, "what is left of another", has(q), all)
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		_, err := tx.VMs().Get(e.ctx(), p, ended.ID)
		return err
	})
	if got := read(e, func(tx storage.Tx) (*domain.VM, error) { return tx.VMs().Get(e.ctx(), p, lives.ID) }); got.ID != lives.ID {
		e.Errorf("what lives: %+v", got)
	}
}
