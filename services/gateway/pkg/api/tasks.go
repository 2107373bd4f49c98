package api

import (
	"context"
	"net/http"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
)

type (
	listTasksInput struct {
		PageQuery
		State []string `query:"state,explode" maxItems:"8" enum:"pending,running,succeeded,failed,canceled" doc:"Any of these; may be repeated"`
	}
	getTaskInput struct {
		IDPath
		WaitMS int64 `query:"wait_ms" minimum:"0" maximum:"600000" doc:"Wait so long for it to end"`
	}
	taskOutput  struct{ Body wire.Task }
	tasksOutput struct{ Body *wire.List[wire.Task] }
)

func (a *API) taskRoutes() {
	const tag = "Tasks"
	register(a, operation("list-tasks", http.MethodGet, "/tasks", tag, "List tasks", ""), options{scope: domain.ScopeRead}, a.listTasks)
	register(a, operation("get-task", http.MethodGet, "/tasks/{id}", tag, "Get a task", "With wait_ms, once it has ended or the time is over."), options{scope: domain.ScopeRead}, a.getTask)
	register(a, operation("cancel-task", http.MethodPost, "/tasks/{id}/cancel", tag, "Ask a task to end", ""), options{scope: domain.ScopeRun},
		func(ctx context.Context, in *postIDInput) (*taskOutput, error) {
			t, err := a.Tasks.CancelTask(ctx, auth.CallerFrom(ctx), in.id())
			if err != nil {
				return nil, err
			}
			return &taskOutput{task(t)}, nil
		})
}

func (a *API) listTasks(ctx context.Context, in *listTasksInput) (*tasksOutput, error) {
	states := mapped(in.State, func(s string) domain.TaskState { return domain.TaskState(s) })
	l, err := a.Tasks.ListTasks(ctx, auth.CallerFrom(ctx), states, in.page())
	if err != nil {
		return nil, err
	}
	return &tasksOutput{listOf(l, task)}, nil
}

func (a *API) getTask(ctx context.Context, in *getTaskInput) (*taskOutput, error) {
	by := auth.CallerFrom(ctx)
	if in.WaitMS > 0 {
		wctx, cancel := context.WithTimeout(ctx, time.Duration(in.WaitMS)*time.Millisecond)
		defer cancel()
		t, err := a.Tasks.WaitTask(wctx, by, in.id())
		if err == nil {
			return &taskOutput{task(t)}, nil
		}
		if ctx.Err() != nil || !errors.Is(wctx.Err(), context.DeadlineExceeded) {
			return nil, err
		}
	}
	t, err := a.Tasks.GetTask(ctx, by, in.id())
	if err != nil {
		return nil, err
	}
	return &taskOutput{task(t)}, nil
}
