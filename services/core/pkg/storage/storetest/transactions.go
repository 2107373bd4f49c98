package storetest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

func transactions(e *env) {
	set := func(key, value string) func(storage.Tx) error {
		return func(tx storage.Tx) error { return tx.Settings().Set(e.ctx(), key, value) }
	}
	get := func(key string) (string, errors.Code) {
		var v string
		err := e.store.View(e.ctx(), func(tx storage.Tx) (err error) {
			v, err = tx.Settings().Get(e.ctx(), key)
			return err
		})
		return v, errors.CodeOf(err)
	}
	e.update(set("a", "1"))
	if v, _ := get("a"); v != "1" {
		e.Fatalf("a committed value is %q", v)
	}

	e.update(set("gone", "1"))
	for range 2 { // also when it is not there
		e.update(func(tx storage.Tx) error { return tx.Settings().Delete(e.ctx(), "gone") })
	}
	if v, c := get("gone"); c != errors.NotFound {
		e.Fatalf("a deleted value is %q, %q", v, c)
	}

	own := errors.New(errors.QuotaExceeded, "mine")
	err := e.store.Update(e.ctx(), func(tx storage.Tx) error {
		if err := set("a", "2")(tx); err != nil {
			return err
		}
		if v, err := tx.Settings().Get(e.ctx(), "a"); err != nil || v != "2" {
			e.Errorf("a transaction does not see its own write: %q, %v", v, err)
		}
		return own
	})
	if !errors.Is(err, own) {
		e.Fatalf("the function's error is not passed on: %v", err)
	}
	if v, _ := get("a"); v != "1" {
		e.Fatalf("a failed transaction left %q", v)
	}

	func() {
		defer func() {
			if recover() != "boom" {
				e.Error("the panic is not passed on")
			}
		}()
		_ = e.store.Update(e.ctx(), func(tx storage.Tx) error {
			if err := set("a", "3")(tx); err != nil {
				return err
			}
			panic("boom")
		})
	}()
	if v, _ := get("a"); v != "1" {
		e.Fatalf("a panicking transaction left %q", v)
	}
	e.update(set("a", "4")) // and the store goes on

	if err := e.store.View(e.ctx(), set("a", "5")); err == nil {
		e.Error("a view could write")
	}
	if v, _ := get("a"); v != "4" {
		e.Fatalf("a view wrote %q", v)
	}
	var kept storage.Tx
	e.update(func(tx storage.Tx) error { kept = tx; return nil })
	if err := kept.Settings().Set(e.ctx(), "a", "6"); !errors.HasCode(err, errors.Internal) {
		e.Errorf("a transaction works after its end: %v", err)
	}
	if _, c := get("absent"); c != errors.NotFound {
		e.Errorf("an absent setting: %s", c)
	}
}

