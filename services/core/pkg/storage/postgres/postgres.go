package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/internal/sqlrepo"
)

// Options tune a store; the zero value is good.
type Options struct {
	// Readers bounds concurrent read transactions, each of which has a
	// connection; 0: pool_max_conns of the URL, else twice the CPUs, at least 4.
	// There are two more, for writing and for being told of changes.
	Readers int
	// Wait is how long a transaction waits for a connection or for its turn; 0: 30 s.
	Wait time.Duration
	// Turn is how long a writing transaction may do nothing; 0: 10 s.
	Turn time.Duration
	// Alone refuses a database that another store was opened for with Alone, and
	// keeps others from it: of a server that is to be the only one.
	Alone bool
	// Among is for one of several servers: it keeps those from the database that
	// are to be alone with it.
	Among bool
	// Logger gets faults of background work; nil: slog.Default().
	Logger *slog.Logger
}

func (o Options) withDefaults(params url.Values) Options {
	if n, err := strconv.Atoi(params.Get("pool_max_conns")); err == nil && o.Readers <= 0 {
		o.Readers = n
	}
	if o.Readers <= 0 {
		o.Readers = max(4, 2*runtime.GOMAXPROCS(0))
	}
	if o.Wait <= 0 {
		o.Wait = 30 * time.Second
	}
	if o.Turn <= 0 {
		o.Turn = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// The advisory locks, of this database and no other.
const (
	turnLock      = 0x61657468_00000001 // held by the transaction that writes
	migrationLock = 0x61657468_00000002 // held by the session that migrates
	aloneLock     = 0x61657468_00000003 // held by the listening session of the only server, or shared by those of several
)

// attempts bounds how often a transaction is begun: connections of a pool may
// have died since they were used.
const attempts = 3

// Store implements [storage.Store].
type Store struct {
	o        Options
	writer   *pgxpool.Pool // of one connection: the turns of this process
	readers  *pgxpool.Pool
	listener *listener

	closing chan struct{} // closed by the first Close
	closed  chan struct{} // closed when all is let go of
	shut    sync.Once

	changed     sqlrepo.Signal
	keysChanged sqlrepo.Signal
}

var _ storage.Store = (*Store)(nil)

// IsURL reports whether a database is named as one of PostgreSQL.
func IsURL(database string) bool {
	return strings.HasPrefix(database, "postgres://") || strings.HasPrefix(database, "postgresql://")
}

// CheckURL returns InvalidArgument for what is no URL of PostgreSQL.
func CheckURL(database string) error {
	_, _, err := parse(database)
	return err
}

// Open opens a database and brings its schema up to date. Returns Conflict when
// its schema is newer than this program knows or another server is to be alone
// with it, InvalidArgument for a URL that is none, Unavailable when the database
// cannot be reached.
func Open(ctx context.Context, database string, o Options) (*Store, error) {
	cfg, params, err := parse(database)
	if err != nil {
		return nil, err
	}
	s := &Store{o: o.withDefaults(params), closing: make(chan struct{}), closed: make(chan struct{})}
	if s.listener, err = listen(ctx, cfg.ConnConfig, s.o, &s.changed, &s.keysChanged); err != nil {
		return nil, err
	}
	if err := migrate(ctx, database); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.connect(ctx, cfg); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func migrate(ctx context.Context, database string) error {
	m, err := OpenMigrator(database)
	if err != nil {
		return err
	}
	_, err = m.Up(ctx)
	return errors.Join(err, m.Close())
}

func (s *Store) connect(ctx context.Context, cfg *pgxpool.Config) (err error) {
	pool := func(size int, params map[string]string) (*pgxpool.Pool, error) {
		c := cfg.Copy()
		maps.Copy(c.ConnConfig.RuntimeParams, params)
		c.MaxConns, c.MinConns = int32(max(1, min(size, 1000))), 0
		p, err := pgxpool.NewWithConfig(ctx, c)
		return p, classify(err)
	}
	if s.writer, err = pool(1, map[string]string{
		"lock_timeout": millis(s.o.Wait), "idle_in_transaction_session_timeout": millis(s.o.Turn),
	}); err != nil {
		return err
	}
	if s.readers, err = pool(s.o.Readers, nil); err != nil {
		return err
	}
	return s.Ping(ctx)
}

// millis is a duration as PostgreSQL's settings have it.
func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// parse reads a URL and adds what sessions of the store need, unless the URL says otherwise.
func parse(database string) (*pgxpool.Config, url.Values, error) {
	// The parser's own message may repeat parts of what was given, a password
	// among them.
	bad := errors.New(errors.InvalidArgument, "the database is not a URL of PostgreSQL").WithField("database").
		WithHint("such as postgres://user:password@host:5432/aetherium?sslmode=verify-full, with special characters of the password as %%XX")
	if !IsURL(database) {
		return nil, nil, bad
	}
	u, err := url.Parse(database)
	if err != nil {
		return nil, nil, bad
	}
	cfg, err := pgxpool.ParseConfig(database)
	if err != nil {
		return nil, nil, bad
	}
	c := cfg.ConnConfig
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 5 * time.Second
	}
	for name, v := range map[string]string{
		"application_name": "aetherium", "jit": "off", "statement_timeout": "60s", "lock_timeout": "30s", "idle_in_transaction_session_timeout": "60s",
	} {
		if _, given := c.RuntimeParams[name]; !given {
			c.RuntimeParams[name] = v
		}
	}
	// A context that ends cancels the statement and leaves the connection alone,
	// unless the server says nothing any more.
	c.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 5 * time.Second}
	}
	return cfg, u.Query(), nil
}

