package postgres_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/pgtest"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
)

func appendEvent(t *testing.T, tx storage.Tx, subject domain.ID) error {
	t.Helper()
	return tx.Outbox().Append(t.Context(), &domain.Event{Type: "t", Subject: subject, At: time.Unix(1, 0)})
}

func set(t *testing.T, key, value string) func(storage.Tx) error {
	t.Helper()
	return func(tx storage.Tx) error { return tx.Settings().Set(t.Context(), key, value) }
}

// ownServer is a database server that may be killed.
func ownServer(t *testing.T) *pgtest.Server {
	t.Helper()
	own, err := pgtest.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := own.Stop(); err != nil {
			t.Error(err)
		}
	})
	return own
}

// waiting tells how many sessions wait for an advisory lock.
func waiting(t *testing.T, conn *pgx.Conn) (n int) {
	t.Helper()
	err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
		WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted`).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func connect(t *testing.T, database string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return conn
}

// Of two processes that write events, the one that has its number first commits
// first, and a reader that goes on from the newest it has seen misses none.
func TestCursorsNeverPassOverACommit(t *testing.T) {
	t.Parallel()
	database := server.Database(t)
	early, late, reader := open(t, database), open(t, database), open(t, database)
	var after int64
	var seen []domain.ID
	read := func() {
		t.Helper()
		if err := reader.View(t.Context(), func(tx storage.Tx) error {
			es, err := tx.Outbox().List(t.Context(), storage.EventFilter{After: after})
			for _, e := range es {
				after = e.Seq
				seen = append(seen, e.Subject)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	first, second := domain.NewID(), domain.NewID()
	conn := connect(t, database)
	var wg sync.WaitGroup
	done := make(chan struct{})
	if err := early.Update(t.Context(), func(tx storage.Tx) error {
		if err := appendEvent(t, tx, first); err != nil {
			return err
		}
		if _, _, err := tx.Outbox().Bounds(t.Context()); err != nil { // it has its number
			return err
		}
		wg.Go(func() { // would commit before, if it could
			defer close(done)
			if err := late.Update(t.Context(), func(tx storage.Tx) error { return appendEvent(t, tx, second) }); err != nil {
				t.Error(err)
			}
		})
		for waiting(t, conn) == 0 {
			select {
			case <-done:
				t.Error("a transaction with a later number committed first")
				return nil
			default:
			}
		}
		read()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	read()
	if len(seen) != 2 || seen[0] != first || seen[1] != second {
		t.Errorf("a reader saw %v of %v, %v", seen, first, second)
	}
}

// Many processes write at once while one reads: it sees every event, once, in order.
func TestManyProcessesAndAReader(t *testing.T) {
	t.Parallel()
	const writers, each = 4, 30
	database := server.Database(t)
	var wg sync.WaitGroup
	for range writers {
		s := open(t, database)
		wg.Go(func() {
			for range each {
				err := s.Update(t.Context(), func(tx storage.Tx) error {
					n, err := tx.Settings().Init(t.Context(), "n", "0")
					if err != nil {
						return err
					}
					var count int
					if _, err := fmt.Sscan(n, &count); err != nil {
						return err
					}
					if err := tx.Outbox().Append(t.Context(), &domain.Event{Type: "t", Data: fmt.Append(nil, count), At: time.Unix(1, 0)}); err != nil {
						return err
					}
					return tx.Settings().Set(t.Context(), "n", fmt.Sprint(count+1))
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	reader := open(t, database)
	next, after := 0, int64(0)
	for next < writers*each && !t.Failed() {
		changed := reader.Changed()
		n := next
		if err := reader.View(t.Context(), func(tx storage.Tx) error {
			es, err := tx.Outbox().List(t.Context(), storage.EventFilter{After: after})
			for _, e := range es {
				if string(e.Data) != fmt.Sprint(next) {
					t.Errorf("event %s in the place of %d", e.Data, next)
				}
				next, after = next+1, e.Seq
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if n == next {
			select { // told by the other processes
			case <-changed:
			case <-t.Context().Done():
				t.Fatal("never told of an event")
			}
		}
	}
	wg.Wait()
}

func TestOthersAreToldOfKeys(t *testing.T) {
	t.Parallel()
	database := server.Database(t)
	a, b := open(t, database), open(t, database)
	told, events := b.KeysChanged(), b.Changed()
	if err := a.Update(t.Context(), func(tx storage.Tx) error {
		return tx.Users().Insert(t.Context(), &domain.User{ID: domain.NewID(), Name: "u", CreatedAt: time.Unix(1, 0), UpdatedAt: time.Unix(1, 0)})
	}); err != nil {
		t.Fatal(err)
	}
	<-told
	select {
	case <-events:
		t.Error("told of events, and there are none")
	default:
	}
	if a.KeysVersion() != 0 {
		t.Error("keys are remembered while others can change them")
	}
}

// A process that stops inside of a transaction does not stop the others for
// ever, and what it does when it goes on comes to nothing.
func TestATurnEnds(t *testing.T) {
	t.Parallel()
	database := server.Database(t)
	o := quiet()
	o.Turn = 3 * time.Second // long enough to do something in it on a busy host
	slow, err := postgres.Open(t.Context(), database, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slow.Close() })
	other := open(t, database)
	err = slow.Update(t.Context(), func(tx storage.Tx) error {
		if err := set(t, "a", "slow")(tx); err != nil {
			return err
		}
		return other.Update(t.Context(), set(t, "b", "other")) // waits for the turn
	})
	if !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("the slow one: %v", err)
	}
	if err := other.View(t.Context(), func(tx storage.Tx) error {
		if v, err := tx.Settings().Get(t.Context(), "a"); !errors.HasCode(err, errors.NotFound) {
			t.Errorf("the slow one wrote %q, %v", v, err)
		}
		_, err := tx.Settings().Get(t.Context(), "b")
		return err
	}); err != nil {
		t.Error(err)
	}
	if err := slow.Update(t.Context(), set(t, "a", "again")); err != nil {
		t.Errorf("the slow one afterwards: %v", err)
	}
}

func TestWaitingForATurnEnds(t *testing.T) {
	t.Parallel()
	database := server.Database(t)
	holder := open(t, database)
	o := quiet()
	o.Wait = 3 * time.Second // long enough to connect on a busy host
	s, err := postgres.Open(t.Context(), database, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := holder.Update(t.Context(), func(tx storage.Tx) error {
		if err := set(t, "b", "1")(tx); err != nil {
			return err
		}
		if err := s.Update(t.Context(), set(t, "a", "1")); !errors.HasCode(err, errors.Unavailable) {
			t.Errorf("waiting for another process: %v", err)
		}
		return holder.Ping(t.Context()) // reads go on
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(t.Context(), set(t, "a", "1")); err != nil {
		t.Error(err)
	}
}

// What went on after an error of the database is void, and says so.
func TestVoidTransactions(t *testing.T) {
	t.Parallel()
	s := open(t, server.Database(t))
	p := &domain.Project{ID: domain.NewID(), Name: "p", CreatedAt: time.Unix(1, 0)}
	insert := func(tx storage.Tx) error { return tx.Projects().Insert(t.Context(), p) }
	if err := s.Update(t.Context(), insert); err != nil {
		t.Fatal(err)
	}
	err := s.Update(t.Context(), func(tx storage.Tx) error {
		if err := insert(tx); !errors.HasCode(err, errors.AlreadyExists) {
			t.Errorf("twice: %v", err)
		}
		return nil
	})
	if !errors.HasCode(err, errors.Internal) {
		t.Errorf("got %v", err)
	}
}

// The server goes away in a transaction and comes back: nothing that was
// committed is lost, nothing else is there, and nobody has to be restarted.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	own := ownServer(t)
	database := own.URL("postgres")
	s := open(t, database)
	if err := s.Update(t.Context(), set(t, "kept", "1")); err != nil {
		t.Fatal(err)
	}
	changed := s.Changed()
	err := s.Update(t.Context(), func(tx storage.Tx) error {
		if err := set(t, "lost", "1")(tx); err != nil {
			return err
		}
		if err := own.Kill(); err != nil {
			return err
		}
		return set(t, "lost", "2")(tx)
	})
	if !errors.HasCode(err, errors.Unavailable) || errors.Public(err).Hint == "" {
		t.Errorf("gone in a transaction: %v", err)
	}
	for what, err := range map[string]error{"Update": s.Update(t.Context(), set(t, "lost", "3")), "Ping": s.Ping(t.Context())} {
		if !errors.HasCode(err, errors.Unavailable) {
			t.Errorf("%s while the server is away: %v", what, err)
		}
	}
	if err := own.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.View(t.Context(), func(tx storage.Tx) error {
		if v, err := tx.Settings().Get(t.Context(), "lost"); !errors.HasCode(err, errors.NotFound) {
			t.Errorf("what was not committed is there: %q, %v", v, err)
		}
		_, err := tx.Settings().Get(t.Context(), "kept")
		return err
	}); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	if err := s.Update(t.Context(), set(t, "new", "1")); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	<-changed // whoever waits looks once more, as it was told nothing meanwhile
	other := open(t, database)
	changed = s.Changed()
	if err := other.Update(t.Context(), func(tx storage.Tx) error { return appendEvent(t, tx, domain.NewID()) }); err != nil {
		t.Fatal(err)
	}
	<-changed
}
