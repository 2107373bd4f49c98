package queuetest

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
)

func tenantsTakeTurns(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	const jobs = 1000
	order := make(chan string, jobs+20)
	queue.On(q, func(_ context.Context, _ greet, job queue.Job) error {
		order <- job.Tenant
		return nil
	})
	for i := range jobs {
		add(t, q, i, queue.Options{Tenant: "many", Priority: 5})
	}
	for i := range 10 {
		add(t, q, i, queue.Options{Tenant: "few"})
		add(t, q, i, queue.Options{Tenant: "other"})
	}
	start(t, q)
	seen := map[string]int{}
	for range 30 {
		seen[<-order]++
	}
	if seen["few"] != 10 || seen["other"] != 10 {
		t.Errorf("the first 30 jobs that ran were %v; each tenant has a turn", seen)
	}
	for range jobs - 10 { // none is forgotten
		<-order
	}
}

// A tenant whose jobs take long has fewer started, for it has some running.
func turnsAreCounted(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 3)
	release := make(chan struct{})
	begun := make(chan string, 12)
	queue.On(q, func(_ context.Context, _ greet, job queue.Job) error {
		begun <- job.Tenant
		if job.Tenant == "long" {
			<-release
		}
		return nil
	})
	for i := range 3 {
		add(t, q, i, queue.Options{Tenant: "long"})
	}
	for i := range 6 {
		add(t, q, i, queue.Options{Tenant: "short"})
	}
	start(t, q)
	seen := map[string]int{}
	for range 8 {
		// At most two of the long ones can run beside the six: with one running,
		// the other tenant's next comes first whenever it has none.
		seen[<-begun]++
		if seen["short"] == 6 {
			break
		}
	}
	if seen["short"] != 6 || seen["long"] > 2 {
		t.Errorf("started %v, while long jobs held their places", seen)
	}
	close(release)
}

func idIsOneJob(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	inside, release := make(chan struct{}), make(chan struct{})
	ran := make(chan queue.Job, 3)
	queue.On(q, func(_ context.Context, g greet, job queue.Job) error {
		ran <- job
		if g.N == 1 {
			close(inside)
			<-release
		}
		return nil
	})
	for range 2 {
		add(t, q, 1, queue.Options{ID: "mine"})
	}
	start(t, q)
	<-inside
	add(t, q, 2, queue.Options{ID: "mine"}) // it runs
	add(t, q, 3, queue.Options{})
	close(release)
	if a, b := <-ran, <-ran; a.ID != "mine" || n(b) != 3 || b.ID == "" {
		t.Errorf("ran %v %d and %v %d", a.ID, n(a), b.ID, n(b))
	}
}

func attemptsEnd(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	attempts := make(chan int, 4)
	queue.On(q, func(_ context.Context, g greet, job queue.Job) error {
		if g.N == 2 {
			attempts <- 0
			return nil
		}
		attempts <- job.Attempt
		return queue.Retry(0, errors.Plain("never"))
	})
	start(t, q)
	add(t, q, 1, queue.Options{ID: "hopeless", MaxAttempts: 2})
	if a, b := <-attempts, <-attempts; a != 1 || b != 2 {
		t.Errorf("attempts %d and %d", a, b)
	}
	dead := eventually(t, q, queue.Dead, 1)
	if dead[0].ID != "hopeless" || dead[0].Error != "never" || dead[0].Attempt != 2 {
		t.Errorf("dead: %+v", dead[0])
	}
	add(t, q, 2, queue.Options{})
	if a := <-attempts; a != 0 {
		t.Errorf("attempt %d of a dead job", a)
	}
}

// eventually is what is listed once there are so many. What a handler returned
// is done soon after, and there is nothing to wait on.
func eventually(t *testing.T, q queue.Queue, s queue.State, count int) []queue.Info {
	t.Helper()
	for {
		l := list(t, q, s)
		if len(l) == count {
			return l
		}
		runtime.Gosched()
	}
}

