package dbclock_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/dbclock"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
)

// database is one whose clock is ahead of this host's.
type database struct {
	storage.Store
	ahead atomic.Int64
}

func newDatabase(t *testing.T, ahead time.Duration) *database {
	t.Helper()
	d := new(database)
	d.ahead.Store(int64(ahead))
	var err error
	d.Store, err = sqlitetest.Open(t.Context(), filepath.Join(t.TempDir(), "db"), sqlite.Options{
		Now: func() time.Time { return time.Now().Add(time.Duration(d.ahead.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// between fails unless the clock tells a time that the database's was since an
// earlier one, or will be in as long as a look has taken.
func (d *database) between(t *testing.T, c *dbclock.Clock, since time.Time, look time.Duration) {
	t.Helper()
	// A database's time is in microseconds.
	if now := c.Now(); now.Before(since.Add(-time.Microsecond)) || now.After(d.now().Add(look+time.Microsecond)) {
		t.Fatalf("it is %s, and was between %s and %s", now, since, d.now())
	}
}

func (d *database) now() time.Time { return time.Now().Add(time.Duration(d.ahead.Load())) }

func TestItIsTheDatabasesTime(t *testing.T) {
	for _, ahead := range []time.Duration{0, 36 * time.Hour, -36 * time.Hour} {
		d := newDatabase(t, ahead)
		begun := d.now()
		c, err := dbclock.Open(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		d.between(t, c, begun, 0)
	}
}

// What the database's clock is set to is known with the next look.
func TestItFollowsTheDatabase(t *testing.T) {
	d := newDatabase(t, 0)
	c, err := dbclock.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	for _, ahead := range []time.Duration{time.Hour, -time.Hour} {
		d.ahead.Store(int64(ahead))
		begun := d.now()
		if err := c.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.between(t, c, begun, d.now().Sub(begun))
	}
}

func TestItGoesOnWithoutTheDatabase(t *testing.T) {
	d := newDatabase(t, time.Hour)
	begun := d.now()
	c, err := dbclock.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Look(gone); err == nil {
		t.Fatal("it looked at a database that does not answer")
	}
	d.between(t, c, begun, 0)
	if _, err := dbclock.Open(gone, d); err == nil {
		t.Fatal("there is a clock of a database that does not answer")
	}
}

// slow is a database whose answers are late.
type slow struct {
	storage.Store
	by time.Duration
}

func (s slow) View(ctx context.Context, f func(storage.Tx) error) error {
	return s.Store.View(ctx, func(tx storage.Tx) error { return f(slowTx{tx, s.by}) })
}

type slowTx struct {
	storage.Tx
	by time.Duration
}

func (t slowTx) Workers() storage.Workers { return slowWorkers{t.Tx.Workers(), t.by} }

type slowWorkers struct {
	storage.Workers
	by time.Duration
}

// Clock answers by what it was when it was asked, after a while.
func (w slowWorkers) Clock(ctx context.Context) (time.Time, error) {
	at, err := w.Workers.Clock(ctx)
	timer := time.NewTimer(w.by)
	defer timer.Stop()
	<-timer.C
	return at, err
}

// A late answer does not put a clock back that was right.
func TestALateAnswerIsNoTime(t *testing.T) {
	d := newDatabase(t, 0)
	late := &slow{Store: d}
	begun := d.now()
	c, err := dbclock.Open(t.Context(), late)
	if err != nil {
		t.Fatal(err)
	}
	late.by = time.Millisecond + d.now().Sub(begun) // more than the first took
	if err := c.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.between(t, c, begun.Add(late.by), 0)
}
