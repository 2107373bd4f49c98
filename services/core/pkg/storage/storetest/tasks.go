package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

func tasks(e *env) {
	p, q := e.project("p"), e.project("q")
	mk := func(change func(*domain.Task)) *domain.Task {
		at := e.tick()
		task := &domain.Task{
			ID: domain.NewID(), ProjectID: p, Kind: "vm.create", Subject: domain.NewID(), WorkerID: domain.NewID(), State: domain.TaskPending, Args: []byte(`{"a": 1}`),
			MaxAttempts: 3, CreatedAt: at, UpdatedAt: at, RunAt: at,
		}
		if change != nil {
			change(task)
		}
		e.update(func(tx storage.Tx) error { return tx.Tasks().Insert(e.ctx(), task) })
		return task
	}
	task := mk(nil)
	get := func(project domain.ID) func(storage.Tx) (*domain.Task, error) {
		return func(tx storage.Tx) (*domain.Task, error) { return tx.Tasks().Get(e.ctx(), project, task.ID) }
	}
	same(e, "stored", read(e, get(p)), task)
	if c := code(e, get(q)); c != errors.NotFound {
		e.Errorf("another project's task: %s", c)
	}
	tids := func(ts []*domain.Task) []domain.ID {
		return ids(ts, func(t *domain.Task) domain.ID { return t.ID })
	}
	runnable := func(at time.Time) []domain.ID {
		return tids(read(e, func(tx storage.Tx) ([]*domain.Task, error) { return tx.Tasks().Runnable(e.ctx(), at, 10) }))
	}
	later := mk(func(t *domain.Task) { t.RunAt = e.now.Add(time.Hour) })
	sooner := mk(func(t *domain.Task) { t.RunAt = task.RunAt.Add(-time.Minute) })
	same(e, "runnable, earliest first", runnable(e.now), []domain.ID{sooner.ID, task.ID})
	same(e, "runnable in an hour", runnable(later.RunAt), []domain.ID{sooner.ID, task.ID, later.ID})

	stale := *task
	task.State, task.Attempts, task.CancelAsked, task.UpdatedAt = domain.TaskRunning, 1, true, e.tick()
	e.update(func(tx storage.Tx) error { return tx.Tasks().Update(e.ctx(), task) })
	same(e, "running", read(e, get(storage.System)), task)
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Tasks().Update(e.ctx(), &stale) })
	same(e, "interrupted by a crash", tids(read(e, func(tx storage.Tx) ([]*domain.Task, error) { return tx.Tasks().Running(e.ctx(), 10) })), []domain.ID{task.ID})
	task.State, task.Result, task.Error, task.EndedAt = domain.TaskFailed, []byte(`[]`), &domain.TaskError{Code: "c", Message: "m"}, ptr(e.tick())
	e.update(func(tx storage.Tx) error { return tx.Tasks().Update(e.ctx(), task) })
	same(e, "ended", read(e, get(p)), task)

	list := func(f storage.TaskFilter) []domain.ID {
		f.ProjectID = p
		return tids(read(e, func(tx storage.Tx) (storage.List[*domain.Task], error) { return tx.Tasks().List(e.ctx(), f) }).Items)
	}
	same(e, "by subject", list(storage.TaskFilter{Subject: later.Subject}), []domain.ID{later.ID})
	same(e, "by worker", list(storage.TaskFilter{WorkerID: later.WorkerID}), []domain.ID{later.ID})
	same(e, "by state", list(storage.TaskFilter{States: []domain.TaskState{domain.TaskPending}}), []domain.ID{sooner.ID, later.ID})
	same(e, "by kind", list(storage.TaskFilter{Kind: "nothing"}), []domain.ID{})
	for _, bad := range []func(*domain.Task){
		func(t *domain.Task) { t.Args = []byte("{") },
		func(t *domain.Task) { t.State = domain.TaskSucceeded }, // without an end time
	} {
		e.refused(errors.InvalidArgument, func(tx storage.Tx) error {
			t := *later
			t.ID = domain.NewID()
			bad(&t)
			return tx.Tasks().Insert(e.ctx(), &t)
		})
	}
	e.update(func(tx storage.Tx) error {
		want := *task
		want.SpecSealed = nil
		due, err := tx.Tasks().Ended(e.ctx(), task.EndedAt.Add(time.Microsecond), 10)
		if err != nil {
			return err
		}
		same(e, "what ended", due, []*domain.Task{&want})
		none, err := tx.Tasks().Ended(e.ctx(), *task.EndedAt, 10)
		same(e, "what ended before", len(none), 0)
		gone, derr := tx.Tasks().Delete(e.ctx(), append(due, later)...)
		same(e, "the deleted tasks", gone, due)
		again, aerr := tx.Tasks().Delete(e.ctx(), due...)
		same(e, "deleted once more", len(again), 0)
		return errors.Join(err, derr, aerr)
	})
	same(e, "left", list(storage.TaskFilter{}), []domain.ID{sooner.ID, later.ID})
}

