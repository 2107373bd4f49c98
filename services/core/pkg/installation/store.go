package installation

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/services/core/pkg/settings"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
)

// OpenStore opens the installation's rows; alone: for one process, of which there
// is no other, or as one of several.
func OpenStore(ctx context.Context, s settings.Common, alone bool, log *slog.Logger) (storage.Store, error) {
	if s.Postgres() {
		st, err := postgres.Open(ctx, s.Database.Reveal(), postgres.Options{Alone: alone, Among: !alone, Logger: log})
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

// Made reports whether a server ever ran on the data directory.
func Made(s settings.Common) bool {
	made := s.DatabaseFile()
	if s.Postgres() {
		made = filepath.Join(s.DataDir, "journals")
	}
	_, err := os.Stat(made)
	return !os.IsNotExist(err)
}

// Unwritten reports whether what was written is not in the database file yet,
// after it was closed. PostgreSQL's commits are durable by themselves.
func Unwritten(s settings.Common) bool {
	if s.Postgres() {
		return false
	}
	info, err := os.Stat(s.DatabaseFile() + "-wal")
	return err == nil && info.Size() > 0
}
