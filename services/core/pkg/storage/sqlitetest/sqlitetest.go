// Package sqlitetest opens SQLite databases for tests without running the
// migrations each time: under the race detector they take longer than most
// tests.
package sqlitetest

import (
	"context"
	stderrors "errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
)

// Open is [sqlite.Open], with a file that is absent made from a copy of a blank
// database of the newest schema.
func Open(ctx context.Context, path string, o sqlite.Options) (*sqlite.Store, error) {
	if _, err := os.Stat(path); stderrors.Is(err, fs.ErrNotExist) {
		raw, err := blank()
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			return nil, err
		}
	}
	return sqlite.Open(ctx, path, o)
}

// blank is a database that all migrations were applied to, made once in a process.
var blank = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "aetherium-blank-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "db")
	s, err := sqlite.Open(context.Background(), path, sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})