// runs are tasks in groups and after others.
func runs(e *env) {
	p, q := e.project("p"), e.project("q")
	group := domain.NewID()
	mk := func(project domain.ID, change func(*domain.Task)) *domain.Task {
		at := e.tick()
		task := &domain.Task{
			ID: domain.NewID(), ProjectID: project, Kind: "run", State: domain.TaskPending, Args: []byte(`{}`), MaxAttempts: 1,
			CreatedAt: at, UpdatedAt: at, RunAt: at, Name: "n", GroupID: group, Step: domain.StepQueued, SpecSealed: []byte("spec"),
		}
		if change != nil {
			change(task)
		}
		e.update(func(tx storage.Tx) error { return tx.Tasks().Insert(e.ctx(), task) })
		return task
	}
	save := func(task *domain.Task) {
		e.Helper()
		e.update(func(tx storage.Tx) error { return tx.Tasks().Update(e.ctx(), task) })
	}
	tids := func(ts []*domain.Task) []domain.ID {
		return ids(ts, func(t *domain.Task) domain.ID { return t.ID })
	}
	ready := func(project domain.ID) []domain.ID {
		return tids(read(e, func(tx storage.Tx) ([]*domain.Task, error) {
			return tx.Tasks().Ready(e.ctx(), "run", project, e.now, 10)
		}))
	}
	first, second := mk(p, nil), mk(p, nil)
	other := mk(q, func(t *domain.Task) { t.GroupID = "" })
	mk(p, func(t *domain.Task) { t.RunAt = e.now.Add(time.Hour) })
	mk(p, func(t *domain.Task) { t.Kind, t.GroupID = "build", "" })
	third := mk(p, nil)
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Tasks().Wait(e.ctx(), p, third.ID, []domain.ID{other.ID}) })
	e.update(func(tx storage.Tx) error {
		return tx.Tasks().Wait(e.ctx(), p, third.ID, []domain.ID{first.ID, second.ID})
	})
	same(e, "ready", ready(""), []domain.ID{first.ID, second.ID, other.ID})
	same(e, "ready of a project", ready(p), []domain.ID{first.ID, second.ID})
	projects := func(kind string, at time.Time) []domain.ID {
		var ids []domain.ID
		e.view(func(tx storage.Tx) (err error) {
			ids, err = tx.Tasks().ReadyProjects(e.ctx(), kind, at)
			return err
		})
		slices.Sort(ids)
		return ids
	}
	both := []domain.ID{p, q}
	slices.Sort(both)
	same(e, "projects with ready tasks", projects("run", e.now), both)
	same(e, "projects with ready tasks of another kind", projects("build", e.now), []domain.ID{p})
	same(e, "projects with ready tasks before the second's", projects("run", first.RunAt), []domain.ID{p})
	if none := projects("run", first.RunAt.Add(-time.Hour)); len(none) != 0 {
		e.Errorf("before all: %v", none)
	}
	same(e, "before the third", tids(read(e, func(tx storage.Tx) ([]*domain.Task, error) { return tx.Tasks().After(e.ctx(), p, third.ID) })), []domain.ID{first.ID, second.ID})
	waiting := func() []domain.ID {
		return tids(read(e, func(tx storage.Tx) ([]*domain.Task, error) { return tx.Tasks().Waiting(e.ctx(), p, first.ID, 10) }))
	}
	same(e, "after the first", waiting(), []domain.ID{third.ID})

	first.State, first.Step, first.VMID, first.ExecutionID = domain.TaskRunning, domain.StepCreating, domain.NewID(), domain.NewID()
	save(first)
	same(e, "stored", read(e, func(tx storage.Tx) (*domain.Task, error) { return tx.Tasks().Get(e.ctx(), p, first.ID) }), first)
	count := func(project domain.ID) int {
		return *read(e, func(tx storage.Tx) (*int, error) {
			n, err := tx.Tasks().CountRunning(e.ctx(), "run", project)
			return &n, err
		})
	}
	if count(p) != 1 || count(q) != 0 {
		e.Errorf("%d and %d run", count(p), count(q))
	}
	runningOf := func(kind string) []domain.ID {
		return tids(read(e, func(tx storage.Tx) ([]*domain.Task, error) { return tx.Tasks().RunningOf(e.ctx(), kind) }))
	}
	same(e, "running of a kind", runningOf("run"), []domain.ID{first.ID})
	same(e, "running of another", runningOf("build"), []domain.ID{})
	end := func(task *domain.Task, s domain.TaskState) {
		task.State, task.EndedAt = s, ptr(e.tick())
		save(task)
	}
	end(first, domain.TaskSucceeded)
	same(e, "ready while the second has not ended", ready(p), []domain.ID{second.ID})
	old := func() int {
		return *read(e, func(tx storage.Tx) (*int, error) {
			n := 0
			list, err := tx.Tasks().List(e.ctx(), storage.TaskFilter{ProjectID: p, GroupID: group})
			for _, t := range list.Items {
				if t.State.Ended() {
					n++
				}
			}
			return &n, err
		})
	}
	purge := func() {
		e.update(func(tx storage.Tx) error {
			due, err := tx.Tasks().Ended(e.ctx(), e.now.Add(time.Hour), 10)
			if err != nil {
				return err
			}
			_, err = tx.Tasks().Delete(e.ctx(), due...)
			return err
		})
	}
	purge()
	if old() != 1 {
		e.Error("a task that another waits for was removed")
	}
	end(second, domain.TaskFailed)
	same(e, "ready when both have ended", ready(p), []domain.ID{third.ID})
	same(e, "group", read(e, func(tx storage.Tx) (map[domain.TaskState]int, error) { return tx.Tasks().CountGroup(e.ctx(), p, group) }),
		map[domain.TaskState]int{domain.TaskSucceeded: 1, domain.TaskFailed: 1, domain.TaskPending: 2})
	same(e, "no group", read(e, func(tx storage.Tx) (map[domain.TaskState]int, error) { return tx.Tasks().CountGroup(e.ctx(), q, group) }),
		map[domain.TaskState]int{})
	end(third, domain.TaskCanceled)
	same(e, "after the first, in the end", waiting(), []domain.ID{})
	purge()
	if old() != 0 {
		e.Error("tasks that nobody waits for were kept")
	}
}