func concurrentWriters(e *env) {
	const writers, each = 8, 25
	project := e.project("p")
	vm := e.vm(project, nil)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				// Read, change and write in one transaction never conflicts.
				err := e.store.Update(e.ctx(), func(tx storage.Tx) error {
					v, err := tx.VMs().Get(e.ctx(), project, vm.ID)
					if err != nil {
						return err
					}
					v.Epoch++
					if err := tx.VMs().Update(e.ctx(), v); err != nil {
						return err
					}
					return tx.Outbox().Append(e.ctx(), &domain.Event{ProjectID: project, Type: "t", Subject: vm.ID, At: e.now, Data: fmt.Appendf(nil, `"%d/%d"`, w, i)})
				})
				if err != nil {
					e.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	got := read(e, func(tx storage.Tx) (*domain.VM, error) { return tx.VMs().Get(e.ctx(), project, vm.ID) })
	if got.Epoch != writers*each || got.Revision != 1+writers*each {
		e.Errorf("updates are lost: epoch %d, revision %d", got.Epoch, got.Revision)
	}
	es := read(e, func(tx storage.Tx) ([]domain.Event, error) {
		return tx.Outbox().List(e.ctx(), storage.EventFilter{Limit: storage.MaxPage})
	})
	if len(es) != writers*each {
		e.Fatalf("%d events of %d", len(es), writers*each)
	}
}

func consistentViews(e *env) {
	set := func(tx storage.Tx, v string) error {
		if err := tx.Settings().Set(e.ctx(), "a", v); err != nil {
			return err
		}
		return tx.Settings().Set(e.ctx(), "b", v)
	}
	e.update(func(tx storage.Tx) error { return set(tx, "old") })
	e.view(func(tx storage.Tx) error {
		a, err := tx.Settings().Get(e.ctx(), "a")
		if err != nil {
			return err
		}
		e.update(func(tx storage.Tx) error { return set(tx, "new") }) // another transaction
		b, err := tx.Settings().Get(e.ctx(), "b")
		if a != "old" || b != "old" {
			e.Errorf("a view saw %q and then %q", a, b)
		}
		return err
	})
}

func reads(e *env) {
	p := e.project("p")
	vm := e.vm(p, nil)
	m := e.machine(domain.NewID(), nil)
	get := func(tx storage.Tx) error {
		got, err := tx.VMs().Get(e.ctx(), p, vm.ID)
		if err == nil && got.ID != vm.ID {
			e.Errorf("%s was read", got.ID)
		}
		return err
	}
	read := func(f func(storage.Tx) error) errors.Code { return errors.CodeOf(e.store.Read(e.ctx(), f)) }
	for range 100 { // every connection, more than once
		if c := read(get); c != "" {
			e.Fatal(c)
		}
	}
	if c := read(func(tx storage.Tx) error { _, err := tx.VMs().Get(e.ctx(), p, domain.NewID()); return err }); c != errors.NotFound {
		e.Errorf("what is not there: %s", c)
	}
	own := errors.New(errors.QuotaExceeded, "mine")
	if err := e.store.Read(e.ctx(), func(storage.Tx) error { return own }); !errors.Is(err, own) {
		e.Errorf("the function's error is not passed on: %v", err)
	}
	for what, f := range map[string]func(storage.Tx) error{
		"two":             func(tx storage.Tx) error { return errors.Join(get(tx), get(tx)) },
		"a write":         func(tx storage.Tx) error { return tx.Settings().Set(e.ctx(), "a", "1") },
		"a write by name": func(tx storage.Tx) error { return tx.Machines().Delete(e.ctx(), m.ID) },
		"a write that tells": func(tx storage.Tx) error {
			_, err := tx.Machines().Claim(e.ctx(), m.ID, vm.ID, 1)
			return err
		},
	} {
		if c := read(f); c != errors.Internal {
			e.Errorf("%s: %q", what, c)
		}
	}
	e.view(func(tx storage.Tx) error {
		got, err := tx.Machines().Get(e.ctx(), m.ID)
		if err == nil && got.VMID != m.VMID {
			e.Errorf("a read has written %+v", got)
		}
		if _, nerr := tx.Settings().Get(e.ctx(), "a"); !errors.HasCode(nerr, errors.NotFound) {
			e.Errorf("a read has written: %v", nerr)
		}
		return err
	})
	// A transaction that has not ended keeps nobody from reading.
	e.update(func(tx storage.Tx) error {
		changed := *vm
		changed.Reason = "changed"
		if err := tx.VMs().Update(e.ctx(), &changed); err != nil {
			return err
		}
		if err := e.store.Read(e.ctx(), func(tx storage.Tx) error {
			got, err := tx.VMs().Get(e.ctx(), p, vm.ID)
			if err == nil && got.Reason != "" {
				e.Errorf("what is not committed was read: %q", got.Reason)
			}
			return err
		}); err != nil {
			e.Error(err)
		}
		return nil
	})
}

func changed(e *env) {
	project := e.project("p")
	appendEvent := func(tx storage.Tx) error {
		return tx.Outbox().Append(e.ctx(), &domain.Event{ProjectID: project, Type: "t", At: e.now})
	}
	open := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return false
		default:
			return true
		}
	}
	c := e.store.Changed()
	e.update(func(tx storage.Tx) error { return tx.Settings().Set(e.ctx(), "a", "1") })
	if !open(c) {
		e.Error("a commit without events woke")
	}
	_ = e.store.Update(e.ctx(), func(tx storage.Tx) error {
		if err := appendEvent(tx); err != nil {
			return err
		}
		return errors.Plain("no")
	})
	if !open(c) {
		e.Error("events that were rolled back woke")
	}
	e.update(appendEvent)
	<-c
	if !open(e.store.Changed()) {
		e.Error("the next channel is closed already")
	}
}

