package client

import (
	"context"
	"io"
	"iter"
	"net/http"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Status tells what the server is. Returns PermissionDenied for keys that are no administrator's.
func (c *Client) Status(ctx context.Context) (api.Status, error) {
	return fetch[api.Status](ctx, c, get("status"))
}

// Endpoints tells where the server is reached by clients of other makes.
func (c *Client) Endpoints(ctx context.Context) (api.Endpoints, error) {
	return fetch[api.Endpoints](ctx, c, get("endpoints"))
}

// Drivers lists what each driver of the installation can do.
func (c *Client) Drivers(ctx context.Context) ([]api.Driver, error) {
	list, err := fetch[api.List[api.Driver]](ctx, c, get("drivers"))
	return list.Items, err
}

// Workers lists the nodes.
func (c *Client) Workers(ctx context.Context) ([]api.Worker, error) {
	list, err := fetch[api.List[api.Worker]](ctx, c, get("workers"))
	return list.Items, err
}

// Templates lists templates.
func (c *Client) Templates(ctx context.Context, p Page) iter.Seq2[api.Template, error] {
	return all[api.Template](ctx, c, get("templates"), p)
}

// Template gets a template by name or ID.
func (c *Client) Template(ctx context.Context, name string) (api.Template, error) {
	return fetch[api.Template](ctx, c, get("templates", name))
}

// DeleteTemplate removes a template and those of its builds that nothing uses.
func (c *Client) DeleteTemplate(ctx context.Context, name string) error {
	return c.perform(ctx, remove("templates", name))
}

// TagTemplate points a tag of a template at one of its builds. Returns
// NotFound, InvalidArgument for a build of another template, Conflict.
func (c *Client) TagTemplate(ctx context.Context, name, tag string, req api.TagTemplate) (api.TemplateTag, error) {
	return fetch[api.TemplateTag](ctx, c, call{method: http.MethodPut, path: []string{"templates", name, "tags", tag}, body: req, safe: true})
}

// UntagTemplate removes a tag of a template; its build stays. Returns NotFound,
// InvalidArgument for latest.
func (c *Client) UntagTemplate(ctx context.Context, name, tag string) error {
	return c.perform(ctx, remove("templates", name, "tags", tag))
}

// BuildTemplate starts a template build. The task's subject is the build.
func (c *Client) BuildTemplate(ctx context.Context, req api.BuildTemplate) (api.Task, error) {
	accepted, err := fetch[api.Accepted](ctx, c, create(req, "templates"))
	return accepted.Task, err
}

// Upload sends a file to be used later. size is -1 where it is not known.
func (c *Client) Upload(ctx context.Context, r io.Reader, size int64) (api.Upload, error) {
	cl := call{method: http.MethodPut, path: []string{"uploads"}, stream: r, length: size}
	return fetch[api.Upload](ctx, c, cl.with("Content-Type", "application/x-tar"))
}

// FollowBuildLog writes a build's log to w until the build ends, across
// disconnects: a log is taken up again at its offset.
func (c *Client) FollowBuildLog(ctx context.Context, build string, w io.Writer) error {
	return c.followLog(ctx, get("templates", "builds", build, "log"), w)
}

func (c *Client) followLog(ctx context.Context, log call, w io.Writer) error {
	sink := &countingWriter{w: w}
	for b := c.backoff(); ; {
		before := sink.n
		err := c.readLog(ctx, log, sink)
		if err == nil || sink.err != nil {
			return err
		}
		if sink.n > before {
			b.reset()
		}
		if !c.worthRepeating(ctx, err) || !b.wait(ctx, err) {
			return err
		}
	}
}

func (c *Client) readLog(ctx context.Context, log call, sink *countingWriter) error {
	resp, err := c.open(ctx, log.param("follow", "true").param("offset", strconv.FormatInt(sink.n, 10)))
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err = io.Copy(sink, resp.Body); err != nil && sink.err == nil {
		return c.unreachable(ctx, err)
	}
	return err
}

// countingWriter counts what was written and keeps the first error.
type countingWriter struct {
	w   io.Writer
	n   int64
	err error
}

func (cw *countingWriter) Write(p []byte) (int, error) {
	n, err := cw.w.Write(p)
	cw.n += int64(n)
	if err != nil && cw.err == nil {
		cw.err = err
	}
	return n, err
}

// TaskFilter narrows a list. Zero fields do not filter.
type TaskFilter struct {
	States      []string
	Kind, Group string
}

// Tasks lists tasks.
func (c *Client) Tasks(ctx context.Context, f TaskFilter, p Page) iter.Seq2[api.Task, error] {
	cl := get("tasks")
	if len(f.States) > 0 {
		cl.query = map[string][]string{"state": f.States}
	}
	if f.Kind != "" {
		cl = cl.param("kind", f.Kind)
	}
	if f.Group != "" {
		cl = cl.param("group", f.Group)
	}
	return all[api.Task](ctx, c, cl, p)
}

// CreateTask has a command run in a VM of its own.
func (c *Client) CreateTask(ctx context.Context, req api.CreateTask) (api.Task, error) {
	return c.CreateTaskOnce(ctx, domain.NewID().String(), req)
}

// CreateTaskOnce is CreateTask with a key of the caller's: the same key and
// request yield the same task, however often they are sent.
func (c *Client) CreateTaskOnce(ctx context.Context, key string, req api.CreateTask) (api.Task, error) {
	return fetch[api.Task](ctx, c, post(req, "tasks").keyed(key))
}

// CreateTaskGroup makes many tasks at once.
func (c *Client) CreateTaskGroup(ctx context.Context, req api.CreateTaskGroup) (api.TaskGroup, error) {
	return fetch[api.TaskGroup](ctx, c, create(req, "task-groups"))
}

// TaskGroup counts a group's tasks. Returns NotFound.
func (c *Client) TaskGroup(ctx context.Context, id string) (api.TaskGroup, error) {
	return fetch[api.TaskGroup](ctx, c, get("task-groups", id))
}

// CancelTaskGroup asks the tasks of a group to end.
func (c *Client) CancelTaskGroup(ctx context.Context, id string) (api.TaskGroup, error) {
	return fetch[api.TaskGroup](ctx, c, post(nil, "task-groups", id, "cancel"))
}

// RetryTask lets a task run once more. Returns Conflict, Unsupported.
func (c *Client) RetryTask(ctx context.Context, id string) (api.Task, error) {
	return fetch[api.Task](ctx, c, post(nil, "tasks", id, "retry"))
}

// TaskOutput writes what a task's command wrote to w; with follow, from its start
// until its end, and goes on where a connection broke.
func (c *Client) TaskOutput(ctx context.Context, id string, follow bool, w io.Writer) error {
	out := get("tasks", id, "output").with("Accept", "application/octet-stream")
	if !follow {
		resp, err := c.open(ctx, out)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		_, err = io.Copy(w, resp.Body)
		return err
	}
	return c.followLog(ctx, out, w)
}

// Task gets a task.
func (c *Client) Task(ctx context.Context, id string) (api.Task, error) {
	return fetch[api.Task](ctx, c, get("tasks", id))
}

// taskWait is how long one request waits for a task.
const taskWait = 30 * time.Second

// WaitTask waits until a task has ended. A task that failed is an error with
// its code; one that was canceled is Canceled.
func (c *Client) WaitTask(ctx context.Context, id string) (api.Task, error) {
	for {
		t, err := fetch[api.Task](ctx, c, get("tasks", id).param("wait_ms", strconv.FormatInt(taskWait.Milliseconds(), 10)))
		if err != nil {
			return t, err
		}
		switch {
		case domain.TaskState(t.State) == domain.TaskCanceled:
			return t, errors.New(errors.Canceled, "the task %s was canceled", id)
		case domain.TaskState(t.State) == domain.TaskFailed && t.Error != nil:
			return t, errors.New(errors.Code(t.Error.Code), "%s", t.Error.Message)
		case domain.TaskState(t.State) == domain.TaskFailed:
			return t, errors.New(errors.Internal, "the task %s failed", id)
		case domain.TaskState(t.State).Ended():
			return t, nil
		}
	}
}

// CancelTask asks a task to end. Returns Conflict when it has ended.
func (c *Client) CancelTask(ctx context.Context, id string) (api.Task, error) {
	return fetch[api.Task](ctx, c, post(nil, "tasks", id, "cancel"))
}
