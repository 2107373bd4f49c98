package worker_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/queue/asynq"
	"github.com/aetherium/aetherium/services/core/pkg/queue/memory"
	"github.com/aetherium/aetherium/services/core/pkg/queue/standby"
	"github.com/aetherium/aetherium/services/core/pkg/redis/redistest"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
	goredis "github.com/redis/go-redis/v9"
)

// onRedis is a queue as a worker has it whose installation is on a Redis.
func onRedis(t *testing.T, client *goredis.Client, workers int) queue.Queue {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	q, err := asynq.New(asynq.Config{Client: client, Name: "installation", Owner: "node", Workers: workers, Logger: log})
	must(t, err)
	return standby.New(q, memory.New(workers, nil, log), log)
}

// watched tells what a worker does with its queue.
type watched struct {
	queue.Queue
	t       *testing.T
	project domain.ID
	started atomic.Bool
}

func (q *watched) Start(ctx context.Context) error {
	q.started.Store(true)
	return q.Queue.Start(ctx)
}

func (q *watched) Enqueue(ctx context.Context, args queue.Args, o queue.Options) error {
	if o.Tenant != string(q.project) {
		q.t.Errorf("a job %s of tenant %q", args.Kind(), o.Tenant)
	}
	return q.Queue.Enqueue(ctx, args, o)
}

// early is a driver that is asked what runs before any job may run.
type early struct {
	vmm.Driver
	queue *watched
}

func (d early) List(ctx context.Context) ([]vmm.State, error) {
	if d.queue.started.Load() {
		d.queue.t.Error("jobs run before what runs is taken up")
	}
	return d.Driver.List(ctx)
}

// stepping is the job by which VMs are stepped.
type stepping struct {
	VM domain.ID `json:"vm_id"`
}

func (stepping) Kind() string { return "vm.converge" }

// A worker's jobs are in Redis, on behalf of the project that they are for. What
// the worker before had when it was killed does not keep a VM waiting, and
// nothing runs before what is on the node is taken up.
func TestJobsOnRedis(t *testing.T) {
	t.Parallel()
	b, client := newBed(t), redistest.Start(t).Client(t)
	b.down()
	t.Cleanup(b.down) // before the client is closed
	b.deps = func(d *worker.Deps) {
		q := &watched{Queue: onRedis(t, client, 16), t: t, project: b.by.ProjectID}
		d.Queue, d.Drivers["fake"] = q, early{d.Drivers["fake"], q}
	}
	b.up()
	b.template("other", "/")
	vm, kept := b.running(vmm.CreateVM{}), b.running(vmm.CreateVM{Template: "other"})
	b.down()

	killed, inside := onRedis(t, client, 1), make(chan struct{})
	queue.On(killed, func(ctx context.Context, _ stepping, _ queue.Job) error {
		close(inside)
		<-ctx.Done()
		return ctx.Err()
	})
	must(t, killed.Enqueue(b.ctx, stepping{vm.ID}, queue.Options{Key: string(vm.ID), Tenant: string(b.by.ProjectID)}))
	must(t, killed.Start(b.ctx))
	t.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		must(t, killed.Stop(now))
	})
	<-inside // and has its one place taken, without end
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		row, err := tx.VMs().Get(b.ctx, storage.System, vm.ID)
		if err != nil {
			return err
		}
		row.Desired = domain.WantDeleted
		row.Generation++
		return tx.VMs().Update(b.ctx, row)
	}))
	b.up()
	if row, err := b.WaitVM(b.ctx, b.by, vm.ID); err != nil || row.Observed != domain.Deleted {
		t.Errorf("%+v, %v", row, err)
	}
	if row, err := b.GetVM(b.ctx, b.by, kept.ID); err != nil || row.Observed != domain.Running || row.Epoch != kept.Epoch {
		t.Errorf("%+v, %v", row, err)
	}
}

// While Redis is away VMs come and go and templates are made all the same.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	b, server := newBed(t), redistest.Start(t)
	client := server.Client(t)
	b.down()
	t.Cleanup(b.down) // before the client is closed
	b.deps = func(d *worker.Deps) { d.Queue = onRedis(t, client, 16) }
	b.up()
	before := b.running(vmm.CreateVM{})
	server.Kill(t)
	during := b.running(vmm.CreateVM{})
	for _, id := range []domain.ID{before.ID, during.ID} {
		if _, err := b.DeleteVM(b.ctx, b.by, id); err != nil {
			t.Fatal(err)
		}
		if row, err := b.WaitVM(b.ctx, b.by, id); err != nil || row.Observed != domain.Deleted {
			t.Errorf("%+v, %v", row, err)
		}
	}
	b.template("made", "/")
	server.Restart(t)
	b.running(vmm.CreateVM{Template: "made"})
}

