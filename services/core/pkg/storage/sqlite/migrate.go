package sqlite

import (
	"time"

	"github.com/pressly/goose/v3"

	"github.com/aetherium/aetherium/services/core/pkg/storage/migrations"
)

// OpenMigrator opens a database file that no server uses, and makes it with
// mode 0600 when it is absent. Close it after use.
func OpenMigrator(path string, o Options) (*migrations.Migrator, error) {
	if o.BusyTimeout <= 0 {
		o.BusyTimeout = 5 * time.Second
	}
	if err := prepareFile(path); err != nil {
		return nil, err
	}
	db, err := openDB(path, o)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return migrations.NewMigrator(migrations.Database{DB: db, Dialect: goose.DialectSQLite3, Schema: migrations.SQLite(), Classify: classify})
}
