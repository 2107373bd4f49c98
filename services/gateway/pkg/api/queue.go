package api

import (
	"context"
	"net/http"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
)

type (
	queueOutput   struct{ Body wire.Queue }
	listJobsInput struct {
		State string `query:"state" enum:"scheduled,waiting,running,dead" doc:"Absent: all, in this order"`
		Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"So many at most"`
	}
	jobsOutput struct{ Body *wire.List[wire.Job] }
	jobPath    struct {
		Job string `path:"job" maxLength:"255" doc:"ID of a dead job"`
	}
)

func (a *API) queueRoutes() {
	const tag = "Fleet"
	register(a, operation("get-queue", http.MethodGet, "/queue", tag, "Count the server's jobs", ""), options{scope: domain.ScopeAdmin}, a.getQueue)
	register(a, operation("list-jobs", http.MethodGet, "/queue/jobs", tag, "List the server's jobs",
		"Those that wait or run from the oldest, the scheduled by their time, the dead from the newest."), options{scope: domain.ScopeAdmin}, a.listJobs)
	register(a, operation("retry-job", http.MethodPost, "/queue/jobs/{job}/retry", tag, "Let a dead job run again",
		"As if for the first time; where its like waits, that one runs for both."), options{scope: domain.ScopeAdmin}, a.changeJob(queue.Inspector.Revive))
	register(a, operation("delete-job", http.MethodDelete, "/queue/jobs/{job}", tag, "Forget a dead job", ""), options{scope: domain.ScopeAdmin}, a.changeJob(queue.Inspector.Remove))
}

func (a *API) jobs() (queue.Inspector, error) {
	if a.Queue == nil {
		return nil, errors.New(errors.Unsupported, "this server shows no jobs")
	}
	return a.Queue, nil
}

func (a *API) getQueue(ctx context.Context, _ *none) (*queueOutput, error) {
	q, err := a.jobs()
	if err != nil {
		return nil, err
	}
	n, err := q.Count(ctx)
	if err != nil {
		return nil, err
	}
	return &queueOutput{wire.Queue{Scheduled: n[queue.Scheduled], Waiting: n[queue.Waiting], Running: n[queue.Running], Dead: n[queue.Dead]}}, nil
}

func (a *API) listJobs(ctx context.Context, in *listJobsInput) (*jobsOutput, error) {
	q, err := a.jobs()
	if err != nil {
		return nil, err
	}
	states := queue.States()
	if in.State != "" {
		states = []queue.State{queue.State(in.State)}
	}
	var found []queue.Info
	for _, s := range states {
		more, err := q.List(ctx, s, in.Limit-len(found))
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return &jobsOutput{&wire.List[wire.Job]{Items: mapped(found, job)}}, nil
}

func (a *API) changeJob(change func(queue.Inspector, context.Context, string) error) func(context.Context, *jobPath) (*empty, error) {
	return func(ctx context.Context, in *jobPath) (*empty, error) {
		q, err := a.jobs()
		if err != nil {
			return nil, err
		}
		return nil, change(q, ctx, in.Job)
	}
}

func job(j queue.Info) wire.Job {
	return wire.Job{
		ID: j.ID, Kind: j.Kind, Subject: j.Key, ProjectID: j.Tenant, State: string(j.State), Priority: j.Priority,
		Attempt: j.Attempt, MaxAttempts: j.MaxAttempts, At: j.At.UTC(), Error: j.Error,
	}
}
