package postgres

import (
	"context"
	"crypto/rand"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage/internal/sqlrepo"
)

// channel is the name of what is listened to.
const channel = "aetherium_changes"

// listener hears of the commits of other processes.
type listener struct {
	cfg    *pgx.ConnConfig
	o      Options
	self   string // this process's own commits are announced without it
	events *sqlrepo.Signal
	keys   *sqlrepo.Signal

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// listen starts to listen; nothing of what is committed from then on is missed.
func listen(ctx context.Context, cfg *pgx.ConnConfig, o Options, events, keys *sqlrepo.Signal) (*listener, error) {
	l := &listener{cfg: cfg.Copy(), o: o, self: rand.Text(), events: events, keys: keys}
	// There is no statement to cancel while it waits.
	l.cfg.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn()}
	}
	conn, err := l.connect(ctx)
	if err != nil {
		return nil, err
	}
	background, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.wg.Go(func() { l.loop(background, conn) })
	return l, nil
}

func (l *listener) stop() {
	l.cancel()
	l.wg.Wait()
}

// tell gives the statement, if any, that tells others of a commit.
func (l *listener) tell(events, keys bool) string {
	what := ""
	if events {
		what += "e"
	}
	if keys {
		what += "k"
	}
	if what == "" {
		return ""
	}
	return "NOTIFY " + channel + ", '" + what + " " + l.self + "'"
}

func (l *listener) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, l.cfg)
	if err != nil {
		return nil, classify(err)
	}
	switch {
	case l.o.Alone:
		err = alone(ctx, conn, "pg_advisory_lock", l.o.Wait)
	case l.o.Among:
		err = alone(ctx, conn, "pg_advisory_lock_shared", l.o.Wait)
	}
	if err == nil {
		_, err = conn.Exec(ctx, "LISTEN "+channel)
	}
	if err != nil {
		return nil, errors.Join(classify(err), conn.Close(ctx))
	}
	return conn, nil
}

// alone takes the lock of the only server by a function of PostgreSQL's. One
// that ended or was killed a moment ago has a session that ends at any moment,
// and is waited for.
func alone(ctx context.Context, on interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, take string, wait time.Duration,
) error {
	if _, err := on.Exec(ctx, "SELECT set_config('lock_timeout', $1, false)", strconv.FormatInt(min(wait, 5*time.Second).Milliseconds(), 10)); err != nil {
		return classify(err)
	}
	_, err := on.Exec(ctx, "SELECT "+take+"($1)", int64(aloneLock))
	var e *pgconn.PgError
	if errors.As(err, &e) && e.Code == "55P03" {
		return errors.Wrap(err, errors.Conflict, "another server uses this database").WithHint("stop it first, or use a database of its own; gateways and workers that are processes of their own share one, aetherium-standalone does not")
	}
	return classify(err)
}

func (l *listener) loop(ctx context.Context, conn *pgx.Conn) {
	for {
		err := l.hear(ctx, conn)
		_ = conn.Close(ctx)
		if ctx.Err() != nil {
			return
		}
		l.o.Logger.Warn("the database tells of no changes at the moment", "error", err)
		if conn = l.again(ctx); conn == nil {
			return
		}
		// Whatever was told meanwhile was missed.
		l.events.Announce()
		l.keys.Announce()
	}
}

// hear announces what is told until the connection breaks.
func (l *listener) hear(ctx context.Context, conn *pgx.Conn) error {
	for {
		n, err := l.next(ctx, conn)
		if err != nil {
			return classify(err)
		}
		what, from, _ := strings.Cut(n.Payload, " ")
		if from == l.self {
			continue
		}
		if strings.Contains(what, "e") {
			l.events.Announce()
		}
		if strings.Contains(what, "k") {
			l.keys.Announce()
		}
	}
}

// next waits for what is told next. A connection that is silent is tried every now
// and then: one that was dropped on its way tells nothing, and has no error for minutes.
func (l *listener) next(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	for {
		wait, stop := context.WithTimeout(ctx, l.o.Alive)
		n, err := conn.WaitForNotification(wait)
		silent := wait.Err() != nil && ctx.Err() == nil
		stop()
		if err == nil || !silent {
			return n, err
		}
		try, stop := context.WithTimeout(ctx, 2*l.o.Alive)
		err = conn.Ping(try)
		stop()
		if err != nil {
			return nil, err
		}
	}
}

// again connects once more, however long it takes; nil when ctx ends.
func (l *listener) again(ctx context.Context) *pgx.Conn {
	const longest = 5 * time.Second
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, longest) {
		if conn, err := l.connect(ctx); err == nil {
			return conn
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}
