package postgres_test

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/pgtest"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
	"github.com/aetherium/aetherium/services/core/pkg/storage/storetest"
)

var server *pgtest.Server

func TestMain(m *testing.M) {
	os.Exit(pgtest.Main(m, &server, func(ctx context.Context, database string) error {
		s, err := postgres.Open(ctx, database, quiet())
		if err != nil {
			return err
		}
		return errors.Join(s.Close())
	}))
}

func quiet() postgres.Options { return postgres.Options{Logger: slog.New(slog.DiscardHandler)} }

func open(t testing.TB, database string) *postgres.Store {
	t.Helper()
	return openWith(t, database, quiet())
}

func openWith(t testing.TB, database string, o postgres.Options) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), database, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storage.Store { return open(t, server.Database(t)) })
}