// View implements [storage.Store]. Its transaction begins in one round trip with
// its first statement, and nobody waits for its end.
func (s *Store) View(ctx context.Context, f func(storage.Tx) error) error {
	c, err := s.take(ctx, s.readers, "")
	if err != nil {
		return err
	}
	sess := &session{conn: c.Conn(), begin: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"}
	sess.renew = func(ctx context.Context) error {
		fresh, err := s.take(ctx, s.readers, "")
		if err == nil {
			release(c)
			c, sess.conn = fresh, fresh.Conn()
		}
		return err
	}
	defer func() {
		sess.over = true
		if c.Conn().PgConn().TxStatus() == 'I' {
			c.Release()
			return
		}
		go release(c)
	}()
	if err := f(sqlrepo.NewTx(sess)); err != nil {
		return err
	}
	if c.Conn().PgConn().TxStatus() == 'E' {
		return errWentOn()
	}
	return nil
}

func errWentOn() error {
	return errors.New(errors.Internal, "a transaction went on after an error, and was rolled back")
}

// Update implements [storage.Store].
func (s *Store) Update(ctx context.Context, f func(storage.Tx) error) error {
	begin := fmt.Sprintf("BEGIN; SELECT pg_advisory_xact_lock(%d)", turnLock)
	var wrote, wroteKeys bool
	err := s.run(ctx, s.writer, begin, func(tx *sqlrepo.Tx) (string, error) {
		if err := f(tx); err != nil {
			return "", err
		}
		wrote, wroteKeys = tx.Wrote(), tx.WroteKeys()
		return s.listener.tell(wrote, wroteKeys), nil
	})
	// After an error it is not certain what became of the commit, and to look
	// once more costs little.
	if wrote {
		s.changed.Announce()
	}
	if wroteKeys {
		s.keysChanged.Announce()
	}
	return err
}

// Heartbeat implements [storage.Store]. What it writes is in nobody's way: the
// row's own lock is enough.
func (s *Store) Heartbeat(ctx context.Context, worker domain.ID) (sign storage.Sign, err error) {
	err = s.run(ctx, s.readers, "BEGIN", func(tx *sqlrepo.Tx) (string, error) {
		sign, err = tx.Workers().Seen(ctx, worker)
		return "", err
	})
	return sign, err
}

// take gives a connection with a transaction that has begun, or is to begin
// where begin is empty.
func (s *Store) take(ctx context.Context, from *pgxpool.Pool, begin string) (*pgxpool.Conn, error) {
	wait, cancel := context.WithTimeout(ctx, s.o.Wait)
	defer cancel()
	for attempt := 1; ; attempt++ {
		select {
		case <-s.closing:
			return nil, errors.New(errors.Unavailable, "the store is closed")
		default:
		}
		if err := ctx.Err(); err != nil {
			return nil, errors.Public(err)
		}
		c, err := from.Acquire(wait)
		if err == nil {
			if begin == "" {
				return c, nil
			}
			if _, err = c.Conn().PgConn().Exec(wait, begin).ReadAll(); err == nil {
				return c, nil
			}
			died := c.Conn().IsClosed()
			release(c)
			if died && attempt < attempts && wait.Err() == nil {
				continue // nothing has been done in it yet
			}
		}
		select {
		case <-s.closing:
			return nil, errors.New(errors.Unavailable, "the store is closed")
		default:
		}
		switch {
		case ctx.Err() != nil:
			return nil, errors.Public(ctx.Err())
		case wait.Err() != nil:
			return nil, errors.Wrap(err, errors.Unavailable, "the database is busy").WithHint("others write for long, or a process holds a transaction open")
		}
		return nil, classify(err)
	}
}

// release ends a transaction that may be open and gives the connection back.
// That must happen whatever became of the context.
func release(c *pgxpool.Conn) {
	if conn := c.Conn(); !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, _ = conn.PgConn().Exec(ctx, "ROLLBACK").ReadAll() // else the pool closes the connection
	}
	c.Release()
}

