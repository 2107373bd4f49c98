package standby_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/queue/asynq"
	"github.com/aetherium/aetherium/services/core/pkg/queue/memory"
	"github.com/aetherium/aetherium/services/core/pkg/queue/queuetest"
	"github.com/aetherium/aetherium/services/core/pkg/queue/standby"
	"github.com/aetherium/aetherium/services/core/pkg/redis/redistest"
)

func TestQueue(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	queuetest.Run(t, func(t *testing.T, workers int) queue.Queue {
		q := open(t, server, workers)
		q.SetPatience(time.Minute) // Redis is there, however slow
		return q
	})
}

func open(t *testing.T, server *redistest.Server, workers int) *standby.Queue {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	shared, err := asynq.New(asynq.Config{Client: server.Client(t), Name: string(domain.NewID()), Owner: "node", Workers: workers, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	return standby.New(shared, memory.New(workers, nil, log), log)
}

type work struct{ N int }

func (work) Kind() string { return "work" }

// Without Redis jobs run all the same, also those that Redis knows of, and never
// beside their like that Redis has handed out. With Redis it has them again.
func TestRedisGoesAndComesBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	q := open(t, server, 2)
	begun, release := make(chan int, 8), make(chan struct{})
	queue.On(q, func(_ context.Context, w work, _ queue.Job) error {
		begun <- w.N
		switch w.N {
		case 1:
			<-release
		case 4:
			return queue.Cancel(errors.Plain("no"))
		}
		return nil
	})
	if err := q.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	add := func(n int, key string) {
		t.Helper()
		if err := q.Enqueue(t.Context(), work{n}, queue.Options{Key: key}); err != nil {
			t.Fatal(err)
		}
	}
	next := func(want int) {
		t.Helper()
		if n := <-begun; n != want {
			t.Errorf("%d ran, want %d", n, want)
		}
	}
	add(1, "k")
	next(1)
	server.Kill(t)
	add(2, "k") // waits for its like
	add(3, "other")
	next(3)
	close(release)
	next(2)
	add(4, "dies")
	next(4)
	if _, err := q.Count(t.Context()); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("counted without Redis: %v", err)
	}
	server.Restart(t)
	var dead []queue.Info
	for len(dead) != 1 {
		var err error
		if dead, err = q.List(t.Context(), queue.Dead, 10); err != nil && !errors.HasCode(err, errors.Unavailable) {
			t.Fatal(err)
		}
	}
	// Until the queue asks Redis again.
	client := server.Client(t)
	for n := 5; ; n++ {
		add(n, "")
		next(n)
		if asked, err := client.Keys(t.Context(), "aetherium:queue:*:seq").Result(); err != nil {
			t.Fatal(err)
		} else if seq, err := client.Get(t.Context(), asked[0]).Int(); err != nil {
			t.Fatal(err)
		} else if seq > 1 {
			break
		}
	}
	if err := q.Remove(t.Context(), dead[0].ID); err != nil {
		t.Error(err)
	}
}
