package runner_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/runner"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// What nobody was told of is found, however many runs of other projects wait;
// and looking for it writes nothing.
func TestLostWakeUps(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(b *bed, _ *worker.Config) {
		b.config.PerProject, b.config.SweepEvery = 1, 100*time.Millisecond
	})
	other := b.project("other")
	b.holder()
	lost := b.service(b.store, b.worker, nil)
	many := make([]vmm.Run, domain.MaxTaskGroup)
	for i := range many {
		many[i] = run("true")
	}
	for range 2 {
		_, err := lost.CreateRuns(b.ctx, b.by, vmm.CreateRuns{Runs: many, Group: true})
		must(t, err)
	}
	tasks, err := lost.CreateRuns(b.ctx, other, vmm.CreateRuns{Runs: many[:1]})
	must(t, err)
	if task, err := b.WaitTask(b.ctx, other, tasks[0].ID); err != nil || task.State != domain.TaskSucceeded {
		t.Fatalf("%+v, %v", task, err)
	}
	b.quiet() // its VM goes
	before := b.mortal.writes()
	time.Sleep(500 * time.Millisecond)
	if n := b.mortal.writes() - before; n != 0 {
		t.Errorf("nothing is to be done, for which it wrote %d times", n)
	}
}

// counted is a queue that counts the jobs it is given.
type counted struct {
	queue.Queue
	n atomic.Int64
}

func (c *counted) Enqueue(ctx context.Context, args queue.Args, o queue.Options) error {
	c.n.Add(1)
	return c.Queue.Enqueue(ctx, args, o)
}

// Who makes many runs waits for one job to be taken, not for one of each: a
// queue in another process may be slow. All of them are carried out.
func TestManyAreWokenAtOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(b *bed, _ *worker.Config) { b.config.PerProject = 4 })
	must(t, b.runner.Stop(b.ctx))
	_, r, q := b.gateway(b.store, b.worker)
	must(t, r.Start(b.ctx))
	defer func() { must(t, r.Stop(b.ctx)) }()
	jobs := &counted{Queue: q}
	b.Service = b.service(b.store, b.worker, runner.Waker{Queue: jobs, Log: slog.New(slog.DiscardHandler)})
	failed := b.ended(b.create(run("exit 1"))[0].ID)
	runs := make([]vmm.Run, 20)
	for i := range runs {
		runs[i] = run("true")
	}
	holder := b.holder()
	runs[19].After = []domain.ID{failed.ID, holder.ID}
	before := jobs.n.Load()
	tasks, err := b.CreateRuns(b.ctx, b.by, vmm.CreateRuns{Runs: runs, Group: true})
	must(t, err)
	if n := jobs.n.Load() - before; n != 1 {
		t.Errorf("%d jobs were made for %d runs", n, len(runs))
	}
	for i, task := range tasks {
		want := domain.TaskSucceeded
		if i == 19 {
			want = domain.TaskCanceled // for one has failed, though the other has not ended
		}
		if got := b.ended(task.ID); got.State != want {
			t.Errorf("%d: %+v, %+v", i, got, got.Error)
		}
	}
}
