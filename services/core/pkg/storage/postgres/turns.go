package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/internal/sqlrepo"
)

// Several callers of this process share a turn when they come while another has
// it: what the second does comes behind a savepoint in the first's transaction,
// and all wait for one commit. These are the most that do, and how long after
// its beginning a turn is joined: others have waited for long enough then.
const (
	shareable = 16
	shareFor  = 25 * time.Millisecond
)

// savepoint names the one of a turn's nth caller. The names differ, so that nobody
// goes back to another's when its own was never made.
func savepoint(n int) string { return fmt.Sprintf("SAVEPOINT caller%d", n) }

// turn is a transaction that writes. Only who has the baton uses it.
type turn struct {
	// sess has the connection, and what the first caller has still to write: that goes
	// with the commit where it is the only one.
	sess    *session
	pending sqlrepo.Pending
	begun   time.Time
	callers int  // that have done something in it
	kept    bool // something of theirs is to be committed

	wrote, wroteKeys bool

	done chan struct{} // closed at its end
	err  error         // why nothing of it is committed, or why that is not certain
}

// Update implements [storage.Store].
func (s *Store) Update(ctx context.Context, f func(storage.Tx) error) error {
	t, err := s.enter(ctx)
	if err != nil {
		return err
	}
	left := false
	defer func() {
		if !left { // f panicked
			_ = s.leave(context.WithoutCancel(ctx), t)
		}
	}()
	err = t.run(ctx, f)
	left = true
	// What f has seen of the others' work, and says in an error, is true only
	// once that is committed.
	if end := s.leave(ctx, t); end != nil {
		return end
	}
	return err
}

// enter waits for the baton, and gives the turn that is open or begins one.
func (s *Store) enter(ctx context.Context) (*turn, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, s.o.Wait)
	defer cancel()
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	select {
	case s.baton <- struct{}{}:
	case <-s.closing:
		return nil, s.open(ctx)
	case <-wait.Done():
		if err := s.open(ctx); err != nil {
			return nil, err
		}
		return nil, busy(wait.Err())
	}
	if s.turn != nil {
		return s.turn, nil
	}
	sess, err := s.session(ctx, s.writer, "BEGIN", fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", turnLock))
	if err != nil {
		<-s.baton
		return nil, err
	}
	s.turn = &turn{sess: sess, begun: time.Now(), done: make(chan struct{})}
	return s.turn, nil
}

// run does what one caller wants, all of it or nothing.
func (t *turn) run(ctx context.Context, f func(storage.Tx) error) (err error) {
	own := &session{words: t.sess.words, lent: t.sess.lent, begin: t.sess.begin, patience: t.sess.patience, renew: t.sess.renew}
	if t.callers > 0 {
		own.begin = []string{savepoint(t.callers)}
	}
	tx, before := sqlrepo.NewTx(own, &t.pending), t.pending
	ok := false
	defer func() {
		own.over = true
		t.sess.lent = own.lent
		did := own.began
		if did && t.callers == 0 {
			t.sess.begin, t.sess.renew = nil, nil
		}
		if ok {
			t.kept = t.kept || did
			t.wrote, t.wroteKeys = t.wrote || tx.Wrote(), t.wroteKeys || tx.WroteKeys()
		} else {
			t.pending = before
			if did && t.kept {
				t.takeBack(savepoint(t.callers))
			}
		}
		if did {
			t.callers++
		}
	}()
	if err := own.after(f(tx)); err != nil {
		return err
	}
	if t.callers == 0 && own.began { // it may be the only one
		t.sess.later, own.later = own.later, nil
	}
	if err := own.flush(ctx); err != nil {
		return err
	}
	if t.callers == 0 && !own.began && t.pending.Len() > 0 {
		if err := tx.Flush(ctx); err != nil { // begins
			return err
		}
	}
	if err := own.ready(ctx); err != nil {
		return err
	}
	err = own.void()
	ok = err == nil
	return err
}

// takeBack undoes what has been done since a savepoint, whatever became of who
// did it.
func (t *turn) takeBack(savepoint string) {
	if t.sess.dead() {
		return // all of it is lost
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	// Not as a prepared statement: there can be none after an error.
	_, err := t.sess.lent.Conn().PgConn().Exec(ctx, "ROLLBACK TO "+savepoint).ReadAll()
	if err != nil {
		t.err = t.sess.fault(ctx, err)
	}
}

// leave gives the baton to who waits for it, and waits until the turn ends;
// where nobody does, or others have waited for long enough, it ends it.
func (s *Store) leave(ctx context.Context, t *turn) error {
	more := s.waiting.Load() > 0 && t.callers < shareable && time.Since(t.begun) < s.shareFor
	if more && t.kept && len(t.sess.later) > 0 { // of the only one so far
		t.err = t.sess.flush(ctx)
	}
	if !more || !t.kept || t.err != nil || t.sess.dead() {
		s.finish(t)
		return t.err
	}
	<-s.baton
	select {
	case <-t.done:
	// Those that waited come before: by then they have done what they wanted.
	case s.baton <- struct{}{}:
		s.finish(t)
	case <-ctx.Done():
		go func() { // somebody has to end it
			s.baton <- struct{}{}
			s.finish(t)
		}()
		return errors.Public(ctx.Err())
	}
	return t.err
}

// finish ends a turn, if it has not ended, and gives the baton back.
func (s *Store) finish(t *turn) {
	defer func() { <-s.baton }()
	if s.turn != t {
		return
	}
	s.turn = nil
	defer close(t.done)
	defer t.sess.end(false)
	if t.kept && t.err == nil {
		t.err = t.commit(s.listener.tell(t.wrote, t.wroteKeys))
	}
	// After an error it is not certain what became of the commit, and to look
	// once more costs little.
	if t.wrote {
		s.changed.Announce()
	}
	if t.wroteKeys {
		s.keysChanged.Announce()
	}
}

// commit writes what waits for it and the events, tells other processes of them, and
// commits, in one round trip.
func (t *turn) commit(tell string) error {
	ctx, cancel := context.WithTimeout(context.Background(), t.sess.patience)
	defer cancel()
	if t.sess.dead() {
		return unreachable(nil)
	}
	var failed error
	var batch pgx.Batch
	for _, w := range t.sess.later {
		batch.Queue(w.Query, w.Args...).Query(func(rows pgx.Rows) error {
			rows.Close()
			if err := rows.Err(); err != nil && !t.sess.dead() {
				failed = t.sess.outcome(ctx, &w, err)
			}
			return rows.Err()
		})
	}
	for _, st := range t.pending.Statements() {
		batch.Queue(t.sess.words.numbered(st.Query), escaped(st.Args)...).Query(func(rows pgx.Rows) error { return eachRow(rows, st.Each) })
	}
	if tell != "" {
		batch.Queue(tell)
	}
	committed := ""
	batch.Queue("COMMIT").Exec(func(tag pgconn.CommandTag) error {
		committed = tag.String()
		return nil
	})
	if err := t.sess.lent.Conn().SendBatch(ctx, &batch).Close(); failed != nil {
		return failed
	} else if err != nil {
		return t.sess.fault(ctx, err)
	}
	// A transaction that is void is rolled back by COMMIT, without an error.
	if committed != "COMMIT" {
		return errors.New(errors.Internal, "the database took a transaction back instead of committing it")
	}
	return nil
}
