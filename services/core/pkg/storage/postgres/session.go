package postgres

import (
	"context"
	"database/sql/driver"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage/internal/sqlrepo"
)

const (
	// attempts bounds how often a transaction is begun: connections of a pool may
	// have died since they were used.
	attempts = 3
	// grace is how much later than the server's own limit is given up what the
	// server says nothing to.
	grace = 5 * time.Second
)

// session runs a transaction's statements on a connection that it is lent.
type session struct {
	words *words
	lent  *pgxpool.Conn // nil: it is lost
	over  bool          // the transaction has ended

	begin    []string      // go before the first statement, in its round trip
	began    bool          // they have
	patience time.Duration // how long that may take
	later    []sqlrepo.Write
	wrote    bool  // those have been run
	failed   error // what one of them failed with
	// renew takes a connection in the place of one that has died before anything
	// was done on it; nil: something was.
	renew func(context.Context) (*pgxpool.Conn, error)
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

// dead reports whether there is no connection any more.
func (s *session) dead() bool { return s.lent == nil || s.lent.Conn().IsClosed() }

// fault classifies an error of a statement.
func (s *session) fault(ctx context.Context, err error) error {
	if s.failed != nil {
		return s.failed
	}
	if err != nil && ctx.Err() != nil {
		return errors.Public(ctx.Err())
	}
	if own := classify(err); err == nil || !s.dead() || errors.CodeOf(own) != errors.Internal {
		return own
	}
	return unreachable(err)
}

// void returns an error when the database has given the transaction up, whoever
// went on all the same.
func (s *session) void() error {
	if s.dead() {
		return nil
	}
	if status := s.lent.Conn().PgConn().TxStatus(); status == 'E' || s.began && status != 'T' {
		return errors.New(errors.Internal, "a transaction went on after an error, and was rolled back")
	}
	return nil
}

// end gives the connection back; what is not committed is taken back. later:
// nobody has to wait for that.
func (s *session) end(later bool) {
	s.over = true
	c := s.lent
	switch {
	case c == nil:
	case later && !c.Conn().IsClosed() && c.Conn().PgConn().TxStatus() != 'I':
		go release(c)
	default:
		release(c)
	}
	s.lent = nil
}

// release ends a transaction that may be open and gives the connection back.
// That must happen whatever became of the context.
func release(c *pgxpool.Conn) {
	if conn := c.Conn(); !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		_, _ = conn.PgConn().Exec(ctx, "ROLLBACK").ReadAll() // else the pool closes the connection
	}
	c.Release()
}

// Clock implements [sqlrepo.Session].
func (s *session) Clock() (string, []any) {
	return "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint", nil
}

// Exec implements [sqlrepo.Session].
func (s *session) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	rows, done, err := s.run(ctx, s.words.numbered(query), escaped(args))
	if err != nil {
		return 0, s.fault(ctx, err)
	}
	rows.Close()
	err = rows.Err()
	done()
	return rows.CommandTag().RowsAffected(), s.fault(ctx, err)
}

// eachPiece is how many statements are sent together: until all are, nothing of what
// the server says to them is read, and both sides hold them.
const eachPiece = 500

// ExecEach implements [sqlrepo.Session]. All but the one that begins the transaction
// go together, or in pieces where they are many.
func (s *session) ExecEach(ctx context.Context, query string, rows [][]any) (failed int, err error) {
	done := 0
	if len(rows) > 0 && (len(s.begin) > 0 || s.renew != nil || len(s.later) > 0) {
		if _, err := s.Exec(ctx, query, rows[0]...); err != nil {
			return 0, err
		}
		done = 1
	}
	query = s.words.numbered(query)
	for len(rows) > done {
		n, err := s.execPiece(ctx, query, rows[done:min(done+eachPiece, len(rows))])
		if done += n; err != nil {
			return min(done, len(rows)-1), err
		}
	}
	return 0, nil
}

// execPiece runs a statement for rows in one round trip, and tells for how many it went
// well.
func (s *session) execPiece(ctx context.Context, query string, rows [][]any) (done int, err error) {
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	if s.dead() {
		return 0, unreachable(nil)
	}
	var batch pgx.Batch
	for _, args := range rows {
		batch.Queue(query, escaped(args)...)
	}
	results := s.lent.Conn().SendBatch(ctx, &batch)
	for done < len(rows) {
		if _, err = results.Exec(); err != nil {
			break
		}
		done++
	}
	if cerr := results.Close(); err == nil {
		err = cerr
	}
	return done, s.fault(ctx, err)
}

// maxLater is how many writes wait for a statement to go with: the server's answers to
// all of them are read only when all have been sent.
const maxLater = 64

// ExecLater implements [sqlrepo.Session].
func (s *session) ExecLater(ctx context.Context, w sqlrepo.Write) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	if w.Absent != nil {
		// By the server, so that nothing after it is done, the commit least of all.
		w.Query = "WITH done AS (" + w.Query + " RETURNING 1) SELECT 1 / count(*) FROM done"
	}
	w.Query, w.Args = s.words.numbered(w.Query), slices.Clone(w.Args)
	for i, a := range w.Args { // as they are now
		if v, ok := a.(driver.Valuer); ok {
			var err error
			if w.Args[i], err = v.Value(); err != nil {
				s.failed = errors.Wrap(err, errors.Internal, "a value cannot be stored")
				return s.failed
			}
		}
	}
	w.Args = escaped(w.Args)
	if s.later = append(s.later, w); len(s.later) < maxLater {
		return nil
	}
	return s.flush(ctx)
}

// outcome is what a write fails with.
func (s *session) outcome(ctx context.Context, w *sqlrepo.Write, err error) error {
	var e *pgconn.PgError
	if errors.As(err, &e) && e.Code == divisionByZero && w.Absent != nil {
		return w.Absent
	}
	return w.Outcome(1, s.fault(ctx, err))
}

