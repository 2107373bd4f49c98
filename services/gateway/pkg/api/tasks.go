package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/apiform"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
	"github.com/aetherium/aetherium/services/gateway/pkg/ws"
)

type (
	listTasksInput struct {
		PageQuery
		State []string `query:"state,explode" maxItems:"8" enum:"pending,running,succeeded,failed,canceled" doc:"Any of these; may be repeated"`
		Kind  string   `query:"kind" maxLength:"32" pattern:"^[a-z.]+$" patternDescription:"lower case letters and dots" doc:"Only tasks of this kind: run, template.build, tools.install, vm.create, …"`
		Group string   `query:"group" maxLength:"20" pattern:"^[a-z0-9]{20}$" patternDescription:"an ID: 20 characters of a-z and 0-9" doc:"Only tasks of this group"`
	}
	getTaskInput struct {
		IDPath
		WaitMS int64 `query:"wait_ms" minimum:"0" maximum:"600000" doc:"Wait so long for it to end"`
	}
	createTaskInput struct {
		KeyHeader
		Body wire.CreateTask
	}
	createdTask struct {
		Location string `header:"Location"`
		Body     wire.Task
	}
	createTaskGroupInput struct {
		KeyHeader
		Body wire.CreateTaskGroup
	}
	createdTaskGroup struct {
		Location string `header:"Location"`
		Body     wire.TaskGroup
	}
	taskGroupOutput struct{ Body wire.TaskGroup }
	taskOutputInput struct {
		IDPath
		Offset int64  `query:"offset" minimum:"0" doc:"First byte wanted, among the bytes of all streams"`
		Follow bool   `query:"follow" doc:"Wait for the command's start, and for more until its end"`
		Stream string `query:"stream" enum:"stdout,stderr" doc:"Only this stream"`
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
			return &taskOutput{apiform.Task(t)}, nil
		})

	create := operation("create-task", http.MethodPost, "/tasks", tag, "Run a command in a VM of its own",
		"Answers when the task is stored. A VM is made, the command is run in it once, its output and result files are kept, and the VM is deleted. It is run again only where that was asked for: by max_attempts, or by retrying the task.")
	create.DefaultStatus = http.StatusCreated
	register(a, create, options{scope: domain.ScopeRun, body: taskBodyBytes, recognises: true}, a.createTask)
	register(a, operation("retry-task", http.MethodPost, "/tasks/{id}/retry", tag, "Run a task's command once more", "For tasks of the kind run that failed or were canceled."), options{scope: domain.ScopeRun},
		func(ctx context.Context, in *postIDInput) (*taskOutput, error) {
			t, err := a.Tasks.RetryTask(ctx, auth.CallerFrom(ctx), in.id())
			if err != nil {
				return nil, err
			}
			return &taskOutput{apiform.Task(t)}, nil
		})
	out := operation("get-task-output", http.MethodGet, "/tasks/{id}/output", tag, "Read the output of a task's command",
		"Of its last attempt, as get-output has it.")
	output := a.outputEvents("Output")
	output.Content["application/x-ndjson"] = &huma.MediaType{Schema: schemaOf[wire.OutputEvent](a)}
	output.Content["application/octet-stream"] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
	out.Responses = map[string]*huma.Response{"200": output}
	register(a, out, options{scope: domain.ScopeRead}, a.taskOutput)

	group := operation("create-task-group", http.MethodPost, "/task-groups", tag, "Make many tasks at once", "All of them, or none. `GET /tasks?group=` lists them.")
	group.DefaultStatus = http.StatusCreated
	register(a, group, options{scope: domain.ScopeRun, body: taskGroupBodyBytes, recognises: true}, a.createTaskGroup)
	register(a, operation("get-task-group", http.MethodGet, "/task-groups/{id}", tag, "Count a group's tasks", ""), options{scope: domain.ScopeRead},
		func(ctx context.Context, in *IDPath) (*taskGroupOutput, error) {
			return groupOutput(a.Tasks.GetTaskGroup(ctx, auth.CallerFrom(ctx), in.id()))
		})
	register(a, operation("cancel-task-group", http.MethodPost, "/task-groups/{id}/cancel", tag, "Ask the tasks of a group to end", "Those that have ended stay as they are."), options{scope: domain.ScopeRun},
		func(ctx context.Context, in *postIDInput) (*taskGroupOutput, error) {
			return groupOutput(a.Tasks.CancelTaskGroup(ctx, auth.CallerFrom(ctx), in.id()))
		})
}

// Bounds on bodies.
const (
	taskBodyBytes      = 4 << 20
	taskGroupBodyBytes = 16 << 20
)

// defaultTaskTime is the timeout of tasks that name none.
const defaultTaskTime = time.Hour

