package app

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

// openStore opens the installation's rows, for one process.
func openStore(ctx context.Context, s settings.Settings, log *slog.Logger) (storage.Store, error) {
	if s.Postgres() {
		st, err := postgres.Open(ctx, s.Database.Reveal(), postgres.Options{Alone: true, Logger: log})
		if err != nil {
			return nil, err // and no interface around a nil pointer
		}
		return st, nil
	}
	st, err := sqlite.Open(ctx, s.DatabaseFile(), sqlite.Options{Logger: log})
	if err != nil {
		return nil, err
	}
	return st, nil
}

// installed reports whether a server ever ran on the data directory.
func installed(s settings.Settings) bool {
	made := s.DatabaseFile()
	if s.Postgres() {
		made = filepath.Join(s.DataDir, "journals")
	}
	_, err := os.Stat(made)
	return !os.IsNotExist(err)
}

// walRemains reports whether what was written is not in the database file yet,
// after it was closed. PostgreSQL's commits are durable by themselves.
func walRemains(s settings.Settings) bool {
	if s.Postgres() {
		return false
	}
	info, err := os.Stat(s.DatabaseFile() + "-wal")
	return err == nil && info.Size() > 0
}
