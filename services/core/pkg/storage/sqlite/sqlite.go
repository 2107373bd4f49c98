package sqlite

import (
	"context"
	"database/sql"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	_ "modernc.org/sqlite" // registers the driver under the name "sqlite"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/internal/sqlrepo"
)

// Options tune a store; the zero value is good.
type Options struct {
	// Readers bounds concurrent read transactions; 0: twice the CPUs, at least 4.
	Readers int
	// BusyTimeout is how long to wait for another process's lock; 0: 5 s.
	BusyTimeout time.Duration
	// Now is the database's clock; nil: time.Now.
	Now func() time.Time
	// Logger gets faults of background work; nil: slog.Default().
	Logger *slog.Logger
}

// Store implements [storage.Store].
type Store struct {
	db     *sql.DB
	writer chan *conn // holds the one writing connection while it is free
	reader chan *conn // holds free reading connections
	checks *checkpointer
	log    *slog.Logger
	now    func() time.Time

	closing  chan struct{} // closed by the first Close
	closed   chan struct{} // closed when all is let go of
	shut     sync.Once
	closeErr error

	keys atomic.Uint64 // commits that changed what anybody may do

	changed     sqlrepo.Signal
	keysChanged sqlrepo.Signal
}

var _ storage.Store = (*Store)(nil)

// Open opens the database file, makes it when it is absent (mode 0600), and
// brings its schema up to date. Returns Conflict when the file's schema is
// newer than this program knows, Unavailable when the file cannot be used.
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	if o.Readers <= 0 {
		o.Readers = max(4, 2*runtime.GOMAXPROCS(0))
	}
	if o.BusyTimeout <= 0 {
		o.BusyTimeout = 5 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	m, err := OpenMigrator(path, o)
	if err != nil {
		return nil, err
	}
	_, err = m.Up(ctx)
	if cerr := m.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	db, err := openDB(path, o)
	if err != nil {
		return nil, err
	}
	s := &Store{
		db:      db,
		writer:  make(chan *conn, 1),
		reader:  make(chan *conn, o.Readers),
		log:     o.Logger,
		now:     o.Now,
		closing: make(chan struct{}),
		closed:  make(chan struct{}),
	}
	if err := s.connect(ctx, o); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// connect makes all connections; none is opened or closed later.
func (s *Store) connect(ctx context.Context, o Options) error {
	w, err := newConn(ctx, s.db, "PRAGMA wal_autocheckpoint = 0")
	if err != nil {
		return err
	}
	s.writer <- w
	for range o.Readers {
		r, err := newConn(ctx, s.db, "PRAGMA query_only = 1")
		if err != nil {
			return err
		}
		s.reader <- r
	}
	// A checkpoint that makes the writer wait gives up soon when a reader is in its way.
	c, err := newConn(ctx, s.db, "PRAGMA busy_timeout = 20")
	if err != nil {
		return err
	}
	s.checks = startCheckpointer(c, s.log)
	return nil
}

// prepareFile makes the file with its mode before SQLite opens it; SQLite
// gives the files beside it (-wal, -shm) the same mode.
func prepareFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "the database file cannot be opened").
			WithHint("check that the data directory exists and can be written to")
	}
	return nil
}

func openDB(path string, o Options) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the database path cannot be resolved")
	}
	q := url.Values{}
	// Waiting for locks comes first: switching to WAL may have to wait.
	q.Set("_busy_timeout", strconv.FormatInt(o.BusyTimeout.Milliseconds(), 10))
	q.Set("_journal_mode", "WAL")
	q.Set("_synchronous", "NORMAL")
	q.Set("_foreign_keys", "1")
	q.Add("_pragma", "temp_store(MEMORY)")
	q.Add("_pragma", "cache_size(-16384)") // KiB for each connection, used as needed
	q.Add("_pragma", "trusted_schema(0)")
	dsn := (&url.URL{Scheme: "file", Path: abs, RawQuery: q.Encode()}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the database cannot be opened")
	}
	db.SetMaxIdleConns(o.Readers + 2)
	return db, nil
}

