package sqlite

import (
	"context"
	"database/sql"
	"iter"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage/internal/dump"
)

// Dump is all rows of a database file that nobody else has open.
type Dump struct {
	db     *sql.DB
	tx     *sql.Tx
	tables []dump.Table
	last   int64
}

var _ dump.Source = (*Dump)(nil)

// OpenDump opens a file to read all of it. Close it after use. Returns NotFound,
// Unavailable when somebody else has it open, and Conflict when its schema is
// not the newest that this program knows.
func OpenDump(ctx context.Context, path string) (_ *Dump, err error) {
	if _, err := os.Stat(path); err != nil {
		return nil, errors.Wrap(err, errors.NotFound, "there is no database %s", path)
	}
	m, err := OpenMigrator(path, Options{BusyTimeout: time.Second})
	if err != nil {
		return nil, err
	}
	current, newest, err := m.Versions(ctx)
	if err := errors.Join(err, m.Close()); err != nil {
		return nil, err
	}
	if current != newest {
		return nil, errors.New(errors.Conflict, "%s has schema version %d, and what is copied must have %d", path, current, newest).
			WithHint("bring it to that version first: aetherium-migrate --db %s to %d", path, newest)
	}
	d := &Dump{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.db, err = openDB(path, Options{BusyTimeout: time.Second}); err != nil {
		return nil, err
	}
	d.db.SetMaxOpenConns(1)
	// In this mode a transaction needs all locks of the file, also those that
	// whoever has it open holds: a server that runs.
	if _, err := d.db.ExecContext(ctx, "PRAGMA locking_mode = EXCLUSIVE"); err != nil {
		return nil, classify(err)
	}
	if d.tx, err = d.db.BeginTx(ctx, nil); err != nil {
		return nil, classify(err)
	}
	if err := d.look(ctx); err != nil {
		if err = classify(err); errors.HasCode(err, errors.Unavailable) {
			return nil, errors.Wrap(err, errors.Unavailable, "somebody else has %s open", path).WithHint("stop the server first")
		}
		return nil, err
	}
	return d, nil
}

// look finds out what there is.
func (d *Dump) look(ctx context.Context) error {
	// Writes nothing, but must be let write.
	if _, err := d.tx.ExecContext(ctx, "DELETE FROM settings WHERE FALSE"); err != nil {
		return err
	}
	rows, err := d.tx.QueryContext(ctx, `SELECT t.name,
		(SELECT group_concat(name) FROM (SELECT name FROM pragma_table_info(t.name) ORDER BY cid)),
		(SELECT group_concat(name) FROM (SELECT name FROM pragma_table_info(t.name) WHERE pk > 0 ORDER BY pk)),
		COALESCE((SELECT group_concat(DISTINCT "table") FROM pragma_foreign_key_list(t.name)), '')
		FROM sqlite_schema t WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.name <> 'goose_db_version' ORDER BY t.name`)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	refers := map[string][]string{}
	var found []dump.Table
	for rows.Next() {
		var t dump.Table
		var columns, key, to string
		if err := rows.Scan(&t.Name, &columns, &key, &to); err != nil {
			return err
		}
		t.Columns, t.Key = strings.Split(columns, ","), strings.Split(key, ",")
		refers[t.Name] = strings.Split(to, ",")
		found = append(found, t)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if d.tables = ordered(found, refers); len(d.tables) != len(found) {
		return errors.New(errors.Internal, "tables refer to each other in a circle")
	}
	err = d.tx.QueryRowContext(ctx, "SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").Scan(&d.last)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return err
}

// ordered puts those tables first that others refer to.
func ordered(all []dump.Table, refers map[string][]string) (out []dump.Table) {
	done := map[string]bool{"": true}
	for range all {
		for _, t := range all {
			if !done[t.Name] && !slices.ContainsFunc(refers[t.Name], func(to string) bool { return !done[to] && to != t.Name }) {
				done[t.Name] = true
				out = append(out, t)
			}
		}
	}
	return out
}

// Tables implements dump.Source.
func (d *Dump) Tables() []dump.Table { return d.tables }

// LastEvent implements dump.Source.
func (d *Dump) LastEvent() int64 { return d.last }

// Rows implements dump.Source.
func (d *Dump) Rows(ctx context.Context, t dump.Table) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		//nolint:gosec // names of our own schema
		rows, err := d.tx.QueryContext(ctx, "SELECT "+strings.Join(t.Columns, ", ")+" FROM "+t.Name+" ORDER BY "+strings.Join(t.Key, ", "))
		if err != nil {
			yield(nil, classify(err))
			return
		}
		defer func() { _ = rows.Close() }()
		values, into := make([]any, len(t.Columns)), make([]any, len(t.Columns))
		for i := range values {
			into[i] = &values[i]
		}
		for rows.Next() {
			if err := rows.Scan(into...); err != nil {
				yield(nil, classify(err))
				return
			}
			if !yield(values, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(nil, classify(err))
		}
	}
}

// Close lets go of the file.
func (d *Dump) Close() error {
	var err error
	if d.tx != nil {
		err = d.tx.Rollback()
	}
	if d.db != nil {
		err = errors.Join(err, d.db.Close())
	}
	return err
}
