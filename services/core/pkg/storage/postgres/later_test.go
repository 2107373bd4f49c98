package postgres_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

func machine() *domain.Machine {
	return &domain.Machine{ID: domain.NewID(), WorkerID: domain.NewID(), Driver: "fake", BuildID: domain.NewID(), CreatedAt: time.Unix(1, 0)}
}

// What the first of those that share a turn has still to write, and what the others
// have, fails each of them alone.
func TestWritesThatWaitInASharedTurn(t *testing.T) {
	t.Parallel()
	for _, firstFails := range []bool{false, true} {
		t.Run(fmt.Sprintf("the first fails %t", firstFails), func(t *testing.T) {
			t.Parallel()
			s := open(t, server.Database(t))
			var ms []*domain.Machine
			does := func(i int, fails bool, then func(storage.Tx) error) func(storage.Tx) error {
				m := machine()
				ms = append(ms, m)
				return func(tx storage.Tx) error {
					if err := set(t, fmt.Sprint("k", i), "1")(tx); err != nil {
						return err
					}
					if err := tx.Machines().Insert(t.Context(), m); err != nil {
						return err
					}
					if fails {
						_ = tx.Machines().Began(t.Context(), domain.NewID(), nil, 1)
					}
					return then(tx)
				}
			}
			ok := func(storage.Tx) error { return nil }
			gone, goes := context.WithCancel(t.Context())
			errs := shared(t, s, does(0, firstFails, ok),
				does(1, false, ok),
				does(2, true, ok),
				does(3, true, func(tx storage.Tx) error {
					_, err := tx.Settings().Get(t.Context(), "k3")
					if errors.HasCode(err, errors.NotFound) { // as if that had not been there
						return nil
					}
					return err
				}),
				does(4, false, func(tx storage.Tx) error {
					goes()
					_, _ = tx.Settings().Get(gone, "k4") // is not asked, and takes nothing along
					return nil
				}),
				does(5, false, func(tx storage.Tx) error { _, err := tx.Machines().Get(t.Context(), ms[5].ID); return err }),
				does(6, false, ok),
			)
			want := []errors.Code{"", "", errors.NotFound, errors.NotFound, "", "", ""}
			kept := []string{"k1", "k4", "k5", "k6"}
			if firstFails {
				want[0] = errors.NotFound
			} else {
				kept = slices.Insert(kept, 0, "k0")
			}
			for i, err := range errs {
				if errors.CodeOf(err) != want[i] {
					t.Errorf("%d: %v, want %q", i, err, want[i])
				}
			}
			if keys := settings(t, s); !slices.Equal(keys, kept) {
				t.Errorf("there is %v, want %v", keys, kept)
			}
			for i, m := range ms {
				err := s.View(t.Context(), func(tx storage.Tx) error { _, err := tx.Machines().Get(t.Context(), m.ID); return err })
				if there := err == nil; there != slices.Contains(kept, fmt.Sprint("k", i)) {
					t.Errorf("machine %d: %v", i, err)
				}
			}
		})
	}
}

// A write that waits is done once where the connection that it was to go by has died.
func TestWritesThatWaitForANewConnection(t *testing.T) {
	t.Parallel()
	database := server.Database(t)
	s := withOneReader(t, database)
	if err := s.Update(t.Context(), set(t, "k0", "1")); err != nil {
		t.Fatal(err)
	}
	for _, then := range []func(tx storage.Tx) error{
		func(storage.Tx) error { return nil },
		func(tx storage.Tx) error { _, err := tx.Settings().Get(t.Context(), "k0"); return err },
	} {
		cut(t, database)
		m := machine()
		err := s.Update(t.Context(), func(tx storage.Tx) error {
			if err := tx.Machines().Insert(t.Context(), m); err != nil {
				return err
			}
			return then(tx)
		})
		if err != nil {
			t.Error(err)
		}
		err = s.View(t.Context(), func(tx storage.Tx) error { _, err := tx.Machines().Get(t.Context(), m.ID); return err })
		if err != nil {
			t.Error(err)
		}
	}
}
