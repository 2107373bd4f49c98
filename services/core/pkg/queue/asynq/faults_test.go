package asynq_test

import (
	"bufio"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/queue/asynq"
	"github.com/aetherium/aetherium/services/core/pkg/redis"
	"github.com/aetherium/aetherium/services/core/pkg/redis/redistest"
	goredis "github.com/redis/go-redis/v9"
)

const (
	lua       = "aetherium:queue:{shared}:"
	childsEnv = "AETHERIUM_TEST_REDIS" // a process that is to be killed has the address here
)

func TestMain(m *testing.M) {
	if address := os.Getenv(childsEnv); address != "" {
		os.Exit(child(logging.Secret(address)))
	}
	os.Exit(m.Run())
}

type work struct{}

func (work) Kind() string { return "work" }

// child runs a job and tells so; the job never ends.
func child(address logging.Secret) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	client, err := redis.Open(context.Background(), address, log)
	if err != nil {
		return 1
	}
	q, err := asynq.New(asynq.Config{Client: client, Name: "shared", Owner: "node", Workers: 1, Logger: log})
	if err != nil {
		return 1
	}
	queue.On(q, func(_ context.Context, _ work, job queue.Job) error {
		if err := json.NewEncoder(os.Stdout).Encode(job); err != nil {
			return err
		}
		select {}
	})
	if err := q.Start(context.Background()); err != nil {
		return 1
	}
	select {}
}

