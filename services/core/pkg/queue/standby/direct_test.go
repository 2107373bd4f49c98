package standby_test

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/queue/asynq"
	"github.com/aetherium/aetherium/services/core/pkg/queue/memory"
	"github.com/aetherium/aetherium/services/core/pkg/queue/queuetest"
	"github.com/aetherium/aetherium/services/core/pkg/queue/standby"
	"github.com/aetherium/aetherium/services/core/pkg/redis/redistest"
)

// straight is a queue whose jobs are run directly, those that can be.
type straight struct{ queue.Queue }

func (q straight) Enqueue(ctx context.Context, args queue.Args, o queue.Options) error {
	o.Direct = o.Key != "" && o.RunAt.IsZero() && o.MaxAttempts == 0
	return q.Queue.Enqueue(ctx, args, o)
}

// Places implements queuetest.Places: jobs of both queues run beside each other.
func (straight) Places(workers int) int { return 2 * workers }

var _ queuetest.Places = straight{}

func TestDirectQueue(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	queuetest.Run(t, func(t *testing.T, workers int) queue.Queue {
		q := open(t, server, workers)
		q.SetPatience(time.Minute)
		if strings.HasSuffix(t.Name(), "the_dead_take_what_is_newer") {
			return q // of what is run directly the dead in Redis know nothing: one that is revived runs, too
		}
		return straight{q}
	})
}

// pair is a process's queue, and what others see of the one that they share.
type pair struct {
	t       *testing.T
	server  *redistest.Server
	name    string
	metrics *queue.Metrics
	outside queue.Queue
	*standby.Queue
}

func newPair(t *testing.T, args ...string) *pair {
	t.Helper()
	p := &pair{t: t, server: redistest.Start(t, args...), name: string(domain.NewID()), metrics: queue.NewMetrics()}
	p.outside = p.asynq(nil)
	t.Cleanup(func() { p.stop(p.outside) })
	p.Queue = p.process()
	return p
}

func (p *pair) asynq(m *queue.Metrics) queue.Queue {
	p.t.Helper()
	q, err := asynq.New(asynq.Config{Client: p.server.Client(p.t), Name: p.name, Owner: "node", Workers: 2, Metrics: m, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		p.t.Fatal(err)
	}
	return q
}

// process is a queue of a process in its owner's place.
func (p *pair) process() *standby.Queue {
	log := slog.New(slog.DiscardHandler)
	q := standby.New(p.asynq(p.metrics), memory.New(2, p.metrics, log), log)
	q.SetPatience(time.Minute) // what Redis is told while it is there it takes, however slow the host is
	return q
}

func (p *pair) start(q queue.Queue) {
	p.t.Helper()
	if err := q.Start(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { p.stop(q) })
}

// stop waits for nothing that runs.
func (p *pair) stop(q queue.Queue) {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	if err := q.Stop(now); err != nil {
		p.t.Error(err)
	}
}

func (p *pair) add(n int) {
	p.t.Helper()
	if err := p.Enqueue(p.t.Context(), work{n}, queue.Options{Key: "k", Tenant: "t", Direct: true}); err != nil {
		p.t.Fatal(err)
	}
}

// seen waits until as many jobs in a state are seen by others as that.
func (p *pair) seen(s queue.State, n int) []queue.Info {
	p.t.Helper()
	for {
		list, err := p.outside.List(p.t.Context(), s, 10)
		if err == nil && len(list) == n {
			return list
		}
		if err != nil && !errors.HasCode(err, errors.Unavailable) || p.t.Context().Err() != nil {
			p.t.Fatalf("%s: %v, %v", s, list, err)
		}
	}
}

// attempts are how many were counted, and how often it was counted that one began.
func (p *pair) attempts() (ended map[string]uint64, began uint64) {
	p.t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(p.metrics.Collectors(p.Queue)...)
	families, err := r.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	ended = map[string]uint64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			switch n := m.GetHistogram().GetSampleCount(); f.GetName() {
			case "aetherium_queue_wait_duration_seconds":
				began += n
			case "aetherium_queue_run_duration_seconds":
				ended[label(m, "outcome")] += n
			}
		}
	}
	return ended, began
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// What is done at once is nothing that Redis is asked about.
func TestDirectJobsNeedNoRedis(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.SetShowAfter(time.Hour)
	ran := make(chan int)
	queue.On(p.Queue, func(_ context.Context, w work, _ queue.Job) error { ran <- w.N; return nil })
	p.start(p.Queue)
	for i := range 20 {
		p.add(i)
		if n := <-ran; n != i {
			t.Errorf("%d ran, not %d", n, i)
		}
	}
	if keys, err := p.server.Client(t).Keys(t.Context(), "aetherium:queue:*").Result(); err != nil || len(keys) > 0 {
		t.Errorf("%v, %v", keys, err)
	}
}