func outbox(e *env) {
	p, q, vm := e.project("p"), e.project("q"), domain.NewID()
	bounds := func() (oldest, newest int64) {
		e.view(func(tx storage.Tx) (err error) {
			oldest, newest, err = tx.Outbox().Bounds(e.ctx())
			return err
		})
		return oldest, newest
	}
	if a, b := bounds(); a != 0 || b != 0 {
		e.Errorf("empty: %d..%d", a, b)
	}
	var all []domain.Event
	start := e.now
	for i := range 10 {
		ev := &domain.Event{ProjectID: p, Type: "vm.updated", Subject: domain.NewID(), Data: fmt.Appendf(nil, `{"i":%d}`, i), At: e.tick()}
		if i%3 == 0 {
			ev.ProjectID = q
		}
		if i%2 == 0 {
			ev.VMID = vm
		}
		e.update(func(tx storage.Tx) error { return tx.Outbox().Append(e.ctx(), ev) })
		if len(all) > 0 && ev.Seq <= all[len(all)-1].Seq {
			e.Fatalf("cursor %d after %d", ev.Seq, all[len(all)-1].Seq)
		}
		all = append(all, *ev)
	}
	list := func(f storage.EventFilter) []domain.Event {
		return read(e, func(tx storage.Tx) ([]domain.Event, error) { return tx.Outbox().List(e.ctx(), f) })
	}
	pick := func(keep func(int, domain.Event) bool) []domain.Event {
		var out []domain.Event
		for i, ev := range all {
			if keep(i, ev) {
				out = append(out, ev)
			}
		}
		return out
	}
	same(e, "all", list(storage.EventFilter{}), all)
	same(e, "a page", list(storage.EventFilter{After: all[3].Seq, Limit: 2}), all[4:6])
	same(e, "of a project", list(storage.EventFilter{ProjectID: q}), pick(func(i int, _ domain.Event) bool { return i%3 == 0 }))
	same(e, "of a VM", list(storage.EventFilter{ProjectID: p, VMID: vm}), pick(func(i int, _ domain.Event) bool { return i%3 != 0 && i%2 == 0 }))
	e.refused(errors.InvalidArgument, func(tx storage.Tx) error {
		return tx.Outbox().Append(e.ctx(), &domain.Event{Type: "t", Data: []byte("{")})
	})
	purge := func(before time.Time, limit, want int) {
		e.Helper()
		e.update(func(tx storage.Tx) error {
			n, err := tx.Outbox().DeleteBefore(e.ctx(), before, limit)
			if n != want {
				e.Errorf("deleted %d, want %d", n, want)
			}
			return err
		})
	}
	purge(start, 100, 0)
	purge(all[4].At, 3, 3)
	purge(all[4].At, 100, 1)
	if a, b := bounds(); a != all[4].Seq || b != all[9].Seq {
		e.Errorf("after deleting four: %d..%d", a, b)
	}
	purge(e.now.Add(time.Hour), 100, 5) // the newest is kept: cursors never start over
	if a, b := bounds(); a != all[9].Seq || b != all[9].Seq {
		e.Errorf("after deleting all: %d..%d", a, b)
	}

	// As many as a worker has VMs, in one go.
	_, before := bounds()
	many := make([]*domain.Event, 0, 321)
	for range cap(many) {
		many = append(many, &domain.Event{ProjectID: p, Type: "vm.unreachable", Subject: domain.NewID(), Data: []byte(`{}`), At: e.now})
	}
	e.update(func(tx storage.Tx) error { return tx.Outbox().Append(e.ctx(), many...) })
	var want []domain.Event
	for _, ev := range many {
		want = append(want, *ev)
	}
	same(e, "many at once", list(storage.EventFilter{After: before, Limit: len(many) + 1}), want)
}