// run executes f between begin and COMMIT on a connection of a pool. Right
// before the commit comes what f returns, in the same round trip.
func (s *Store) run(ctx context.Context, on *pgxpool.Pool, begin string, f func(*sqlrepo.Tx) (string, error)) error {
	c, err := s.take(ctx, on, begin)
	if err != nil {
		return err
	}
	sess := &session{conn: c.Conn()}
	defer func() {
		sess.over = true
		release(c)
	}()
	last, err := f(sqlrepo.NewTx(sess))
	if err != nil {
		return err
	}
	if err := sess.ready(ctx); err != nil {
		return err
	}
	results, err := c.Conn().PgConn().Exec(ctx, last+"COMMIT").ReadAll()
	if err != nil {
		return sess.fault(ctx, err)
	}
	// A transaction that is void is rolled back by COMMIT, without an error.
	if results[len(results)-1].CommandTag.String() != "COMMIT" {
		return errWentOn()
	}
	return nil
}

// KeysVersion implements [storage.Store]: other processes write here, too.
func (s *Store) KeysVersion() uint64 { return 0 }

// Changed implements [storage.Store].
func (s *Store) Changed() <-chan struct{} { return s.changed.Channel() }

// KeysChanged implements [storage.Store].
func (s *Store) KeysChanged() <-chan struct{} { return s.keysChanged.Channel() }

// Ping implements [storage.Store].
func (s *Store) Ping(ctx context.Context) error {
	return s.View(ctx, func(tx storage.Tx) error {
		_, _, err := tx.Outbox().Bounds(ctx)
		return err
	})
}

// Close implements [storage.Store].
func (s *Store) Close() error {
	s.shut.Do(func() {
		close(s.closing)
		defer close(s.closed)
		s.listener.stop()
		for _, p := range []*pgxpool.Pool{s.writer, s.readers} {
			if p != nil {
				p.Close()
			}
		}
	})
	<-s.closed
	return nil
}

// session runs a transaction's statements.
type session struct {
	conn *pgx.Conn
	over bool // the transaction has ended

	begin string                      // goes before the first statement; empty: it has begun
	renew func(context.Context) error // takes another connection in the place of one that has died
}

var _ sqlrepo.Session = (*session)(nil)

func (s *session) ready(ctx context.Context) error {
	if s.over {
		return errors.New(errors.Internal, "a transaction was used after its end")
	}
	if err := ctx.Err(); err != nil {
		return errors.Public(err)
	}
	return nil
}

// fault classifies an error of a statement.
func (s *session) fault(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return errors.Public(ctx.Err())
	}
	if own := classify(err); err == nil || !s.conn.IsClosed() || errors.CodeOf(own) != errors.Internal {
		return own
	}
	return unreachable(err)
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
	if s.begin != "" {
		if _, err := s.conn.Exec(ctx, s.begin); err != nil {
			return 0, s.fault(ctx, err)
		}
		s.begin = ""
	}
	tag, err := s.conn.Exec(ctx, numbered(query), escaped(args)...)
	return tag.RowsAffected(), s.fault(ctx, err)
}

// Query implements [sqlrepo.Session].
func (s *session) Query(ctx context.Context, each func(sqlrepo.Row) error, query string, args ...any) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	rows, done, err := s.query(ctx, numbered(query), escaped(args))
	if err != nil {
		return s.fault(ctx, err)
	}
	defer done()
	for rows.Next() {
		if err := each(row{rows}); err != nil {
			return errors.Wrap(err, errors.Internal, "a stored row cannot be read")
		}
	}
	return s.fault(ctx, rows.Err())
}

// query sends a statement, together with the transaction's beginning if it is
// the first. done must be called once the rows have been read.
func (s *session) query(ctx context.Context, query string, args []any) (rows pgx.Rows, done func(), err error) {
	if s.begin == "" {
		if rows, err = s.conn.Query(ctx, query, args...); err != nil {
			return nil, nil, err
		}
		return rows, rows.Close, nil
	}
	for attempt := 1; ; attempt++ {
		var both pgx.Batch
		both.Queue(s.begin)
		both.Queue(query, args...)
		results := s.conn.SendBatch(ctx, &both)
		if _, err = results.Exec(); err == nil {
			s.begin = ""
			if rows, err = results.Query(); err == nil {
				return rows, func() { rows.Close(); _ = results.Close() }, nil
			}
		}
		_ = results.Close()
		if s.begin == "" || !s.conn.IsClosed() || attempt == attempts || ctx.Err() != nil {
			return nil, nil, err
		}
		// It had died since it was used; nothing has been done in it yet.
		if err := s.renew(ctx); err != nil {
			return nil, nil, err
		}
	}
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