// toRun translates a request and checks what its schema cannot.
func toRun(c wire.CreateTask) (vmm.Run, error) {
	vm := given(c.VM)
	for field, is := range map[string]bool{
		"name": vm.Name != "", "timeout_ms": vm.TimeoutMS != nil, "idle_timeout_ms": vm.IdleTimeoutMS != 0, "on_timeout": vm.OnTimeout != "", "auto_resume": vm.AutoResume,
	} {
		if is {
			return vmm.Run{}, errors.New(errors.InvalidArgument, "the VM of a task has no %s of its own", field).WithField("body.vm." + field).
				WithHint("its task decides: see timeout_ms beside the command")
		}
	}
	start, err := toStart("", c.Command, nil, false)
	if err != nil {
		return vmm.Run{}, err
	}
	if start.Command.Timeout == 0 {
		start.Command.Timeout = defaultTaskTime
	}
	return vmm.Run{
		Name: c.Name, VM: toCreate(vm), Command: start.Command, Stdin: []byte(c.Stdin), Results: c.Results,
		Files: mapped(c.Files, func(f wire.TaskFile) vmm.RunFile {
			return vmm.RunFile{Path: f.Path, Content: f.Content, Mode: parseMode(f.Mode)}
		}),
		MaxAttempts: c.MaxAttempts, Backoff: fromMS(c.BackoffMS), AfterFailure: domain.AfterFailure(c.AfterFailure),
		After: mapped(c.After, func(s string) domain.ID { return domain.ID(s) }),
	}, nil
}

func (a *API) createTask(ctx context.Context, in *createTaskInput) (*createdTask, error) {
	run, err := toRun(in.Body)
	if err != nil {
		return nil, err
	}
	req := vmm.CreateRuns{Runs: []vmm.Run{run}, IdempotencyKey: in.IdempotencyKey}
	if in.IdempotencyKey != "" {
		req.RequestDigest = bodyDigest(in.Body)
	}
	tasks, err := a.Tasks.CreateRuns(ctx, auth.CallerFrom(ctx), req)
	if err != nil {
		return nil, err
	}
	id := tasks[0].ID.String()
	trail.Subject(ctx, "task", id)
	return &createdTask{location("tasks", id), apiform.Task(tasks[0])}, nil
}

func (a *API) createTaskGroup(ctx context.Context, in *createTaskGroupInput) (*createdTaskGroup, error) {
	by := auth.CallerFrom(ctx)
	req := vmm.CreateRuns{Group: true, IdempotencyKey: in.IdempotencyKey, Runs: make([]vmm.Run, len(in.Body.Tasks))}
	for i, t := range in.Body.Tasks {
		var err error
		if req.Runs[i], err = toRun(t); err != nil {
			return nil, err
		}
	}
	if in.IdempotencyKey != "" {
		req.RequestDigest = bodyDigest(in.Body)
	}
	tasks, err := a.Tasks.CreateRuns(ctx, by, req)
	if err != nil {
		return nil, err
	}
	g, err := a.Tasks.GetTaskGroup(ctx, by, tasks[0].GroupID)
	if err != nil {
		return nil, err
	}
	trail.Subject(ctx, "task-group", g.ID.String())
	return &createdTaskGroup{location("task-groups", g.ID.String()), taskGroup(g)}, nil
}

func groupOutput(g vmm.TaskGroup, err error) (*taskGroupOutput, error) {
	if err != nil {
		return nil, err
	}
	return &taskGroupOutput{taskGroup(g)}, nil
}

func taskGroup(g vmm.TaskGroup) wire.TaskGroup {
	out := wire.TaskGroup{ID: g.ID.String(), Ended: true, States: make(map[string]int, len(g.Counts))}
	for state, n := range g.Counts {
		out.Total += n
		out.States[string(state)] = n
		out.Ended = out.Ended && state.Ended()
	}
	return out
}

func (a *API) taskOutput(ctx context.Context, in *taskOutputInput) (*huma.StreamResponse, error) {
	by := auth.CallerFrom(ctx)
	id, err := a.Tasks.TaskExecution(ctx, by, in.id(), in.Follow)
	if err != nil {
		return nil, err
	}
	q := ws.OutputQuery{Offset: in.Offset, Follow: in.Follow}
	for _, s := range []domain.OutputStream{domain.Stdout, domain.Stderr} {
		if in.Stream == s.String() {
			q.Stream = s
		}
	}
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		return a.Streams.Output(w, r, by, id, q)
	}), nil
}

func (a *API) listTasks(ctx context.Context, in *listTasksInput) (*tasksOutput, error) {
	states := mapped(in.State, func(s string) domain.TaskState { return domain.TaskState(s) })
	l, err := a.Tasks.ListTasks(ctx, auth.CallerFrom(ctx), vmm.TaskFilter{States: states, Kind: in.Kind, GroupID: domain.ID(in.Group), Page: in.page()})
	if err != nil {
		return nil, err
	}
	return &tasksOutput{listOf(l, apiform.Task)}, nil
}

func (a *API) getTask(ctx context.Context, in *getTaskInput) (*taskOutput, error) {
	by := auth.CallerFrom(ctx)
	if in.WaitMS > 0 {
		wctx, cancel := context.WithTimeout(ctx, time.Duration(in.WaitMS)*time.Millisecond)
		defer cancel()
		t, err := a.Tasks.WaitTask(wctx, by, in.id())
		if err == nil {
			return &taskOutput{apiform.Task(t)}, nil
		}
		if ctx.Err() != nil || !errors.Is(wctx.Err(), context.DeadlineExceeded) {
			return nil, err
		}
	}
	t, err := a.Tasks.GetTask(ctx, by, in.id())
	if err != nil {
		return nil, err
	}
	return &taskOutput{apiform.Task(t)}, nil
}
