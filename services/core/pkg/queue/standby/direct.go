package standby

import (
	"context"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
)

// showAfter is, by default, how long a job that is run directly may wait and run before the
// shared queue is told of it, where it is seen from outside.
const showAfter = 500 * time.Millisecond

// directs are the jobs that are run directly.
type directs struct {
	mu    sync.Mutex
	jobs  map[like]*direct
	given map[like]error // up, on their way to the shared queue's dead
}

// direct is what waits and runs of a key.
type direct struct {
	like
	args    queue.Args
	options queue.Options
	waits   bool // a run is to come
	runs    bool
	shown   bool        // the shared queue knows of it
	show    *time.Timer // until it is told
	awaited int         // how many of the shared queue's runs wait for its end

	cancel   context.CancelFunc // of what runs
	canceled bool
	over     chan struct{} // closed when nothing waits nor runs
	err      error         // of the last run, then
}

// directly has a job run from this process's memory.
func (q *Queue) directly(ctx context.Context, args queue.Args, o queue.Options) error {
	k := like{args.Kind(), o.Key}
	fresh := q.expect(k, args, o)
	err := q.own.Enqueue(ctx, args, o)
	if err != nil && fresh {
		q.direct.unexpect(k, err)
	}
	return err
}

// expect notes that a run is to come. It reports whether none was.
func (q *Queue) expect(k like, args queue.Args, o queue.Options) (fresh bool) {
	t := &q.direct
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.jobs[k]
	if d == nil {
		if t.jobs == nil {
			t.jobs = make(map[like]*direct)
		}
		d = &direct{like: k, over: make(chan struct{})}
		d.show = time.AfterFunc(q.showAfter, func() { q.show(d) })
		t.jobs[k] = d
	}
	d.args, d.options = args, o
	fresh, d.waits = !d.waits, true
	return fresh
}

// unexpect takes back that a run is to come.
func (t *directs) unexpect(k like, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.jobs[k]; d != nil {
		if d.waits = false; !d.runs {
			t.end(d, why)
		}
	}
}

// end forgets a job of which nothing waits nor runs; mu is held.
func (t *directs) end(d *direct, err error) {
	d.show.Stop()
	d.err = err
	delete(t.jobs, d.like)
	close(d.over)
}

// show tells the shared queue of a job that takes its time: there it waits and runs
// for as long as it does here, and is run again should its process end.
func (q *Queue) show(d *direct) {
	t := &q.direct
	t.mu.Lock()
	if t.jobs[d.like] != d {
		t.mu.Unlock()
		return
	}
	args, o := d.args, d.options
	d.shown = true
	t.mu.Unlock()
	if q.keep(args, o) != nil {
		t.mu.Lock()
		d.shown = false
		t.mu.Unlock()
	}
}

// keep gives a job to the shared queue.
func (q *Queue) keep(args queue.Args, o queue.Options) error {
	o.Direct = false
	return q.share(context.Background(), args, o, func() error { return errors.New(errors.Unavailable, "the shared queue is away") })
}

// minding makes the handler of this process's queue. Of what is run directly and has
// failed, the shared queue takes care from then on.
func (q *Queue) minding(h queue.Handler) queue.Handler {
	return func(ctx context.Context, job queue.Job) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		d := q.direct.begin(like{job.Kind, job.Key}, cancel)
		if d == nil {
			return h(ctx, job)
		}
		return q.conclude(ctx, d, job, queue.Run(ctx, h, job, q.log))
	}
}

// begin notes that a job runs; nil: it is none that is run directly. One that was
// canceled before finds its context ended.
func (t *directs) begin(k like, cancel context.CancelFunc) *direct {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.jobs[k]
	if d == nil {
		return nil
	}
	d.waits, d.runs, d.cancel = false, true, cancel
	if d.canceled {
		cancel()
	}
	return d
}