// divisionByZero is SQLSTATE 22012.
const divisionByZero = "22012"

// flush runs the writes that wait.
func (s *session) flush(ctx context.Context) error {
	if err := s.ready(ctx); err != nil || len(s.later) == 0 {
		return err
	}
	last := s.later[len(s.later)-1]
	s.later = s.later[:len(s.later)-1]
	rows, done, err := s.run(ctx, last.Query, last.Args)
	if err == nil {
		rows.Close()
		err = rows.Err()
		done()
	}
	if err == nil || s.failed != nil {
		return s.failed
	}
	s.failed = s.outcome(ctx, &last, err)
	return s.failed
}

// after is what a transaction fails with when its caller has done what it wanted: it may
// have taken the failure of an earlier write for the answer to a question.
func (s *session) after(err error) error {
	if s.failed != nil {
		return s.failed
	}
	return err
}

// Query implements [sqlrepo.Session].
func (s *session) Query(ctx context.Context, each func(sqlrepo.Row) error, query string, args ...any) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	rows, done, err := s.run(ctx, s.words.numbered(query), escaped(args))
	if err != nil {
		return s.fault(ctx, err)
	}
	defer done()
	return s.fault(ctx, eachRow(rows, each))
}

func eachRow(rows pgx.Rows, each func(sqlrepo.Row) error) error {
	for rows.Next() {
		if err := each(row{rows}); err != nil {
			return errors.Wrap(err, errors.Internal, "a stored row cannot be read")
		}
	}
	return rows.Err()
}

// run sends a statement, together with the transaction's beginning if it is the
// first, and with the writes that waited for it. done must be called once the rows
// have been read.
func (s *session) run(ctx context.Context, query string, args []any) (rows pgx.Rows, done func(), err error) {
	if s.dead() && s.renew == nil {
		return nil, nil, unreachable(nil)
	}
	if len(s.begin) == 0 && s.renew == nil && len(s.later) == 0 {
		if rows, err = s.lent.Conn().Query(ctx, query, args...); err != nil {
			return nil, nil, err
		}
		return rows, rows.Close, nil
	}
	for attempt := 1; ; attempt++ {
		if s.lent == nil {
			if s.lent, err = s.renew(ctx); err != nil {
				return nil, nil, err
			}
		}
		if rows, done, err = s.together(ctx, query, args); err == nil {
			s.begin, s.renew, s.later = nil, nil, nil
			return rows, done, nil
		}
		if !s.dead() {
			if len(s.later) > 0 && !s.wrote && s.failed == nil {
				s.failed = s.fault(ctx, err) // they were never sent
			}
			s.later = nil
			if s.began || len(s.begin) == 0 {
				s.begin, s.renew = nil, nil
			}
			return nil, nil, err
		}
		if s.renew == nil || attempt == attempts || ctx.Err() != nil {
			return nil, nil, err
		}
		// It had died since it was used; nothing has been done in it yet. It is
		// given back before another is taken: it may be the only one.
		s.lent.Release()
		s.lent = nil
	}
}

// together begins, runs the writes that waited, and sends a statement.
func (s *session) together(ctx context.Context, query string, args []any) (_ pgx.Rows, done func(), err error) {
	bounded, cancel := ctx, func() {}
	if len(s.begin) > 0 || s.renew != nil {
		bounded, cancel = context.WithTimeout(ctx, s.patience)
	}
	var batch pgx.Batch
	for _, b := range s.begin {
		batch.Queue(b)
	}
	for _, w := range s.later {
		batch.Queue(w.Query, w.Args...)
	}
	batch.Queue(query, args...)
	results := s.lent.Conn().SendBatch(bounded, &batch)
	defer func() {
		if err != nil {
			_ = results.Close()
			cancel()
		}
	}()
	s.began, s.wrote = s.began && len(s.begin) == 0, false
	for range s.begin {
		if _, err := results.Exec(); err != nil {
			return nil, nil, err
		}
	}
	s.began = s.began || len(s.begin) > 0
	for i := range s.later {
		if _, err := results.Exec(); err != nil {
			if !s.dead() {
				s.failed = s.outcome(ctx, &s.later[i], err)
			}
			return nil, nil, err
		}
	}
	s.wrote = true
	rows, err := results.Query()
	if err != nil {
		return nil, nil, err
	}
	return rows, func() { rows.Close(); _ = results.Close(); cancel() }, nil
}

// maxWords bounds the queries that are remembered. There are some hundreds; those
// that name many things at once come in as many lengths.
const maxWords = 2000

// words are queries as PostgreSQL has them, by how the repositories have them: a
// VM that is made takes dozens of them, of a page or two of text each.
type words struct {
	mu    sync.RWMutex
	known map[string]string
}

func (w *words) numbered(query string) string {
	w.mu.RLock()
	known, ok := w.known[query]
	full := len(w.known) >= maxWords
	w.mu.RUnlock()
	if ok {
		return known
	}
	own := numbered(query)
	if full {
		return own
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known == nil {
		w.known = map[string]string{}
	}
	w.known[query] = own // with those that came at the same time a few more than the bound
	return own
}

// numbered gives a query PostgreSQL's placeholders in the place of ?, which is
// nothing else in the repositories' queries.
func numbered(query string) string {
	if !strings.Contains(query, "?") {
		return query
	}
	var b strings.Builder
	b.Grow(len(query) + 32)
	n := 0
	for {
		i := strings.IndexByte(query, '?')
		if i < 0 {
			b.WriteString(query)
			return b.String()
		}
		n++
		b.WriteString(query[:i])
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(n))
		query = query[i+1:]
	}
}
