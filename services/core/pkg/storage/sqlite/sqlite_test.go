package sqlite_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/storetest"
)

func open(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
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
	// Made once: with the race detector, migrations take longer than most tests.
	blank := filepath.Join(t.TempDir(), "blank.db")
	if err := open(t, blank).Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(blank)
	if err != nil {
		t.Fatal(err)
	}
	storetest.Run(t, func(t *testing.T) storage.Store {
		path := filepath.Join(t.TempDir(), "a#b ?c%.db")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		return open(t, path)
	})
}
