// Package queuetest is the conformance suite of queue.Queue.
package queuetest

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
)

type greet struct {
	N int `json:"n"`
}

func (greet) Kind() string { return "greet" }

type unknown struct{}

func (unknown) Kind() string { return "unknown" }

type large string

func (large) Kind() string { return "large" }

// Run runs the suite; open yields a fresh queue that runs at most workers jobs at once.
func Run(t *testing.T, open func(t *testing.T, workers int) queue.Queue) {
	t.Helper()
	for name, f := range map[string]func(*testing.T, func(*testing.T, int) queue.Queue){
		"every job runs":               everyJobRuns,
		"a handler decides":            handlerDecides,
		"a panic is one job's error":   panics,
		"one key is serial and joined": keysAreSerial,
		"a job waits for its time":     waitsForItsTime,
		"priority goes first":          priority,
		"stop waits, then cancels":     stop,
		"bad jobs are refused":         refused,
		"the newest arguments win":     newestArguments,
		"an error is tried again":      plainErrors,
		"what waits survives no stop":  stoppedWhileWaiting,
		"stopping before starting":     stopUnstarted,
		"the end of one frees its key": keyIsFreed,
		"tenants take turns":           tenantsTakeTurns,
		"a tenant's turns are counted": turnsAreCounted,
		"an ID is one job":             idIsOneJob,
		"attempts end":                 attemptsEnd,
		"what waits is canceled":       cancelWaiting,
		"what runs is canceled":        cancelRunning,
		"a canceled key is free":       cancelKeyed,
		"the dead are kept":            deadLetters,
		"the dead take what is newer":  deadKeys,
		"jobs are listed":              listed,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, open)
		})
	}
}

func start(t *testing.T, q queue.Queue) {
	t.Helper()
	for range 2 { // starting twice is fine
		if err := q.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for range 2 {
			if err := q.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
}

func add(t *testing.T, q queue.Queue, n int, o queue.Options) {
	t.Helper()
	if err := q.Enqueue(context.Background(), greet{n}, o); err != nil {
		t.Fatal(err)
	}
}

func n(job queue.Job) int {
	var g greet
	if err := json.Unmarshal(job.Args, &g); err != nil {
		panic(err)
	}
	return g.N
}

func everyJobRuns(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 4)
	const jobs = 500
	var mu sync.Mutex
	seen := map[int]int{}
	var wg sync.WaitGroup
	wg.Add(jobs)
	var now, most atomic.Int64
	q.Handle("greet", func(_ context.Context, job queue.Job) error {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		mu.Lock()
		seen[n(job)]++
		mu.Unlock()
		wg.Done()
		return nil
	})
	for i := range jobs / 2 {
		add(t, q, i, queue.Options{})
	}
	start(t, q)
	for i := jobs / 2; i < jobs; i++ {
		add(t, q, i, queue.Options{})
	}
	wg.Wait()
	if len(seen) != jobs {
		t.Errorf("%d of %d jobs ran", len(seen), jobs)
	}
	if most.Load() > 4 {
		t.Errorf("%d ran at once, 4 are allowed", most.Load())
	}
}

func handlerDecides(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	var attempts []int // the queue runs one job at a time
	done := make(chan struct{})
	q.Handle("greet", func(_ context.Context, job queue.Job) error {
		attempts = append(attempts, job.Attempt)
		switch len(attempts) {
		case 1:
			return queue.Retry(time.Millisecond, errors.Plain("not yet"))
		case 2:
			return queue.Snooze(time.Millisecond)
		}
		close(done)
		return queue.Cancel(errors.Plain("hopeless"))
	})
	start(t, q)
	add(t, q, 1, queue.Options{})
	<-done
	if len(attempts) != 3 || attempts[0] != 1 || attempts[1] != 2 || attempts[2] != 2 {
		t.Errorf("attempts %v, want 1 2 2: a retry counts, a snooze does not", attempts)
	}
}

func panics(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	ran := make(chan int, 2)
	q.Handle("greet", func(_ context.Context, job queue.Job) error {
		if n(job) == 0 && job.Attempt == 1 {
			panic("boom")
		}
		ran <- n(job)
		return nil
	})
	start(t, q)
	add(t, q, 0, queue.Options{})
	add(t, q, 1, queue.Options{})
	if a, b := <-ran, <-ran; a+b != 1 {
		t.Errorf("ran %d and %d", a, b)
	}
}

func keysAreSerial(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 8)
	var running [3]atomic.Int32
	var last [3]atomic.Int64
	var runs atomic.Int64
	changed := make(chan struct{}, 4096)
	q.Handle("greet", func(_ context.Context, job queue.Job) error {
		v := n(job)
		key := v % 3
		if running[key].Add(1) != 1 {
			t.Error("two jobs of one key at once")
		}
		last[key].Store(int64(v))
		runs.Add(1)
		running[key].Add(-1)
		changed <- struct{}{}
		return nil
	})
	start(t, q)
	const jobs = 3000
	for i := range jobs {
		add(t, q, i, queue.Options{Key: string(rune('a' + i%3))})
	}
	// However many were joined, the newest of each key has been seen.
	for last[0].Load() != jobs-3 || last[1].Load() != jobs-2 || last[2].Load() != jobs-1 {
		<-changed
	}
	if runs.Load() > jobs {
		t.Errorf("%d runs of %d jobs", runs.Load(), jobs)
	}
}