func list(t *testing.T, q queue.Queue, s queue.State) []queue.Info {
	t.Helper()
	l, err := q.List(t.Context(), s, 100)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func cancelWaiting(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	ran := make(chan int, 3)
	queue.On(q, func(_ context.Context, g greet, _ queue.Job) error {
		ran <- g.N
		return nil
	})
	add(t, q, 1, queue.Options{ID: "due"})
	add(t, q, 2, queue.Options{ID: "later", RunAt: time.Now().Add(time.Hour)})
	add(t, q, 3, queue.Options{})
	for _, id := range []string{"due", "later"} {
		if err := q.Cancel(t.Context(), id); err != nil {
			t.Error(err)
		}
		if err := q.Cancel(t.Context(), id); !errors.HasCode(err, errors.NotFound) {
			t.Errorf("canceled twice: %v", err)
		}
	}
	start(t, q)
	if v := <-ran; v != 3 {
		t.Errorf("%d ran", v)
	}
	add(t, q, 4, queue.Options{ID: "due"})
	if v := <-ran; v != 4 {
		t.Errorf("%d ran, not the one with the ID of one that was canceled", v)
	}
}

func cancelRunning(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	begun, ended := make(chan int, 2), make(chan error, 1)
	queue.On(q, func(ctx context.Context, g greet, _ queue.Job) error {
		begun <- g.N
		if g.N == 1 {
			<-ctx.Done()
			ended <- ctx.Err()
			return queue.Retry(0, ctx.Err())
		}
		return nil
	})
	start(t, q)
	add(t, q, 1, queue.Options{ID: "long"})
	<-begun
	if err := q.Cancel(t.Context(), "long"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	add(t, q, 2, queue.Options{})
	if v := <-begun; v != 2 {
		t.Errorf("%d ran after it was canceled", v)
	}
	nothingIsLeft(t, q)
}

func cancelKeyed(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 2)
	begun, release := make(chan int, 3), make(chan struct{})
	queue.On(q, func(_ context.Context, g greet, _ queue.Job) error {
		begun <- g.N
		if g.N == 1 {
			<-release
		}
		return nil
	})
	add(t, q, 0, queue.Options{Key: "k"})
	cancelOnly(t, q)
	start(t, q)
	add(t, q, 1, queue.Options{Key: "k"})
	if v := <-begun; v != 1 {
		t.Errorf("%d ran", v)
	}
	add(t, q, 2, queue.Options{Key: "k"}) // waits for its like
	cancelOnly(t, q)
	close(release)
	eventually(t, q, queue.Running, 0)
	add(t, q, 3, queue.Options{Key: "k"})
	if v := <-begun; v != 3 {
		t.Errorf("%d ran", v)
	}
}

// cancelOnly cancels the only job that waits.
func cancelOnly(t *testing.T, q queue.Queue) {
	t.Helper()
	l := list(t, q, queue.Waiting)
	if len(l) != 1 {
		t.Fatalf("%d jobs wait, want 1", len(l))
	}
	if err := q.Cancel(t.Context(), l[0].ID); err != nil {
		t.Fatal(err)
	}
}

func deadLetters(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	ran := make(chan queue.Job, 8)
	queue.On(q, func(_ context.Context, _ greet, job queue.Job) error {
		ran <- job
		return queue.Cancel(errors.Plain(strings.Repeat("x", 2*queue.MaxError)))
	})
	start(t, q)
	for i, id := range []string{"a", "b", "c"} {
		add(t, q, i, queue.Options{ID: id, Tenant: "t"})
		<-ran
	}
	dead := eventually(t, q, queue.Dead, 3)
	if ids := []string{dead[0].ID, dead[1].ID, dead[2].ID}; !slices.Equal(ids, []string{"c", "b", "a"}) {
		t.Errorf("dead, the newest first: %v", ids)
	}
	if d := dead[2]; d.Kind != "greet" || d.Tenant != "t" || len(d.Error) != queue.MaxError || string(d.Args) != `{"n":0}` || d.At.IsZero() {
		t.Errorf("dead: %+v", d)
	}
	ctx := t.Context()
	if err := q.Enqueue(ctx, greet{1}, queue.Options{ID: "a"}); !errors.HasCode(err, errors.AlreadyExists) {
		t.Errorf("the ID of a dead job: %v", err)
	}
	if err := q.Cancel(ctx, "a"); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("a dead job was canceled: %v", err)
	}
	if err := q.Revive(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if job := <-ran; job.ID != "a" || job.Attempt != 1 {
		t.Errorf("revived: %+v", job)
	}
	eventually(t, q, queue.Dead, 3)
	if err := q.Remove(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func(context.Context, string) error{"revive": q.Revive, "remove": q.Remove} {
		if err := f(ctx, "b"); !errors.HasCode(err, errors.NotFound) {
			t.Errorf("%s what is removed: %v", what, err)
		}
	}
	counts, err := q.Count(ctx)
	if err != nil || counts[queue.Dead] != 2 || counts[queue.Waiting]+counts[queue.Scheduled]+counts[queue.Running] != 0 {
		t.Errorf("counted %v, %v", counts, err)
	}
}

// A dead job does not hold its key, and has nothing to say beside a newer one.
func deadKeys(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 2)
	ran, release := make(chan int, 8), make(chan struct{})
	queue.On(q, func(_ context.Context, g greet, _ queue.Job) error {
		ran <- g.N
		switch g.N {
		case 1:
			return queue.Cancel(errors.Plain("no"))
		case 2:
			<-release
		}
		return nil
	})
	start(t, q)
	add(t, q, 1, queue.Options{Key: "k"})
	<-ran
	id := eventually(t, q, queue.Dead, 1)[0].ID
	add(t, q, 2, queue.Options{Key: "k"})
	if v := <-ran; v != 2 {
		t.Errorf("%d ran", v)
	}
	add(t, q, 3, queue.Options{Key: "k"})
	if err := q.Revive(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	close(release)
	if v := <-ran; v != 3 {
		t.Errorf("%d ran, want the newest", v)
	}
	nothingIsLeft(t, q)
}

func listed(t *testing.T, open func(*testing.T, int) queue.Queue) {
	q := open(t, 1)
	begun, release := make(chan struct{}), make(chan struct{})
	queue.On(q, func(context.Context, greet, queue.Job) error {
		begun <- struct{}{}
		<-release
		return nil
	})
	at := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	add(t, q, 1, queue.Options{ID: "soon", RunAt: at, Priority: -2, MaxAttempts: 7})
	add(t, q, 1, queue.Options{ID: "sooner", RunAt: at.Add(-time.Minute)})
	add(t, q, 1, queue.Options{ID: "runs"})
	start(t, q)
	<-begun
	add(t, q, 1, queue.Options{ID: "first"})
	add(t, q, 1, queue.Options{ID: "second", Priority: 1})
	for s, want := range map[queue.State][]string{
		queue.Scheduled: {"sooner", "soon"}, queue.Waiting: {"first", "second"}, queue.Running: {"runs"}, queue.Dead: nil,
	} {
		var ids []string
		for _, i := range list(t, q, s) {
			ids = append(ids, i.ID)
			if i.State != s || i.At.IsZero() {
				t.Errorf("%+v", i)
			}
		}
		if !slices.Equal(ids, want) {
			t.Errorf("%s: %v, want %v", s, ids, want)
		}
	}
	if i := list(t, q, queue.Scheduled)[1]; i.At.Sub(at).Abs() > 10*time.Second || i.Priority != -2 || i.MaxAttempts != 7 || i.Attempt != 1 {
		t.Errorf("scheduled: %+v", i)
	}
	if l, err := q.List(t.Context(), queue.Waiting, 1); err != nil || len(l) != 1 {
		t.Errorf("%d listed, %v", len(l), err)
	}
	counts, err := q.Count(t.Context())
	if err != nil || counts[queue.Scheduled] != 2 || counts[queue.Waiting] != 2 || counts[queue.Running] != 1 {
		t.Errorf("counted %v, %v", counts, err)
	}
	close(release)
	for range 2 {
		<-begun
	}
}

// nothingIsLeft waits until no job runs, and then finds none of any state.
func nothingIsLeft(t *testing.T, q queue.Queue) {
	t.Helper()
	eventually(t, q, queue.Running, 0)
	for _, s := range queue.States() {
		if l := list(t, q, s); len(l) != 0 {
			t.Errorf("%s: %+v", s, l)
		}
	}
}