func closed(e *env) {
	inside, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := e.store.Update(e.ctx(), func(tx storage.Tx) error {
			close(inside)
			<-release
			return tx.Settings().Set(e.ctx(), "a", "1")
		})
		if err != nil {
			e.Errorf("a transaction under way at Close: %v", err)
		}
	})
	<-inside
	for range 2 {
		wg.Go(func() {
			if err := e.store.Close(); err != nil {
				e.Errorf("Close: %v", err)
			}
		})
	}
	close(release)
	wg.Wait()
	if err := e.store.Close(); err != nil {
		e.Errorf("Close again: %v", err)
	}
	nothing := func(storage.Tx) error { return nil }
	for what, err := range map[string]error{
		"View": e.store.View(e.ctx(), nothing), "Read": e.store.Read(e.ctx(), nothing), "Update": e.store.Update(e.ctx(), nothing), "Ping": e.store.Ping(e.ctx()),
	} {
		if !errors.HasCode(err, errors.Unavailable) {
			e.Errorf("%s after Close: %v", what, err)
		}
	}
}

func deadContext(e *env) {
	if err := e.store.Ping(e.ctx()); err != nil {
		e.Fatal(err)
	}
	dead, cancel := context.WithCancel(e.ctx())
	cancel()
	never := func(storage.Tx) error { e.Error("the function ran"); return nil }
	if err := e.store.Update(dead, never); !errors.HasCode(err, errors.Canceled) {
		e.Errorf("dead before it began: %v", err)
	}
	ctx, cancel := context.WithCancel(e.ctx())
	err := e.store.Update(ctx, func(tx storage.Tx) error {
		if err := tx.Settings().Set(ctx, "a", "1"); err != nil {
			return err
		}
		cancel()
		return nil
	})
	if !errors.HasCode(err, errors.Canceled) {
		e.Errorf("canceled before the commit: %v", err)
	}
	if c := code(e, func(tx storage.Tx) (string, error) { return tx.Settings().Get(e.ctx(), "a") }); c != errors.NotFound {
		e.Errorf("a canceled transaction committed: %s", c)
	}
	// A writer that waits for its turn gives up with its context.
	inside, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = e.store.Update(e.ctx(), func(storage.Tx) error { close(inside); <-release; return nil })
	})
	<-inside
	ctx, cancel = context.WithTimeout(e.ctx(), time.Millisecond)
	defer cancel()
	if err := e.store.Update(ctx, never); !errors.HasCode(err, errors.DeadlineExceeded) {
		e.Errorf("waiting past the deadline: %v", err)
	}
	close(release)
	wg.Wait()
}

func projectsAndSettings(e *env) {
	p := &domain.Project{ID: domain.NewID(), Name: "p", CreatedAt: e.now}
	e.update(func(tx storage.Tx) error { return tx.Projects().Insert(e.ctx(), p) })
	same(e, "by ID", read(e, func(tx storage.Tx) (*domain.Project, error) { return tx.Projects().Get(e.ctx(), p.ID) }), p)
	same(e, "by name", read(e, func(tx storage.Tx) (*domain.Project, error) { return tx.Projects().ByName(e.ctx(), "p") }), p)
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error {
		return tx.Projects().Insert(e.ctx(), &domain.Project{ID: domain.NewID(), Name: "p"})
	})
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error {
		return tx.Projects().Insert(e.ctx(), &domain.Project{ID: p.ID, Name: "q"})
	})
	if c := code(e, func(tx storage.Tx) (*domain.Project, error) { return tx.Projects().Get(e.ctx(), domain.NewID()) }); c != errors.NotFound {
		e.Errorf("absent: %s", c)
	}
	list := read(e, func(tx storage.Tx) (storage.List[*domain.Project], error) {
		return tx.Projects().List(e.ctx(), storage.Page{})
	})
	if len(list.Items) != 1 || list.Next != "" {
		e.Errorf("list: %+v", list)
	}
	// The first of two that mint an instance ID wins.
	for _, v := range []string{"first", "second"} {
		e.update(func(tx storage.Tx) error {
			got, err := tx.Settings().Init(e.ctx(), storage.SettingInstanceID, v)
			if got != "first" {
				e.Errorf("Init(%s) gave %q", v, got)
			}
			return err
		})
	}
}