func waitsForItsTime(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 2)
	ran := make(chan int, 3)
	var at atomic.Pointer[time.Time]
	q.Handle("greet", func(_ context.Context, job queue.Job) error {
		if n(job) == 2 && time.Now().Before(*at.Load()) {
			t.Error("ran before its time")
		}
		ran <- n(job)
		return nil
	})
	start(t, q)
	add(t, q, 3, queue.Options{RunAt: time.Now().Add(time.Hour), Key: "soon"})
	add(t, q, 1, queue.Options{})
	if v := <-ran; v != 1 {
		t.Errorf("%d ran first", v)
	}
	// Only now: on a host that is slow this time could come before the others are there.
	soon := time.Now().Add(30 * time.Millisecond)
	at.Store(&soon)
	add(t, q, 2, queue.Options{RunAt: soon, Key: "k"})
	if v := <-ran; v != 2 {
		t.Errorf("%d ran second", v)
	}
	// A key that waits for later takes in one for now.
	add(t, q, 4, queue.Options{Key: "soon"})
	if v := <-ran; v != 4 {
		t.Errorf("%d ran third", v)
	}
}

func priority(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	var order []int
	done := make(chan struct{})
	q.Handle("greet", func(_ context.Context, job queue.Job) error {
		order = append(order, n(job))
		if len(order) == 3 {
			close(done)
		}
		return nil
	})
	add(t, q, 1, queue.Options{})
	add(t, q, 2, queue.Options{Priority: 5})
	add(t, q, 3, queue.Options{Priority: 9})
	start(t, q)
	<-done
	if order[0] != 3 || order[1] != 2 || order[2] != 1 {
		t.Errorf("order %v", order)
	}
}

func stop(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	begun := make(chan struct{})
	q.Handle("greet", func(ctx context.Context, _ queue.Job) error {
		close(begun)
		<-ctx.Done() // only the cancellation ends it
		return ctx.Err()
	})
	start(t, q)
	add(t, q, 1, queue.Options{})
	<-begun
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := q.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := q.Enqueue(context.Background(), greet{2}, queue.Options{}); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("after Stop: %v", err)
	}
}

