package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"iter"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage/internal/dump"
	"github.com/aetherium/aetherium/services/core/pkg/storage/internal/sqlrepo"
)

// Copied is a table that was copied.
type Copied struct {
	Table string
	Rows  int64
}

// Copy puts all rows of a database that nobody uses into an empty one, whose
// schema is made first, and reads them back. It is one transaction: what does
// not come back as it was leaves nothing there. tell is called for each table.
// Returns Conflict for a database that has rows or that a server uses.
func Copy(ctx context.Context, database string, from dump.Source, tell func(Copied)) error {
	cfg, _, err := parse(database)
	if err != nil {
		return err
	}
	if err := migrate(ctx, database); err != nil {
		return err
	}
	for _, name := range []string{"statement_timeout", "idle_in_transaction_session_timeout"} {
		cfg.ConnConfig.RuntimeParams[name] = "0"
	}
	conn, err := pgx.ConnectConfig(ctx, cfg.ConnConfig)
	if err != nil {
		return classify(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return classify(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if err := copyInto(ctx, tx, from, tell); err != nil {
		return err
	}
	return classify(tx.Commit(ctx))
}

func copyInto(ctx context.Context, tx pgx.Tx, from dump.Source, tell func(Copied)) error {
	if err := alone(ctx, tx, "pg_advisory_xact_lock", time.Minute); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(turnLock)); err != nil {
		return classify(err)
	}
	for _, t := range from.Tables() {
		var rows bool
		if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM "+t.Name+")").Scan(&rows); err != nil {
			return classify(err)
		}
		if rows {
			return errors.New(errors.Conflict, "the database that is to be filled is not empty: there are %s", t.Name).
				WithHint("make another: dropdb and createdb")
		}
	}
	// The sums are rows like others, and are there already.
	if err := sums(ctx, tx, "DISABLE"); err != nil {
		return err
	}
	for _, t := range from.Tables() {
		n, err := copyTable(ctx, tx, from, t)
		if err != nil {
			return err
		}
		tell(Copied{Table: t.Name, Rows: n})
	}
	if err := sums(ctx, tx, "ENABLE"); err != nil {
		return err
	}
	// Numbers of events go on behind the greatest that there ever was.
	_, err := tx.Exec(ctx, "SELECT setval(pg_get_serial_sequence('outbox', 'seq'), greatest($1, 1), $1 > 0)", from.LastEvent())
	return classify(err)
}

// sums enables or disables what keeps sums of rows that are inserted.
func sums(ctx context.Context, tx pgx.Tx, what string) error {
	for _, of := range [][2]string{{"vms", "vms_inserted"}, {"vms", "vms_stored_inserted"}, {"volumes", "volumes_inserted"}, {"tasks", "tasks_inserted"}} {
		if _, err := tx.Exec(ctx, "ALTER TABLE "+of[0]+" "+what+" TRIGGER "+of[1]); err != nil {
			return classify(err)
		}
	}
	return nil
}

// copyTable copies a table and reads it back.
func copyTable(ctx context.Context, tx pgx.Tx, from dump.Source, t dump.Table) (int64, error) {
	next, stop := iter.Pull2(from.Rows(ctx, t))
	defer stop()
	given := newDigest()
	n, err := tx.CopyFrom(ctx, pgx.Identifier{t.Name}, t.Columns, pgx.CopyFromFunc(func() ([]any, error) {
		row, err, more := next()
		if !more || err != nil {
			return nil, err
		}
		given.add(row)
		return escaped(row), nil
	}))
	var v *sqlrepo.Violation
	switch err = classify(err); {
	case errors.As(err, &v):
		return 0, errors.Wrap(err, errors.Conflict, "rows of %s break a rule of the schema, and cannot be copied", t.Name).
			WithHint("the rule is %s", v.Detail)
	case err != nil:
		return 0, err
	}
	rows, err := tx.Query(ctx, "SELECT "+strings.Join(t.Columns, ", ")+" FROM "+t.Name+" ORDER BY "+strings.Join(t.Key, ", "))
	if err != nil {
		return 0, classify(err)
	}
	defer rows.Close()
	got := newDigest()
	values, into := make([]any, len(t.Columns)), make([]any, len(t.Columns))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := (row{rows}).Scan(into...); err != nil {
			return 0, classify(err)
		}
		got.add(values)
	}
	if err := rows.Err(); err != nil {
		return 0, classify(err)
	}
	if n != given.rows || got.rows != given.rows || got.sum() != given.sum() {
		return 0, errors.New(errors.Internal, "%s came back otherwise than it was given: %d rows of %d", t.Name, got.rows, given.rows)
	}
	return n, nil
}

// digest is of rows and all values in them, in order.
type digest struct {
	hash hash.Hash
	rows int64
}

func newDigest() *digest { return &digest{hash: sha256.New()} }

func (d *digest) add(row []any) {
	d.rows++
	for _, v := range row {
		var kind byte
		var b []byte
		switch v := v.(type) {
		case nil:
		case int64:
			kind, b = 'i', binary.BigEndian.AppendUint64(nil, uint64(v))
		case float64:
			kind, b = 'f', binary.BigEndian.AppendUint64(nil, math.Float64bits(v))
		case string:
			kind, b = 's', []byte(v)
		case []byte:
			kind, b = 'b', v
		default: // is equal to nothing
			kind, b = '?', fmt.Append(nil, d.rows, &v)
		}
		head := binary.BigEndian.AppendUint64([]byte{kind}, uint64(len(b)))
		_, _ = d.hash.Write(append(head, b...))
	}
}

func (d *digest) sum() [sha256.Size]byte { return [sha256.Size]byte(d.hash.Sum(nil)) }
