package postgres

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage/migrations"
)

// OpenMigrator opens a database to change its schema. Of several that do at the
// same time each waits for the one before. Close it after use.
func OpenMigrator(database string) (*migrations.Migrator, error) {
	cfg, _, err := parse(database)
	if err != nil {
		return nil, err
	}
	// Changing a large table takes as long as it takes.
	for _, name := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
		cfg.ConnConfig.RuntimeParams[name] = "0"
	}
	return migrations.NewMigrator(migrations.Database{
		DB: stdlib.OpenDB(*cfg.ConnConfig), Dialect: goose.DialectPostgres, Schema: migrations.Postgres(), Classify: classify,
		Options: []goose.ProviderOption{goose.WithSessionLocker(migrating{})},
	})
}

// migrating is the lock of whoever migrates. It goes with the session.
type migrating struct{}

// SessionLock implements lock.SessionLocker.
func (migrating) SessionLock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(migrationLock))
	return classify(err)
}

// SessionUnlock implements lock.SessionLocker.
func (migrating) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	var held bool
	err := conn.QueryRowContext(ctx, "SELECT pg_advisory_unlock($1)", int64(migrationLock)).Scan(&held)
	if err == nil && !held {
		err = errors.Plain("the lock of migrations was lost")
	}
	return classify(err)
}