func begin(t *testing.T, q queue.Queue) {
	t.Helper()
	if err := q.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func enqueue(t *testing.T, q queue.Queue, o queue.Options) {
	t.Helper()
	if err := q.Enqueue(t.Context(), work{}, o); err != nil {
		t.Fatal(err)
	}
}

// age makes all that is in a set of times look old.
func age(t *testing.T, c *goredis.Client, set string) {
	t.Helper()
	members, err := c.ZRange(t.Context(), set, 0, -1).Result()
	if err != nil || len(members) == 0 {
		t.Fatalf("%s has %v, %v", set, members, err)
	}
	for _, m := range members {
		if err := c.ZAdd(t.Context(), set, goredis.Z{Score: 1, Member: m}).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// killedInside has the job that waits run by a process of the owner "node", which
// is killed meanwhile.
func killedInside(t *testing.T, server *redistest.Server) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childsEnv+"="+server.Address().Reveal())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.Contains(line, `"Attempt":1`) {
		t.Fatalf("%q, %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

// A process that is killed while it runs a job: the job is run again by another
// one, which knows that it is the second attempt; its key is held all the time.
func TestKilledWhileRunning(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	q := open(t, server, "shared", 2)
	attempts := make(chan queue.Job, 2)
	queue.On(q, func(_ context.Context, _ work, job queue.Job) error {
		attempts <- job
		return nil
	})
	enqueue(t, q, queue.Options{Key: "k", Tenant: "t"})
	killedInside(t, server)
	enqueue(t, q, queue.Options{Key: "k"}) // waits for the one whose process is gone
	if l, err := q.List(t.Context(), queue.Running, 10); err != nil || len(l) != 1 || l[0].Attempt != 1 {
		t.Errorf("running: %+v, %v", l, err)
	}
	age(t, server.Client(t), "asynq:{aetherium:shared}:lease") // which takes a minute otherwise
	begin(t, q)
	if a, b := <-attempts, <-attempts; a.Attempt != 2 || a.Tenant != "t" || b.Attempt != 1 || b.Tenant != "" {
		t.Errorf("ran %+v, then %+v", a, b)
	}
}

// What comes in the place of a process that was killed runs its job at once, and
// what is in another place leaves it alone.
func TestKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	other, after := owned(t, server, "shared", "other", 1), owned(t, server, "shared", "node", 1)
	attempts := make(chan queue.Job, 2)
	for _, q := range []*asynq.Queue{other, after} {
		queue.On(q, func(_ context.Context, _ work, job queue.Job) error {
			attempts <- job
			return nil
		})
	}
	enqueue(t, after, queue.Options{Key: "k", Tenant: "t"})
	killedInside(t, server)
	begin(t, other)
	if l, err := other.List(t.Context(), queue.Running, 10); err != nil || len(l) != 1 || l[0].Attempt != 1 {
		t.Errorf("running: %+v, %v", l, err)
	}
	begin(t, after)
	if job := <-attempts; job.Attempt != 2 || job.Tenant != "t" {
		t.Errorf("ran %+v", job)
	}
}

// What was to end when its process was killed does not run again.
func TestKilledAndToEnd(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	q := owned(t, server, "shared", "node", 1)
	ran := make(chan string, 2)
	queue.On(q, func(_ context.Context, _ work, job queue.Job) error {
		ran <- job.ID
		return nil
	})
	enqueue(t, q, queue.Options{ID: "ends"})
	killedInside(t, server)
	if err := q.Cancel(t.Context(), "ends"); err != nil {
		t.Fatal(err)
	}
	begin(t, q)
	if counts, err := q.Count(t.Context()); err != nil || counts[queue.Running]+counts[queue.Waiting] != 0 {
		t.Errorf("counted %v, %v", counts, err)
	}
	enqueue(t, q, queue.Options{ID: "next"})
	if id := <-ran; id != "next" {
		t.Errorf("%s ran", id)
	}
}

// Redis is away when the process starts that follows the killed one.
func TestStartedBeforeRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	q := owned(t, server, "shared", "node", 1)
	attempts := make(chan queue.Job, 1)
	queue.On(q, func(_ context.Context, _ work, job queue.Job) error {
		attempts <- job
		return nil
	})
	enqueue(t, q, queue.Options{})
	killedInside(t, server)
	server.Kill(t)
	begin(t, q)
	server.Restart(t)
	if job := <-attempts; job.Attempt != 2 {
		t.Errorf("ran %+v", job)
	}
}

func TestCancelInAnotherProcess(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	runs, asks := open(t, server, "shared", 1), open(t, server, "shared", 1)
	inside, ended := make(chan struct{}), make(chan error, 1)
	handle := func(ctx context.Context, _ work, _ queue.Job) error {
		close(inside)
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
	queue.On(runs, handle)
	queue.On(asks, handle)
	begin(t, runs)
	enqueue(t, asks, queue.Options{ID: "long"})
	<-inside
	if err := asks.Cancel(t.Context(), "long"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// What was handed out and is lost by Asynq runs again, and whoever still runs
// it has nothing more to say about it.
func TestLostByAsynq(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	first, second := open(t, server, "shared", 1), open(t, server, "shared", 1)
	inside, release, again := make(chan struct{}), make(chan struct{}), make(chan queue.Job, 2)
	queue.On(first, func(context.Context, work, queue.Job) error {
		close(inside)
		<-release
		return queue.Retry(0, errors.Plain("of no account any more"))
	})
	queue.On(second, func(_ context.Context, _ work, job queue.Job) error {
		again <- job
		return nil
	})
	begin(t, first)
	enqueue(t, first, queue.Options{ID: "j"})
	<-inside
	keys, err := client.Keys(t.Context(), "asynq:*").Result()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Del(t.Context(), keys...).Err(); err != nil {
		t.Fatal(err)
	}
	age(t, client, lua+"running")
	begin(t, second)
	if job := <-again; job.ID != "j" || job.Attempt != 2 {
		t.Errorf("ran %+v", job)
	}
	close(release)
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	enqueue(t, second, queue.Options{ID: "next"})
	if job := <-again; job.ID != "next" {
		t.Errorf("ran %+v after it was done", job)
	}
}

// What is stopped leaves its jobs to others.
func TestStopLeavesJobs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	first, second := open(t, server, "shared", 1), open(t, server, "shared", 1)
	inside, ran := make(chan struct{}), make(chan queue.Job, 3)
	queue.On(first, func(ctx context.Context, _ work, _ queue.Job) error {
		close(inside)
		<-ctx.Done()
		return queue.Retry(0, ctx.Err())
	})
	queue.On(second, func(_ context.Context, _ work, job queue.Job) error {
		ran <- job
		return nil
	})
	begin(t, first)
	enqueue(t, first, queue.Options{ID: "a"})
	<-inside
	enqueue(t, first, queue.Options{ID: "b", RunAt: time.Now().Add(time.Millisecond)})
	now, cancel := context.WithCancel(t.Context())
	cancel()
	if err := first.Stop(now); err != nil {
		t.Fatal(err)
	}
	begin(t, second)
	attempts := map[string]int{}
	for range 2 {
		job := <-ran
		attempts[job.ID] = job.Attempt
	}
	if attempts["a"] != 2 || attempts["b"] != 1 {
		t.Errorf("attempts %v", attempts)
	}
}

// occupy has a queue's one place taken by the job "runs" until release is closed,
// and "waits" waiting for it. ran tells of those that are done.
func occupy(t *testing.T, q *asynq.Queue) (ran chan string, release chan struct{}) {
	t.Helper()
	inside := make(chan struct{}, 3)
	ran, release = make(chan string, 8), make(chan struct{})
	queue.On(q, func(_ context.Context, _ work, job queue.Job) error {
		inside <- struct{}{}
		<-release
		ran <- job.ID
		return nil
	})
	begin(t, q)
	enqueue(t, q, queue.Options{ID: "runs"})
	<-inside
	enqueue(t, q, queue.Options{ID: "waits"})
	return ran, release
}

func TestRedisIsRestarted(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	q := open(t, server, "shared", 1)
	ran, release := occupy(t, q)
	server.Kill(t)
	if err := q.Enqueue(t.Context(), work{}, queue.Options{}); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("without Redis: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.Enqueue(gone, work{}, queue.Options{}); !errors.HasCode(err, errors.Canceled) {
		t.Errorf("without a caller: %v", err)
	}
	if _, err := q.Count(t.Context()); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("counted without Redis: %v", err)
	}
	close(release) // it ends while there is nobody to tell
	if id := <-ran; id != "runs" {
		t.Errorf("%s ran", id)
	}
	server.Restart(t)
	if id := <-ran; id != "waits" {
		t.Errorf("%s ran, want the one that waited; the other one is done", id)
	}
	enqueue(t, q, queue.Options{ID: "new"})
	if id := <-ran; id != "new" {
		t.Errorf("%s ran", id)
	}
}

func TestRedisHasNoMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	q := open(t, server, "shared", 1)
	ran, release := occupy(t, q)
	room := func(bytes string) {
		if err := client.ConfigSet(t.Context(), "maxmemory", bytes).Err(); err != nil {
			t.Fatal(err)
		}
	}
	room("1")
	err := q.Enqueue(t.Context(), work{}, queue.Options{})
	if !errors.HasCode(err, errors.NoSpace) || !strings.Contains(err.Error(), "memory") {
		t.Errorf("without room: %v", err)
	}
	close(release)
	<-ran
	// That it is done can be told all the same.
	for {
		counts, err := q.Count(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if counts[queue.Running] == 0 {
			break
		}
	}
	room("0")
	if id := <-ran; id != "waits" {
		t.Errorf("%s ran", id)
	}
}

// A queue whose connection to Redis is closed before it is stopped says that it
// is away, and stops.
func TestClosedBeforeStopped(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client, err := redis.Open(t.Context(), server.Address(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	q, err := asynq.New(asynq.Config{Client: client, Name: "shared", Workers: 1, Logger: slog.New(slog.NewTextHandler(logged{t}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	queue.On(q, func(context.Context, work, queue.Job) error { close(done); return nil })
	begin(t, q)
	enqueue(t, q, queue.Options{})
	<-done
	channel := func() int64 {
		n, err := server.Client(t).PubSubNumSub(t.Context(), "asynq:cancel").Result()
		if err != nil {
			t.Fatal(err)
		}
		return n["asynq:cancel"]
	}
	for channel() == 0 {
		time.Sleep(time.Millisecond) // Asynq tells nobody that it listens
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if err := q.Enqueue(t.Context(), work{}, queue.Options{}); err == nil {
		t.Error("a job was taken without a connection")
	}
	if err := q.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