// View implements [storage.Store].
func (s *Store) View(ctx context.Context, f func(storage.Tx) error) error {
	c, err := s.take(ctx, s.reader)
	if err != nil {
		return err
	}
	defer func() { s.reader <- c }()
	return s.run(ctx, c, "BEGIN", func(tx *sqlrepo.Tx) error { return f(tx) })
}

// Read implements [storage.Store].
func (s *Store) Read(ctx context.Context, f func(storage.Tx) error) error {
	c, err := s.take(ctx, s.reader)
	if err != nil {
		return err
	}
	sess := &session{conn: c, now: s.now}
	defer func() {
		sess.over = true
		s.reader <- c
	}()
	return f(sqlrepo.NewTx(&sqlrepo.Single{Session: sess}, new(sqlrepo.Pending)))
}

// Update implements [storage.Store].
func (s *Store) Update(ctx context.Context, f func(storage.Tx) error) error {
	c, err := s.take(ctx, s.writer)
	if err != nil {
		return err
	}
	wrote, wroteKeys := false, false
	defer func() {
		if wroteKeys {
			s.keys.Add(1)
		}
		s.writer <- c
		if wrote {
			s.changed.Announce()
		}
		if wroteKeys {
			s.keysChanged.Announce()
		}
	}()
	err = s.run(ctx, c, "BEGIN IMMEDIATE", func(tx *sqlrepo.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		wrote, wroteKeys = tx.Wrote(), tx.WroteKeys()
		return nil
	})
	if err != nil {
		wrote = false // but what became of keys is not certain
		return err
	}
	s.checks.committed()
	return nil
}

// Aside implements [storage.Store]: one connection writes.
func (s *Store) Aside(ctx context.Context, f func(storage.Tx) error) error { return s.Update(ctx, f) }

// take waits for a free connection.
func (s *Store) take(ctx context.Context, from chan *conn) (*conn, error) {
	// Closing wins over a free connection, and a dead context over both.
	select {
	case <-s.closing:
		return nil, errors.New(errors.Unavailable, "the store is closed")
	default:
	}
	if err := ctx.Err(); err != nil {
		return nil, errors.Public(err)
	}
	select {
	case c := <-from:
		return c, nil
	case <-ctx.Done():
		return nil, errors.Public(ctx.Err())
	case <-s.closing:
		return nil, errors.New(errors.Unavailable, "the store is closed")
	}
}

// run executes f between begin and COMMIT on a connection.
func (s *Store) run(ctx context.Context, c *conn, begin string, f func(*sqlrepo.Tx) error) (err error) {
	sess := &session{conn: c, now: s.now}
	if _, err := sess.Exec(ctx, begin); err != nil {
		return err
	}
	done := false
	defer func() {
		if done {
			return
		}
		// f failed or panicked, or the commit failed. The rollback must happen
		// whatever became of the context. SQLite rolls back by itself on some
		// errors, and then has no transaction left to roll back.
		sess.over = true
		if rerr := c.rollback(); rerr != nil {
			s.log.Error("rolling a transaction back failed", "error", rerr)
		}
	}()
	tx := sqlrepo.NewTx(sess, new(sqlrepo.Pending))
	if err := f(tx); sess.failed != nil {
		return sess.failed
	} else if err != nil {
		return err
	}
	if err := tx.Flush(ctx); err != nil {
		return err
	}
	if _, err := sess.Exec(ctx, "COMMIT"); err != nil {
		return err
	}
	sess.over = true
	done = true
	return nil
}

// KeysVersion implements [storage.Store]. No other process writes here: who
// opens the store holds the data directory.
func (s *Store) KeysVersion() uint64 { return s.keys.Load() + 1 }

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
		s.checks.stop()
		errs := []error{s.checks.conn.close()}
		for range cap(s.reader) {
			errs = append(errs, (<-s.reader).close())
		}
		errs = append(errs, (<-s.writer).close(), s.db.Close())
		if err := errors.Join(errs...); err != nil {
			s.closeErr = errors.Wrap(err, errors.Internal, "closing the database failed")
		}
	})
	<-s.closed
	return s.closeErr
}
