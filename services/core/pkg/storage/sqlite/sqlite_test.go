package sqlite_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
	"github.com/aetherium/aetherium/services/core/pkg/storage/storetest"
)

func open(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	return openBy(t, sqlite.Open, path)
}

func openBy(t testing.TB, open func(context.Context, string, sqlite.Options) (*sqlite.Store, error), path string) *sqlite.Store {
	t.Helper()
	s, err := open(t.Context(), path, sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
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
	storetest.Run(t, func(t *testing.T) storage.Store {
		return openBy(t, sqlitetest.Open, filepath.Join(t.TempDir(), "a#b ?c%.db"))
	})
}
