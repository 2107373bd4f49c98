package postgres

import (
	"context"
	"log/slog"
	"maps"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
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
	// Alive is how long the connection that is told of changes may be silent before
	// it is tried; 0: 5 s.
	Alive time.Duration
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
	if o.Alive <= 0 {
		o.Alive = 5 * time.Second
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

// Store implements [storage.Store].
type Store struct {
	o        Options
	writer   *pgxpool.Pool // of one connection: the turns of this process
	readers  *pgxpool.Pool
	listener *listener

	baton   chan struct{} // filled by who has the turn of this process
	waiting atomic.Int32  // who waits for it to do something
	turn    *turn         // the one that others may join; of who has the baton
	// shareFor is how long after its beginning.
	shareFor time.Duration

	closing chan struct{} // closed by the first Close
	closed  chan struct{} // closed when all is let go of
	shut    sync.Once

	words words

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
	s := &Store{o: o.withDefaults(params), baton: make(chan struct{}, 1), shareFor: shareFor, closing: make(chan struct{}), closed: make(chan struct{})}
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
	sess, err := s.session(ctx, s.readers, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	if err != nil {
		return err
	}
	defer sess.end(true)
	if err := sess.after(f(sqlrepo.NewTx(sess, new(sqlrepo.Pending)))); err != nil {
		return err
	}
	if err := sess.flush(ctx); err != nil { // it is refused
		return err
	}
	return sess.void()
}

// Read implements [storage.Store].
func (s *Store) Read(ctx context.Context, f func(storage.Tx) error) error {
	sess, err := s.session(ctx, s.readers)
	if err != nil {
		return err
	}
	defer sess.end(false)
	return f(sqlrepo.NewTx(&sqlrepo.Single{Session: sess}, new(sqlrepo.Pending)))
}

// Aside implements [storage.Store]: the rows' own locks are enough.
func (s *Store) Aside(ctx context.Context, f func(storage.Tx) error) error {
	sess, err := s.session(ctx, s.readers, "BEGIN")
	if err != nil {
		return err
	}
	defer sess.end(false)
	tx := sqlrepo.NewTx(sess, new(sqlrepo.Pending))
	if err := sess.after(f(tx)); err != nil {
		return err
	}
	if tx.Wrote() || tx.WroteKeys() {
		return errors.New(errors.Internal, "events and keys are changed in a turn")
	}
	if err := sess.flush(ctx); err != nil {
		return err
	}
	if err := sess.void(); err != nil {
		return err
	}
	_, err = sess.Exec(ctx, "COMMIT")
	return err
}

// session takes a connection on which begin is to go before the first statement.
func (s *Store) session(ctx context.Context, from *pgxpool.Pool, begin ...string) (*session, error) {
	c, err := s.take(ctx, from)
	if err != nil {
		return nil, err
	}
	return &session{
		words: &s.words,
		lent:  c, begin: begin, patience: s.o.Wait + grace,
		renew: func(ctx context.Context) (*pgxpool.Conn, error) { return s.take(ctx, from) },
	}, nil
}

// take waits for a connection.
func (s *Store) take(ctx context.Context, from *pgxpool.Pool) (*pgxpool.Conn, error) {
	wait, cancel := context.WithTimeout(ctx, s.o.Wait)
	defer cancel()
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	c, err := from.Acquire(wait)
	if err == nil {
		return c, nil
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	if wait.Err() != nil {
		return nil, busy(err)
	}
	return nil, classify(err)
}

// open returns an error when the store is closed or the caller has gone.
func (s *Store) open(ctx context.Context) error {
	select {
	case <-s.closing:
		return errors.New(errors.Unavailable, "the store is closed")
	default:
	}
	if err := ctx.Err(); err != nil {
		return errors.Public(err)
	}
	return nil
}

func busy(err error) error {
	return errors.Wrap(err, errors.Unavailable, "the database is busy").WithHint("others write for long, or a process holds a transaction open")
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