// conclude says what becomes of a job that was run directly.
func (q *Queue) conclude(ctx context.Context, d *direct, job queue.Job, err error) error {
	t := &q.direct
	t.mu.Lock()
	d.runs = false
	args, o := d.args, d.options
	switch {
	case d.waits: // what is to come decides
		t.mu.Unlock()
		return err
	case err == nil, ctx.Err() != nil, d.awaited > 0:
		kept := d.canceled || d.awaited > 0
		t.end(d, err)
		t.mu.Unlock()
		if err != nil && kept {
			return queue.Moved(err)
		}
		return err
	}
	t.mu.Unlock()
	out := queue.Decide(err, job)
	o.RunAt = time.Now().Add(out.After)
	if out.Verdict == queue.GivenUp {
		o.RunAt = time.Time{}
		t.giveUp(d.like, err)
	}
	away := q.keep(args, o)
	t.mu.Lock()
	defer t.mu.Unlock()
	if away != nil {
		// It is tried again from here, or is among this process's dead.
		d.waits = d.waits || out.Verdict != queue.GivenUp
		delete(t.given, d.like)
	}
	if !d.waits {
		t.end(d, err)
	}
	if away != nil {
		return err
	}
	return queue.Moved(err)
}

// awaiting makes the handler of the shared queue: what becomes of a job that is run
// directly becomes of its like there.
func (q *Queue) awaiting(h queue.Handler) queue.Handler {
	return func(ctx context.Context, job queue.Job) error {
		d, given := q.direct.await(like{job.Kind, job.Key})
		switch {
		case given != nil:
			return queue.Counted(given)
		case d == nil:
			return h(ctx, job)
		}
		defer q.direct.leave(d)
		select {
		case <-d.over:
			return queue.Counted(d.err)
		case <-q.quit:
			return queue.Counted(errors.New(errors.Unavailable, "the queue is stopped"))
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), queue.ErrCanceled) {
				q.direct.stop(d)
			}
			return queue.Counted(ctx.Err())
		}
	}
}

func (t *directs) giveUp(k like, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.given == nil {
		t.given = make(map[like]error)
	}
	t.given[k] = err
}

// await gives what is to be waited for, or why the job was given up.
func (t *directs) await(k like) (d *direct, given error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if given = t.given[k]; given != nil {
		delete(t.given, k)
		return nil, given
	}
	if d = t.jobs[k]; d != nil {
		d.awaited++
	}
	return d, nil
}

func (t *directs) leave(d *direct) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d.awaited--
}

// stop ends what runs, or is to.
func (t *directs) stop(d *direct) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d.canceled = true; d.runs {
		d.cancel()
	}
}

// unshown is a queue without those of its jobs that the shared queue tells of.
type unshown struct {
	queue.Inspector
	direct *directs
}

// shown are the keys of those jobs, and whether they run.
func (u unshown) shown() map[like]bool {
	u.direct.mu.Lock()
	defer u.direct.mu.Unlock()
	all := map[like]bool{}
	for k, d := range u.direct.jobs {
		if d.shown {
			all[k] = d.runs
		}
	}
	return all
}

// Count implements queue.Inspector.
func (u unshown) Count(ctx context.Context) (map[queue.State]int, error) {
	all, err := u.Inspector.Count(ctx)
	for _, runs := range u.shown() {
		state := queue.Waiting
		if runs {
			state = queue.Running
		}
		all[state] = max(0, all[state]-1)
	}
	return all, err
}

// List implements queue.Inspector.
func (u unshown) List(ctx context.Context, s queue.State, limit int) ([]queue.Info, error) {
	shown := u.shown()
	all, err := u.Inspector.List(ctx, s, limit+len(shown))
	kept := all[:0]
	for _, job := range all {
		if runs, is := shown[like{job.Kind, job.Key}]; is && runs == (s == queue.Running) {
			continue
		}
		kept = append(kept, job)
	}
	return kept[:min(max(0, limit), len(kept))], err
}