// A task whose job the queue has lost is found by the sweep.
func TestALostTask(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.down()
	lost := make(chan struct{}, 1)
	b.deps = func(d *worker.Deps) { d.Queue = loses{d.Queue, lost} }
	b.up()
	for _, state := range []domain.TaskState{domain.TaskPending, domain.TaskRunning} {
		lost <- struct{}{}
		task, err := b.BuildTemplate(b.ctx, b.by, vmm.BuildTemplate{Name: "t", Source: domain.TemplateSource{Dir: "/"}})
		must(t, err)
		lost <- struct{}{} // it is
		<-lost
		must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
			row, err := tx.Tasks().Get(b.ctx, storage.System, task.ID)
			if err != nil {
				return err
			}
			row.State = state
			return tx.Tasks().Update(b.ctx, row)
		}))
		b.worker.Sweep(b.ctx)
		if task, err = b.WaitTask(b.ctx, b.by, task.ID); err != nil || task.State != domain.TaskSucceeded {
			t.Errorf("%s: %+v, %v", state, task, err)
		}
	}
}

// loses is a queue that loses a task for each that is asked for.
type loses struct {
	queue.Queue
	next chan struct{}
}

func (q loses) Enqueue(ctx context.Context, args queue.Args, o queue.Options) error {
	if args.Kind() == "task.run" {
		select {
		case <-q.next:
			return nil
		default:
		}
	}
	return q.Queue.Enqueue(ctx, args, o)
}

// What has failed is tried again when the queue has planned it, and not by each
// look of the sweep, which takes up what is wanted since.
func TestSweepLeavesRetriesToTheQueue(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.down()
	q := &patient{failed: make(chan struct{}, 1)}
	b.deps = func(d *worker.Deps) { q.Queue, d.Queue = d.Queue, q }
	b.up()
	gone, stopped := b.running(vmm.CreateVM{}), b.running(vmm.CreateVM{})
	fails := func(op fake.Op, do func() error) {
		t.Helper()
		b.node.FailNext(op, errors.New(errors.Internal, "it is stuck"))
		must(t, do())
		<-q.failed
	}
	fails(fake.OpDelete, func() error { _, err := b.DeleteVM(b.ctx, b.by, gone.ID); return err })
	fails(fake.OpStop, func() error { _, err := b.StopVM(b.ctx, b.by, stopped.ID); return err })
	before := q.enqueued.Load()
	for range 3 {
		b.worker.Sweep(b.ctx)
	}
	if n := q.enqueued.Load() - before; n > 0 {
		t.Errorf("%d steps before the pause after the last one is over", n)
	}
	// Somebody wants something else, and dies before the worker is told.
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		row, err := tx.VMs().Get(b.ctx, storage.System, stopped.ID)
		if err != nil {
			return err
		}
		row.Desired = domain.WantDeleted
		row.Generation++
		return tx.VMs().Update(b.ctx, row)
	}))
	b.worker.Sweep(b.ctx)
	if vm, err := b.WaitVM(b.ctx, b.by, stopped.ID); err != nil || vm.Observed != domain.Deleted {
		t.Errorf("%+v, %v", vm, err)
	}
	if vm, err := b.GetVM(b.ctx, b.by, gone.ID); err != nil || vm.Observed != domain.Deleting {
		t.Errorf("%+v, %v", vm, err)
	}
}

// patient is a queue whose jobs have failed so often that they are tried again in
// a minute.
type patient struct {
	queue.Queue
	enqueued atomic.Int64 // steps
	failed   chan struct{}
}

func (q *patient) Enqueue(ctx context.Context, args queue.Args, o queue.Options) error {
	if args.Kind() == (stepping{}).Kind() {
		q.enqueued.Add(1)
	}
	return q.Queue.Enqueue(ctx, args, o)
}

func (q *patient) Handle(kind string, h queue.Handler) {
	q.Queue.Handle(kind, func(ctx context.Context, job queue.Job) error {
		job.Attempt = 11
		err := h(ctx, job)
		if err == nil {
			return nil
		}
		q.failed <- struct{}{}
		return queue.Retry(queue.Backoff(job.Attempt), err)
	})
}
