package migrations

import (
	"context"
	"database/sql"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Migration is one numbered step of the schema.
type Migration struct {
	Version   int64
	Name      string
	Applied   bool
	AppliedAt time.Time
	Took      time.Duration // of this run; zero in a status
}

// Database is one whose schema is changed.
type Database struct {
	DB       *sql.DB // closed with the migrator
	Dialect  goose.Dialect
	Schema   fs.FS             // [SQLite] or [Postgres]
	Classify func(error) error // gives the database's errors a code
	Options  []goose.ProviderOption
}

// Migrator changes a database's schema.
type Migrator struct {
	db Database
	p  *goose.Provider
}

// NewMigrator makes a migrator. Close it after use; when there is an error the
// database is closed.
func NewMigrator(db Database) (*Migrator, error) {
	p, err := goose.NewProvider(db.Dialect, db.DB, db.Schema, append(db.Options, goose.WithDisableGlobalRegistry(true))...)
	if err != nil {
		return nil, errors.Join(errors.Wrap(err, errors.Internal, "the migrations in this program are broken"), db.DB.Close())
	}
	return &Migrator{db: db, p: p}, nil
}

// Close lets go of the database.
func (m *Migrator) Close() error { return m.db.DB.Close() }

// Versions gives the database's schema version and the newest this program knows.
func (m *Migrator) Versions(ctx context.Context) (current, newest int64, err error) {
	if current, err = m.p.GetDBVersion(ctx); err != nil {
		return 0, 0, m.fault(err)
	}
	for _, s := range m.p.ListSources() {
		newest = max(newest, s.Version)
	}
	return current, newest, nil
}

// known refuses a database of a newer program: what its schema means is unknown here.
func (m *Migrator) known(ctx context.Context) error {
	current, newest, err := m.Versions(ctx)
	if err != nil {
		return err
	}
	if current > newest {
		return errors.New(errors.Conflict, "the database has schema version %d and this program knows versions up to %d", current, newest).
			WithHint("use the newer program, or let it migrate the database down first")
	}
	return nil
}

// Up brings the schema to the newest version and tells what it did.
func (m *Migrator) Up(ctx context.Context) ([]Migration, error) {
	if err := m.known(ctx); err != nil {
		return nil, err
	}
	rs, err := m.p.Up(ctx)
	return results(rs, true), m.fault(err)
}

// Down takes the newest migration back.
func (m *Migrator) Down(ctx context.Context) ([]Migration, error) {
	if err := m.known(ctx); err != nil {
		return nil, err
	}
	current, _, err := m.Versions(ctx)
	if err != nil {
		return nil, err
	}
	if current == 0 {
		return nil, errors.New(errors.Conflict, "there is no migration to take back")
	}
	r, err := m.p.Down(ctx)
	if err != nil {
		return nil, m.fault(err)
	}
	return results([]*goose.MigrationResult{r}, false), nil
}

// To goes up or down to a version. Returns InvalidArgument for one that does not exist.
func (m *Migrator) To(ctx context.Context, version int64) ([]Migration, error) {
	if err := m.known(ctx); err != nil {
		return nil, err
	}
	exists := version == 0
	for _, s := range m.p.ListSources() {
		exists = exists || s.Version == version
	}
	if !exists {
		return nil, errors.New(errors.InvalidArgument, "there is no schema version %d", version)
	}
	current, _, err := m.Versions(ctx)
	if err != nil {
		return nil, err
	}
	if version < current {
		rs, err := m.p.DownTo(ctx, version)
		return results(rs, false), m.fault(err)
	}
	rs, err := m.p.UpTo(ctx, version)
	return results(rs, true), m.fault(err)
}

// Status lists all migrations this program knows.
func (m *Migrator) Status(ctx context.Context) ([]Migration, error) {
	ss, err := m.p.Status(ctx)
	if err != nil {
		return nil, m.fault(err)
	}
	out := make([]Migration, len(ss))
	for i, s := range ss {
		out[i] = Migration{Version: s.Source.Version, Name: s.Source.Path, Applied: s.State == goose.StateApplied, AppliedAt: s.AppliedAt}
	}
	return out, nil
}

func results(rs []*goose.MigrationResult, applied bool) []Migration {
	out := make([]Migration, 0, len(rs))
	for _, r := range rs {
		out = append(out, Migration{Version: r.Source.Version, Name: r.Source.Path, Applied: applied, Took: r.Duration})
	}
	return out
}

// fault gives an error of a migration its code.
func (m *Migrator) fault(err error) error {
	if err == nil {
		return nil
	}
	if c := m.db.Classify(err); errors.CodeOf(c) != errors.Internal {
		return c
	}
	return errors.Wrap(err, errors.Internal, "migrating the database failed: %v", err)
}
