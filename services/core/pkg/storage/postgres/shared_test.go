package postgres_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
)

// shared runs first in a turn that all the others wait to join, in their order,
// and gives the errors of all.
func shared(t *testing.T, s *postgres.Store, first func(storage.Tx) error, others ...func(storage.Tx) error) []error {
	t.Helper()
	s.Share()
	errs := make([]error, 1+len(others))
	var wg sync.WaitGroup
	errs[0] = s.Update(t.Context(), func(tx storage.Tx) error {
		if err := first(tx); err != nil {
			return err
		}
		for i, f := range others {
			wg.Go(func() { errs[1+i] = s.Update(t.Context(), f) })
			for s.Waiting() != i+1 {
				time.Sleep(time.Millisecond)
			}
		}
		return nil
	})
	wg.Wait()
	return errs
}

func settings(t *testing.T, s storage.Store) (keys []string) {
	t.Helper()
	if err := s.View(t.Context(), func(tx storage.Tx) error {
		for i := range 10 {
			key := fmt.Sprint("k", i)
			if _, err := tx.Settings().Get(t.Context(), key); err == nil {
				keys = append(keys, key)
			} else if !errors.HasCode(err, errors.NotFound) {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return keys
}

// Of those that share a turn each sees what those before have done, and what
// one fails with takes back its own work and its events alone.
func TestCallersShareATurn(t *testing.T) {
	t.Parallel()
	database := server.Database(t)
	s := open(t, database)
	p := &domain.Project{ID: domain.NewID(), Name: "p", CreatedAt: time.Unix(1, 0)}
	ids := make([]domain.ID, 10)
	for i := range ids {
		ids[i] = domain.NewID()
	}
	does := func(i int, then func(storage.Tx) error) func(storage.Tx) error {
		return func(tx storage.Tx) error {
			if err := set(t, fmt.Sprint("k", i), "1")(tx); err != nil {
				return err
			}
			if err := appendEvent(t, tx, ids[i]); err != nil {
				return err
			}
			return then(tx)
		}
	}
	ok := func(storage.Tx) error { return nil }
	errs := shared(t, s, does(0, func(tx storage.Tx) error { return tx.Projects().Insert(t.Context(), p) }),
		does(1, ok),
		does(2, func(tx storage.Tx) error { return tx.Projects().Insert(t.Context(), p) }), // breaks a rule of the database
		does(3, func(tx storage.Tx) error {
			for _, key := range []string{"k0", "k1"} {
				if _, err := tx.Settings().Get(t.Context(), key); err != nil {
					return err
				}
			}
			if _, err := tx.Settings().Get(t.Context(), "k2"); !errors.HasCode(err, errors.NotFound) {
				t.Errorf("what was taken back: %v", err)
			}
			return nil
		}),
		does(4, func(storage.Tx) error { return errors.New(errors.Conflict, "it is otherwise") }),
		func(storage.Tx) error { return nil }, // does nothing
		func(storage.Tx) error { return errors.New(errors.NotFound, "nothing done either") },
		does(5, func(tx storage.Tx) error { _, _, err := tx.Outbox().Bounds(t.Context()); return err }), // writes all events
		does(6, func(tx storage.Tx) error {
			_, err := tx.Outbox().List(t.Context(), storage.EventFilter{})
			return errors.Join(err, errors.New(errors.Conflict, "after its events were written"))
		}),
		does(7, func(tx storage.Tx) error { _ = tx.Projects().Insert(t.Context(), p); return nil }), // goes on in spite of it
		does(8, ok),
		does(9, func(storage.Tx) error { return errors.New(errors.Conflict, "the last one") }),
	)
	want := []errors.Code{"", "", errors.AlreadyExists, "", errors.Conflict, "", errors.NotFound, "", errors.Conflict, errors.Internal, "", errors.Conflict}
	for i, err := range errs {
		if errors.CodeOf(err) != want[i] {
			t.Errorf("%d: %v, want %q", i, err, want[i])
		}
	}
	if keys := settings(t, s); !slices.Equal(keys, []string{"k0", "k1", "k3", "k5", "k8"}) {
		t.Errorf("there is %v", keys)
	}
	var subjects []domain.ID
	if err := s.View(t.Context(), func(tx storage.Tx) error {
		es, err := tx.Outbox().List(t.Context(), storage.EventFilter{})
		for _, e := range es {
			subjects = append(subjects, e.Subject)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if want := []domain.ID{ids[0], ids[1], ids[3], ids[5], ids[8]}; !slices.Equal(subjects, want) {
		t.Errorf("events of %v, want %v", subjects, want)
	}
	if err := s.Update(t.Context(), set(t, "k9", "1")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Nobody is told of what is not committed: neither that it was done, nor what
// was seen of it.
func TestASharedTurnFails(t *testing.T) {
	t.Parallel()
	own := ownServer(t)
	s := open(t, own.URL("postgres"))
	p := &domain.Project{ID: domain.NewID(), Name: "p", CreatedAt: time.Unix(1, 0)}
	errs := shared(t, s, func(tx storage.Tx) error { return tx.Projects().Insert(t.Context(), p) },
		func(tx storage.Tx) error {
			_, err := tx.Projects().Get(t.Context(), p.ID)
			return errors.Join(err, errors.New(errors.AlreadyExists, "there is one"))
		},
		func(storage.Tx) error { return own.Kill() },
		set(t, "k0", "1"),
	)
	for i, err := range errs {
		if !errors.HasCode(err, errors.Unavailable) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if err := own.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(t.Context(), func(tx storage.Tx) error { return tx.Projects().Insert(t.Context(), p) }); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Who panics, and who has gone by the time of the commit, leaves the others as
// they are.
func TestCallersOfATurnGo(t *testing.T) {
	t.Parallel()
	s := open(t, server.Database(t))
	s.Share()
	gone, goes := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var errs [3]error
	join := func(f func()) {
		before := s.Waiting()
		wg.Go(f)
		for s.Waiting() != before+1 {
			time.Sleep(time.Millisecond)
		}
	}
	var panicked any
	errs[0] = s.Update(gone, func(tx storage.Tx) error {
		join(func() {
			errs[1] = s.Update(t.Context(), func(tx storage.Tx) error { goes(); return set(t, "k1", "1")(tx) })
		})
		join(func() {
			defer func() { panicked = recover() }()
			_ = s.Update(t.Context(), func(tx storage.Tx) error {
				if err := set(t, "k2", "1")(tx); err != nil {
					return err
				}
				panic("no")
			})
		})
		join(func() { errs[2] = s.Update(t.Context(), set(t, "k3", "1")) })
		return tx.Settings().Set(context.WithoutCancel(gone), "k0", "1")
	})
	wg.Wait()
	if panicked != "no" || errs[1] != nil || errs[2] != nil || errs[0] != nil && !errors.HasCode(errs[0], errors.Canceled) {
		t.Errorf("%v, panic %v", errs, panicked)
	}
	if keys := settings(t, s); !slices.Equal(keys, []string{"k0", "k1", "k3"}) {
		t.Errorf("there is %v", keys)
	}
}

// withOneReader is a store with a single connection for all that only reads.
func withOneReader(t *testing.T, database string) *postgres.Store {
	t.Helper()
	o := quiet()
	o.Readers = 1
	return openWith(t, database, o)
}

// cut ends all connections to a database but those that listen.
func cut(t *testing.T, database string) {
	t.Helper()
	if _, err := connect(t, database).Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid() AND query NOT LIKE 'LISTEN%'`); err != nil {
		t.Fatal(err)
	}
}

// One connection is enough, also for one that has to be replaced.
func TestTheOnlyConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	database := server.Database(t)
	s := withOneReader(t, database)
	if err := s.Update(t.Context(), set(t, "k0", "1")); err != nil {
		t.Fatal(err)
	}
	settings(t, s)
	cut(t, database)
	if keys := settings(t, s); len(keys) != 1 {
		t.Errorf("there is %v", keys)
	}
	if err := s.Update(t.Context(), set(t, "k1", "1")); err != nil {
		t.Error(err)
	}
	cut(t, database)
	err := s.Read(t.Context(), func(tx storage.Tx) error { _, err := tx.Settings().Get(t.Context(), "k1"); return err })
	if err != nil {
		t.Error(err)
	}
}
