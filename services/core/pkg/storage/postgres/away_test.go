package postgres_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// Of several processes that look at once, one finds a worker away.
func TestAwayOnce(t *testing.T) {
	t.Parallel()
	database := server.Database(t)
	stores := []storage.Store{open(t, database), open(t, database)}
	w := &domain.Worker{ID: domain.NewID(), Name: "host", State: domain.WorkerReady, SeenAt: time.Unix(1, 0), JoinedAt: time.Unix(1, 0)}
	if err := stores[0].Update(t.Context(), func(tx storage.Tx) error { return tx.Workers().Insert(t.Context(), w) }); err != nil {
		t.Fatal(err)
	}
	const each = 4
	looked := make(chan error)
	for _, store := range stores {
		s := service.New(service.Config{}, service.Deps{Store: store, Changes: new(watch.Hub[domain.ID]), Log: slog.New(slog.DiscardHandler)})
		for range each {
			go func() { looked <- s.Review(t.Context()) }()
		}
	}
	for range each * len(stores) {
		if err := <-looked; err != nil {
			t.Error(err)
		}
	}
	told := 0
	err := stores[0].View(t.Context(), func(tx storage.Tx) error {
		all, err := tx.Outbox().List(t.Context(), storage.EventFilter{})
		for _, e := range all {
			if e.Type == events.WorkerAway && e.Subject == w.ID {
				told++
			}
		}
		return err
	})
	if err != nil || told != 1 {
		t.Errorf("told %d times, %v", told, err)
	}
}

// A sign of life waits for nobody's turn, and counts against who is about to
// take the worker for away.
func TestASignOfLifeWaitsForNoTurn(t *testing.T) {
	t.Parallel()
	database := server.Database(t)
	one, other := open(t, database), open(t, database)
	w := &domain.Worker{ID: domain.NewID(), Name: "host", State: domain.WorkerReady, SeenAt: time.Unix(1, 0), JoinedAt: time.Unix(1, 0)}
	err := one.Update(t.Context(), func(tx storage.Tx) error { return tx.Workers().Insert(t.Context(), w) })
	if err != nil {
		t.Fatal(err)
	}
	err = one.Update(t.Context(), func(tx storage.Tx) error {
		silent, err := tx.Workers().Silent(t.Context(), time.Hour)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := other.Aside(ctx, func(tx storage.Tx) error {
			_, err := tx.Workers().Seen(ctx, w.ID)
			return err
		}); err != nil {
			return err
		}
		gone, err := tx.Workers().Away(t.Context(), w.ID, time.Hour)
		if len(silent) != 1 || gone {
			t.Errorf("silent: %v, away after a sign of life: %v", silent, gone)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