// What fails is tried again by the shared queue, which keeps what is given up.
func TestDirectJobsThatFail(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	var attempts atomic.Int32
	wait := make(chan struct{})
	queue.On(p.Queue, func(_ context.Context, _ work, job queue.Job) error {
		switch attempts.Add(1) {
		case 1:
			return errors.Plain("not yet")
		case 2:
			<-wait
			return queue.Cancel(errors.Plain("never"))
		}
		t.Errorf("attempt %+v", job)
		return nil
	})
	p.start(p.Queue)
	p.add(7)
	if job := p.seen(queue.Running, 1)[0]; job.Key != "k" || job.Tenant != "t" || string(job.Args) != `{"N":7}` {
		t.Errorf("%+v", job)
	}
	close(wait)
	if job := p.seen(queue.Dead, 1)[0]; job.Error != "never" {
		t.Errorf("%+v", job)
	}
	ended, began := p.attempts()
	if ended["retried"] != 1 || ended["dead"] != 1 || began != 2 {
		t.Errorf("%v ended, %d began", ended, began)
	}
}

// What takes its time is seen from outside, once, and counted once; what becomes of
// it becomes of it there.
func TestDirectJobsThatTakeTheirTime(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	outcome, attempts := make(chan error), make(chan int, 1)
	queue.On(p.Queue, func(_ context.Context, _ work, job queue.Job) error {
		attempts <- job.Attempt
		return <-outcome
	})
	p.start(p.Queue)
	p.add(1)
	<-attempts
	p.seen(queue.Running, 1)
	if n, err := p.Count(t.Context()); err != nil || n[queue.Running] != 1 || n[queue.Waiting] != 0 {
		t.Errorf("%v, %v", n, err)
	}
	if list, err := p.List(t.Context(), queue.Running, 10); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	outcome <- queue.Retry(0, errors.Plain("once more"))
	if n := <-attempts; n != 2 {
		t.Errorf("attempt %d", n)
	}
	outcome <- nil
	p.seen(queue.Running, 0)
	p.seen(queue.Waiting, 0)
	ended, began := p.attempts()
	if ended["retried"] != 1 || ended["done"] != 1 || began != 2 {
		t.Errorf("%v ended, %d began", ended, began)
	}
}

// What runs directly is canceled where it is seen.
func TestDirectJobsAreCanceled(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	ended := make(chan struct{}, 8)
	queue.On(p.Queue, func(ctx context.Context, _ work, _ queue.Job) error {
		<-ctx.Done()
		ended <- struct{}{}
		return ctx.Err()
	})
	p.start(p.Queue)
	p.add(1)
	if err := p.outside.Cancel(t.Context(), p.seen(queue.Running, 1)[0].ID); err != nil {
		t.Fatal(err)
	}
	<-ended
	for _, s := range queue.States() {
		p.seen(s, 0)
	}
	if len(ended) > 0 {
		t.Error("it ran again")
	}
}

// What a process had that was killed runs in the next one. What it had been asked for
// while that ran is no second run at a time.
func TestDirectJobsOutliveTheirProcess(t *testing.T) {
	t.Parallel()
	p := newPair(t, "--appendonly", "yes", "--appendfsync", "always")
	begun := make(chan struct{}, 8)
	queue.On(p.Queue, func(ctx context.Context, _ work, _ queue.Job) error {
		begun <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	p.start(p.Queue)
	p.add(1)
	<-begun
	p.add(2)
	p.seen(queue.Running, 1)
	if len(begun) > 0 {
		t.Error("it runs twice at a time")
	}
	p.server.Kill(t) // so that the process cannot tell of its end
	p.stop(p.Queue)
	p.server.Restart(t)
	next, ran := p.process(), make(chan int, 8)
	queue.On(next, func(_ context.Context, w work, _ queue.Job) error { ran <- w.N; return nil })
	p.start(next)
	<-ran
}
