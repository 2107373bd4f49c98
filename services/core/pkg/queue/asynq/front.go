package asynq

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	goredis "github.com/redis/go-redis/v9"
)

// front is the Redis that Asynq's server sees. When it asks for a task, which it
// does whenever it has a place free, the next job is admitted to Asynq; where
// there is none, the answer waits until there is.
type front struct {
	*goredis.Client
	queue   *Queue
	pending string // the key that tasks are taken from
}

// Subscribe implements goredis.UniversalClient. Asynq takes the end of what it
// listens to for a message, and dies of it: who closes the client too early
// does not close this.
func (f *front) Subscribe(ctx context.Context, channels ...string) *goredis.PubSub {
	return f.queue.told.Subscribe(ctx, channels...)
}

// EvalSha implements goredis.Scripter.
func (f *front) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *goredis.Cmd {
	take := func() *goredis.Cmd { return f.Client.EvalSha(ctx, sha, keys, args...) }
	if len(keys) == 0 || keys[0] != f.pending {
		return take()
	}
	for {
		wait, err := f.queue.admit(ctx)
		if err != nil {
			f.queue.log.Warn("jobs cannot be taken from Redis", "error", err)
			if !f.queue.idle(pause) {
				return goredis.NewCmdResult(nil, goredis.Nil)
			}
		}
		// Another process may have been faster, or have left one.
		out := take()
		switch {
		case out.Err() != nil && out.Err() != goredis.Nil && !goredis.HasErrorPrefix(out.Err(), "NOSCRIPT"): //nolint:errorlint // it is never wrapped
			f.queue.idle(pause) // Asynq would ask again at once
			return out
		case out.Err() != goredis.Nil: //nolint:errorlint // as above
			return out
		case wait > 0 && !f.queue.idle(min(wait, backstop)), f.queue.isStopped():
			return out
		}
	}
}

// idle waits until something may be due, at most for a time. It returns false
// when nothing is to be taken any more.
func (q *Queue) idle(most time.Duration) bool {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-q.quit:
		return false
	case <-q.wake:
	case <-t.C:
	}
	return true
}

// admit hands the next job to Asynq. Where there is none it returns the time
// until one is due.
func (q *Queue) admit(ctx context.Context) (wait time.Duration, err error) {
	if q.isStopped() {
		return backstop, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := q.scripts.run(ctx, q.scripts.admit, q.owner, q.life)
	f, ok := out.([]any)
	switch {
	case err != nil || !ok || len(f) != 2:
		return backstop, err
	case text(f[0]) == "" && number(f[1]) < 0:
		return backstop, nil
	case text(f[0]) == "":
		return max(time.Microsecond, time.Duration(number(f[1]))*time.Microsecond), nil
	}
	s := slip{ID: text(f[0]), Run: number(f[1])}
	if err := q.hand(ctx, s); err != nil {
		// Not for the next one to be admitted before it; the sweep finds it otherwise.
		_, back := q.scripts.found(ctx, q.scripts.orphan, s.ID, s.Run)
		return backstop, errors.Join(err, back)
	}
	return 0, nil
}
