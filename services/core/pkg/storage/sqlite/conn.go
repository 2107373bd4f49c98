package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage/internal/sqlrepo"
)

// maxPrepared bounds the statements kept on a connection. The repositories'
// own number is about a hundred; lists with many filters add variants.
const maxPrepared = 256

// conn is one connection with its prepared statements, used by one goroutine
// at a time.
type conn struct {
	raw   *sql.Conn
	stmts map[string]*sql.Stmt
}

func newConn(ctx context.Context, db *sql.DB, pragma string) (*conn, error) {
	raw, err := db.Conn(ctx)
	if err != nil {
		return nil, classify(err)
	}
	c := &conn{raw: raw, stmts: make(map[string]*sql.Stmt)}
	if _, err := raw.ExecContext(ctx, pragma); err != nil {
		return nil, errors.Join(classify(err), raw.Close())
	}
	return c, nil
}

// prepared gives a statement for a query; drop, if not nil, is to be called after its use.
func (c *conn) prepared(query string) (stmt *sql.Stmt, drop func(), err error) {
	if st, ok := c.stmts[query]; ok {
		return st, nil, nil
	}
	st, err := c.raw.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, nil, err
	}
	if len(c.stmts) < maxPrepared {
		c.stmts[query] = st
		return st, nil, nil
	}
	return st, func() { _ = st.Close() }, nil
}

// rollback ends a transaction if one is open.
func (c *conn) rollback() error {
	_, err := c.raw.ExecContext(context.Background(), "ROLLBACK")
	if err != nil && isNoTransaction(err) {
		return nil
	}
	return err
}

func (c *conn) close() error {
	var errs []error
	for _, st := range c.stmts {
		errs = append(errs, st.Close())
	}
	return errors.Join(append(errs, c.raw.Close())...)
}

// session runs a transaction's statements on a connection.
//
// Statements are short, so a context is looked at between them and not handed
// to the driver, which would start a goroutine for each to watch it.
type session struct {
	conn *conn
	now  func() time.Time
	over bool // the transaction has ended
	// failed is what a write failed with whose outcome nobody waits for.
	failed error
}

var _ sqlrepo.Session = (*session)(nil)

func (s *session) ready(ctx context.Context) error {
	if s.over {
		return errors.New(errors.Internal, "a transaction was used after its end")
	}
	if s.failed != nil {
		return s.failed
	}
	if err := ctx.Err(); err != nil {
		return errors.Public(err)
	}
	return nil
}

// Clock implements [sqlrepo.Session].
func (s *session) Clock() (string, []any) { return "?", []any{s.now().UnixMicro()} }

// Exec implements [sqlrepo.Session].
func (s *session) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	st, drop, err := s.conn.prepared(query) //nolint:sqlclosecheck // kept by the connection, or closed by drop
	if err != nil {
		return 0, classify(err)
	}
	if drop != nil {
		defer drop()
	}
	res, err := st.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, classify(err)
	}
	n, err := res.RowsAffected()
	return n, classify(err)
}

// ExecEach implements [sqlrepo.Session].
func (s *session) ExecEach(ctx context.Context, query string, rows [][]any) (failed int, err error) {
	for i, args := range rows {
		if _, err := s.Exec(ctx, query, args...); err != nil {
			return i, err
		}
	}
	return 0, nil
}

// ExecLater implements [sqlrepo.Session]: there is no round trip to be saved.
func (s *session) ExecLater(ctx context.Context, w sqlrepo.Write) error {
	n, err := s.Exec(ctx, w.Query, w.Args...)
	s.failed = w.Outcome(n, err)
	return s.failed
}

// Query implements [sqlrepo.Session].
func (s *session) Query(ctx context.Context, each func(sqlrepo.Row) error, query string, args ...any) (err error) {
	if err := s.ready(ctx); err != nil {
		return err
	}
	st, drop, err := s.conn.prepared(query) //nolint:sqlclosecheck // kept by the connection, or closed by drop
	if err != nil {
		return classify(err)
	}
	if drop != nil {
		defer drop()
	}
	rows, err := st.QueryContext(context.Background(), args...)
	if err != nil {
		return classify(err)
	}
	defer func() {
		if cerr := rows.Close(); err == nil {
			err = classify(cerr)
		}
	}()
	for rows.Next() {
		if err := each(rows); err != nil {
			return errors.Wrap(err, errors.Internal, "a stored row cannot be read")
		}
	}
	return classify(rows.Err())
}
