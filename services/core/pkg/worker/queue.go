package worker

import (
	"context"
	"encoding/json"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
)

// The jobs carry an ID; what is to be done is in the database.
const (
	convergeKind = "vm.converge"
	taskKind     = "task.run"
)

type convergeArgs struct {
	VM domain.ID `json:"vm_id"`
	// Trace is of the request that wished it.
	Trace string `json:"trace,omitempty"`
}

// Kind implements queue.Args.
func (convergeArgs) Kind() string { return convergeKind }

type taskArgs struct {
	Task domain.ID `json:"task_id"`
}

// Kind implements queue.Args.
func (taskArgs) Kind() string { return taskKind }

// enqueueConverge has a VM of a project stepped.
func (w *Worker) enqueueConverge(ctx context.Context, project, id domain.ID) {
	// Creating and stepping VMs goes before long tasks, and waits for no queue: the
	// row tells what is to be done, whatever becomes of the job.
	w.enqueue(convergeArgs{id, tracing.Carried(ctx)}, queue.Options{Key: string(id), Tenant: string(project), Priority: 1, Direct: true})
}

func (w *Worker) enqueue(args queue.Args, o queue.Options) {
	if err := w.Queue.Enqueue(w.ctx, args, o); err != nil && !errors.HasCode(err, errors.Unavailable) {
		w.Log.Error("job not queued; the sweep finds it", "kind", args.Kind(), "key", o.Key, "error", err)
	}
}

func (w *Worker) handleConverge(ctx context.Context, job queue.Job) error {
	var args convergeArgs
	if err := json.Unmarshal(job.Args, &args); err != nil {
		return queue.Cancel(err)
	}
	ctx, span := w.Tracing.Resume(ctx, args.Trace, "job "+convergeKind)
	span.Text("aetherium.vm", args.VM.String())
	span.Number("aetherium.attempt", int64(job.Attempt))
	err := w.converge(ctx, domain.ID(job.Tenant), args.VM)
	span.End(err)
	if err != nil {
		w.Log.Warn("VM not converged, trying again", "vm", args.VM, "attempt", job.Attempt, "error", err)
		w.retries.plan(args.VM, time.Now().Add(queue.Decide(err, job).After))
		return err
	}
	w.retries.done(args.VM)
	return nil
}

func (w *Worker) handleTask(ctx context.Context, job queue.Job) error {
	var args taskArgs
	if err := json.Unmarshal(job.Args, &args); err != nil {
		return queue.Cancel(err)
	}
	return w.runTask(ctx, args.Task)
}

// RunTask implements service.Node.
func (w *Worker) RunTask(project, id domain.ID) {
	w.enqueue(taskArgs{id}, queue.Options{Key: string(id), Tenant: string(project)})
}