func refused(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	if err := q.Enqueue(context.Background(), unknown{}, queue.Options{}); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("a kind without a handler: %v", err)
	}
	q.Handle("greet", func(context.Context, queue.Job) error { return nil })
	q.Handle("large", func(context.Context, queue.Job) error { return nil })
	long := strings.Repeat("x", 256)
	for name, o := range map[string]queue.Options{
		"an ID and a key": {ID: "a", Key: "b"}, "a long ID": {ID: long}, "a long key": {Key: long}, "a long tenant": {Tenant: long},
		"a zero byte": {Key: "a\x00b"}, "a high priority": {Priority: queue.MaxPriority + 1}, "a low priority": {Priority: -queue.MaxPriority - 1},
		"less than no attempts": {MaxAttempts: -1},
	} {
		if err := q.Enqueue(context.Background(), greet{1}, o); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := q.Enqueue(context.Background(), large(strings.Repeat("x", queue.MaxArgs)), queue.Options{}); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("large arguments: %v", err)
	}
}

// A job that arrives while its like runs replaces the arguments of that one's retry.
func newestArguments(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 2)
	inside, release, done := make(chan struct{}), make(chan struct{}), make(chan int, 1)
	queue.On(q, func(_ context.Context, g greet, _ queue.Job) error {
		if g.N == 1 {
			close(inside)
			<-release
			return queue.Retry(time.Hour, errors.Plain("not yet"))
		}
		done <- g.N
		return nil
	})
	start(t, q)
	add(t, q, 1, queue.Options{Key: "k"})
	<-inside
	add(t, q, 2, queue.Options{Key: "k"})
	add(t, q, 3, queue.Options{Key: "k"})
	close(release)
	if v := <-done; v != 3 { // now, not in an hour, and once
		t.Errorf("ran with %d, want the newest", v)
	}
}

func plainErrors(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	attempts := make(chan int, 2)
	queue.On(q, func(_ context.Context, _ greet, job queue.Job) error {
		attempts <- job.Attempt
		if job.Attempt == 1 {
			return errors.New(errors.Unavailable, "the store is away")
		}
		return nil
	})
	start(t, q)
	add(t, q, 1, queue.Options{})
	if a, b := <-attempts, <-attempts; a != 1 || b != 2 {
		t.Errorf("attempts %d and %d", a, b)
	}
}

// Places is implemented by a queue that is made of several, each with as many workers.
type Places interface {
	// Places is how many jobs run at once.
	Places(workers int) int
}

func stoppedWhileWaiting(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	places := 1
	if p, ok := q.(Places); ok {
		places = p.Places(1)
	}
	begun := make(chan struct{}, 4)
	queue.On(q, func(ctx context.Context, _ greet, _ queue.Job) error {
		begun <- struct{}{}
		<-ctx.Done()
		return ctx.Err() // would be tried again
	})
	if err := q.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	add(t, q, 1, queue.Options{Key: "k"})
	add(t, q, 2, queue.Options{})
	add(t, q, 3, queue.Options{RunAt: time.Now().Add(time.Millisecond)})
	for range places {
		<-begun
	}
	add(t, q, 4, queue.Options{Key: "k"})
	now, cancel := context.WithCancel(context.Background())
	cancel()
	if err := q.Stop(now); err != nil {
		t.Fatal(err)
	}
	if n := len(begun); n != 0 {
		t.Errorf("%d jobs began at Stop", n)
	}
}

func stopUnstarted(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	var ran atomic.Bool
	queue.On(q, func(context.Context, greet, queue.Job) error { ran.Store(true); return nil })
	add(t, q, 1, queue.Options{})
	if err := q.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := q.Start(context.Background()); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("Start after Stop: %v", err)
	}
	if ran.Load() {
		t.Error("a job ran in a queue that never started")
	}
}

func keyIsFreed(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	ran := make(chan int, 1)
	queue.On(q, func(_ context.Context, g greet, _ queue.Job) error {
		ran <- g.N
		if g.N == 1 {
			return queue.Cancel(errors.Plain("no"))
		}
		return nil
	})
	start(t, q)
	for i := range 4 {
		add(t, q, i, queue.Options{Key: "k"})
		if v := <-ran; v != i {
			t.Errorf("ran %d, want %d", v, i)
		}
	}
}
