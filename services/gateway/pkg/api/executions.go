package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/apiform"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
	"github.com/aetherium/aetherium/services/gateway/pkg/ws"
)

type (
	startExecutionInput struct {
		VMPath
		KeyHeader
		ExecutionHeader
		Wait bool `query:"wait" doc:"Answer when it has ended"`
		Body wire.StartExecution
	}
	listExecutionsInput struct {
		VMPath
		PageQuery
	}
	outputInput struct {
		IDPath
		Offset int64  `query:"offset" minimum:"0" doc:"First byte wanted, among the bytes of all streams"`
		Follow bool   `query:"follow" doc:"Wait for more until the end"`
		Stream string `query:"stream" enum:"stdout,stderr,pty" doc:"Only this stream"`
	}
	eventsInput struct {
		IDPath
		Offset      int64  `query:"offset" minimum:"0" doc:"First byte wanted"`
		LastEventID string `header:"Last-Event-ID" maxLength:"20" doc:"Where to go on; beats offset"`
	}
	streamInput struct {
		IDPath
		Offset int64 `query:"offset" minimum:"0" doc:"First byte wanted"`
	}
	signalInput struct {
		IDPath
		KeyHeader
		Body wire.Signal
	}
	resizeInput struct {
		IDPath
		KeyHeader
		Body wire.PTYSize
	}
	stdinInput struct {
		IDPath
		Offset int64 `query:"offset" minimum:"-1" default:"-1" doc:"Where the body belongs in the whole input, so that a resent piece is taken once; -1 appends"`
	}
	executionOutput  struct{ Body wire.Execution }
	executionsOutput struct{ Body wire.ExecutionList }
	empty            struct{}
)

func (a *API) executionRoutes() {
	const tag = "Executions"
	a.executeRoute()

	start := operation("start-execution", http.MethodPost, "/vms/{vm}/executions", tag, "Start a command",
		"Answers when the guest agent has confirmed the start. With `Accept: text/event-stream` the answer is the execution's event stream. A client that goes away never ends a command.")
	start.Responses = map[string]*huma.Response{
		"201": jsonOf[wire.Execution](a, "It runs, or with wait=true has ended"),
		"200": a.outputEvents("Its events", schemaOf[wire.Execution](a)),
	}
	register(a, start, options{scope: domain.ScopeRun, recognises: true}, a.startExecution)

	register(a, operation("list-executions", http.MethodGet, "/vms/{vm}/executions", tag, "List a VM's executions",
		"While the worker that has the VM is not reached, those of the last moments can be missing, and one that has ended since is shown as running (incomplete)."), options{scope: domain.ScopeRead}, a.listExecutions)
	register(a, operation("get-execution", http.MethodGet, "/executions/{id}", tag, "Get an execution", ""), options{scope: domain.ScopeRead}, a.getExecution)

	out := operation("get-output", http.MethodGet, "/executions/{id}/output", tag, "Read an execution's output",
		"As newline-delimited JSON; `Accept: text/event-stream` gives events, `Accept: application/octet-stream` the bytes alone, which are refused with 416 where the oldest are no longer kept.")
	output := a.outputEvents("Output")
	output.Content["application/x-ndjson"] = &huma.MediaType{Schema: schemaOf[wire.OutputEvent](a)}
	output.Content["application/octet-stream"] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
	out.Responses = map[string]*huma.Response{"200": output}
	register(a, out, options{scope: domain.ScopeRead}, a.output)

	events := operation("stream-execution-events", http.MethodGet, "/executions/{id}/events", tag, "Follow an execution as server-sent events",
		"Events stdout, stderr, pty, gap, exit and error; an event's ID is the offset to resume at, and `end` after the exit.")
	events.Responses = map[string]*huma.Response{
		"200": a.outputEvents("Events"),
		"204": {Description: "Everything has been told (Last-Event-ID: end)"},
	}
	register(a, events, options{scope: domain.ScopeRead}, a.executionEvents)

	stream := operation("stream-execution", http.MethodGet, "/executions/{id}/stream", tag, "Follow and feed an execution over WebSocket",
		"Binary frames: a byte of kind (0 stdin, 1 stdout, 2 stderr, 3 pty), eight bytes of big-endian offset, data. Text frames: ClientControl and ServerControl. Closing the socket does not end the command.")
	stream.Responses = map[string]*huma.Response{"101": upgradeResponse()}
	register(a, stream, options{scope: domain.ScopeRun}, a.stream)

	run := operation("run-stream", http.MethodGet, "/vms/{vm}/stream", tag, "Start, follow and feed an execution over one WebSocket",
		"As stream-execution; the client's first text frame is a StartControl.")
	run.Responses = map[string]*huma.Response{"101": upgradeResponse()}
	register(a, run, options{scope: domain.ScopeRun}, a.runStream)

	register(a, operation("signal-execution", http.MethodPost, "/executions/{id}/signal", tag, "Signal a command's process group", ""), options{scope: domain.ScopeRun}, a.signal)
	register(a, operation("resize-execution", http.MethodPost, "/executions/{id}/resize", tag, "Resize a command's terminal", ""), options{scope: domain.ScopeRun}, a.resize)
	stdin := operation("write-stdin", http.MethodPost, "/executions/{id}/stdin", tag, "Send input to a command", "Answers when the command's agent has taken it all.")
	stdin.RequestBody = binaryBody("application/octet-stream", "Input")
	stdin.Responses = map[string]*huma.Response{"204": {Description: "Taken"}}
	register(a, stdin, options{scope: domain.ScopeRun}, a.stdin)
	register(a, operation("close-stdin", http.MethodPost, "/executions/{id}/stdin/close", tag, "End a command's input", ""), options{scope: domain.ScopeRun},
		func(ctx context.Context, in *postIDInput) (*empty, error) {
			return nil, a.VMs.CloseStdin(ctx, auth.CallerFrom(ctx), in.id())
		})
}

// toStart translates a request and checks what its schema cannot.
func toStart(id string, c wire.Command, pty *wire.PTYSize, stdin bool) (vmm.StartExecution, error) {
	req := vmm.StartExecution{ID: domain.ID(id), Command: domain.Command{
		Args: c.Args, Env: c.Env, Cwd: c.Cwd, User: c.User, Stdin: stdin, Timeout: fromMS(c.TimeoutMS),
	}}
	switch {
	case c.Command != "" && len(c.Args) > 0:
		return req, errors.New(errors.InvalidArgument, "give args or command, not both").WithField("body.command")
	case c.Command != "":
		req.Command.Args = []string{"/bin/bash", "-l", "-c", c.Command}
	}
	if pty != nil {
		req.Command.PTY = &domain.PTYSize{Cols: pty.Cols, Rows: pty.Rows}
	}
	return req, req.Command.Validate()
}

// keyed makes a request recognisable by its Idempotency-Key: its execution's ID
// is derived from that, and an ID never runs twice, whichever gateway is asked.
func keyed(req *vmm.StartExecution, key string, project, vm domain.ID, body any) {
	if key == "" {
		return
	}
	req.Command.Request = bodyDigest(body)
	if req.ID == "" {
		req.ID = domain.DerivedID("execution", project.String(), vm.String(), key)
	}
}

func (a *API) startExecution(ctx context.Context, in *startExecutionInput) (*huma.StreamResponse, error) {
	by, vm, err := a.resolve(ctx, in.VMPath)
	if err != nil {
		return nil, err
	}
	req, err := toStart(in.Body.ID, in.Body.Command, in.Body.PTY, in.Body.Stdin)
	if err != nil {
		return nil, err
	}
	keyed(&req, in.IdempotencyKey, by.ProjectID, vm, in.Body)
	exec, err := a.VMs.StartExecution(ctx, by, vm, req)
	if err != nil {
		return nil, err
	}
	trail.Subject(ctx, "execution", exec.ID.String())
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		if ws.WantsSSE(r) {
			started := apiform.Execution(exec)
			return a.Streams.OutputSSE(w, r, by, exec.ID, ws.OutputQuery{Started: &started})
		}
		if in.Wait {
			var err error
			if exec, err = a.VMs.WaitExecution(r.Context(), by, exec.ID); err != nil {
				return err
			}
		}
		w.Header().Set("Location", location("executions", exec.ID.String()))
		return writeJSON(w, http.StatusCreated, apiform.Execution(exec))
	}), nil
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(buf.Bytes())
	return nil
}

func (a *API) listExecutions(ctx context.Context, in *listExecutionsInput) (*executionsOutput, error) {
	by, vm, err := a.resolve(ctx, in.VMPath)
	if err != nil {
		return nil, err
	}
	l, err := a.VMs.ListExecutions(ctx, by, vm, in.page())
	if err != nil {
		return nil, err
	}
	out := wire.ExecutionList{List: *listOf(l.List, apiform.Execution)}
	if l.Away != nil {
		out.Incomplete = errors.Public(l.Away).Message
	}
	return &executionsOutput{out}, nil
}

func (a *API) getExecution(ctx context.Context, in *IDPath) (*executionOutput, error) {
	x, err := a.VMs.GetExecution(ctx, auth.CallerFrom(ctx), in.id())
	if err != nil {
		return nil, err
	}
	return &executionOutput{apiform.Execution(x)}, nil
}

func (a *API) output(ctx context.Context, in *outputInput) (*huma.StreamResponse, error) {
	q := ws.OutputQuery{Offset: in.Offset, Follow: in.Follow}
	for _, s := range []domain.OutputStream{domain.Stdout, domain.Stderr, domain.PTY} {
		if in.Stream == s.String() {
			q.Stream = s
		}
	}
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		return a.Streams.Output(w, r, auth.CallerFrom(ctx), in.id(), q)
	}), nil
}

func (a *API) executionEvents(ctx context.Context, in *eventsInput) (*huma.StreamResponse, error) {
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		return a.Streams.OutputSSE(w, r, auth.CallerFrom(ctx), in.id(), ws.OutputQuery{Offset: in.Offset})
	}), nil
}

func (a *API) stream(ctx context.Context, in *streamInput) (*huma.StreamResponse, error) {
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		return a.Streams.Execution(w, r, auth.CallerFrom(ctx), in.id(), in.Offset)
	}), nil
}

func (a *API) runStream(ctx context.Context, in *VMPath) (*huma.StreamResponse, error) {
	by, vm, err := a.resolve(ctx, *in)
	if err != nil {
		return nil, err
	}
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		return a.Streams.Start(w, r, by, func(ctx context.Context, frame []byte) (*domain.Execution, int64, error) {
			start, err := a.decodeStart(frame)
			if err != nil {
				return nil, 0, err
			}
			req, err := toStart(start.ID, start.Command, start.PTY, start.Stdin)
			if err != nil {
				return nil, 0, err
			}
			var exec *domain.Execution
			err = a.Trail.Do(r, by, trail.Act{Operation: "run-stream", Kind: "execution", ID: start.ID, VM: vm}, func() (string, error) {
				if exec, err = a.VMs.StartExecution(ctx, by, vm, req); err != nil {
					return "", err
				}
				return exec.ID.String(), nil
			})
			return exec, start.Offset, err
		})
	}), nil
}

// decodeStart reads a start frame by the same schema as the REST operation.
func (a *API) decodeStart(frame []byte) (wire.StartControl, error) {
	var start wire.StartControl
	var parsed any
	if err := json.Unmarshal(frame, &parsed); err != nil {
		return start, errors.Wrap(err, errors.InvalidArgument, "the start frame is not JSON")
	}
	var res huma.ValidateResult
	path := huma.NewPathBuffer(make([]byte, 0, 128), 0)
	path.Push("start")
	huma.Validate(a.huma.OpenAPI().Components.Schemas, a.start, path, huma.ModeWriteToServer, parsed, &res)
	if len(res.Errors) > 0 {
		p := fromHuma(&huma.ErrorModel{Status: http.StatusBadRequest, Detail: "the start frame is not valid", Errors: details(res.Errors)})
		return start, errors.New(errors.InvalidArgument, "%s", firstDetail(p)).WithField(p.Field).WithHint("%s", p.Hint)
	}
	if err := json.Unmarshal(frame, &start); err != nil {
		return start, errors.Wrap(err, errors.InvalidArgument, "the start frame is not valid")
	}
	return start, nil
}

func details(errs []error) []*huma.ErrorDetail {
	var out []*huma.ErrorDetail
	for _, err := range errs {
		if d, ok := err.(huma.ErrorDetailer); ok {
			out = append(out, d.ErrorDetail())
		}
	}
	return out
}

func firstDetail(p *problem.Response) string {
	if len(p.Errors) > 1 {
		return p.Errors[0].Field + ": " + p.Errors[0].Message
	}
	return p.Detail
}

func (a *API) signal(ctx context.Context, in *signalInput) (*empty, error) {
	n, err := wire.ParseSignal(in.Body.Signal)
	if err != nil {
		return nil, errors.New(errors.InvalidArgument, "%s", err.Error()).WithField("body.signal")
	}
	return nil, a.VMs.SignalExecution(ctx, auth.CallerFrom(ctx), in.id(), n)
}

func (a *API) resize(ctx context.Context, in *resizeInput) (*empty, error) {
	return nil, a.VMs.ResizePTY(ctx, auth.CallerFrom(ctx), in.id(), domain.PTYSize{Cols: in.Body.Cols, Rows: in.Body.Rows})
}

func (a *API) stdin(ctx context.Context, in *stdinInput) (*huma.StreamResponse, error) {
	by := auth.CallerFrom(ctx)
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		if err := middleware.LimitBody(w, r, stdinBodyBytes); err != nil {
			return err
		}
		buf := make([]byte, 64<<10)
		offset := in.Offset
		for {
			n, err := r.Body.Read(buf)
			if n > 0 {
				if werr := a.VMs.WriteStdin(r.Context(), by, in.id(), offset, buf[:n]); werr != nil {
					return werr
				}
				if offset >= 0 {
					offset += int64(n)
				}
			}
			if errors.Is(err, io.EOF) {
				w.WriteHeader(http.StatusNoContent)
				return nil
			}
			if err != nil {
				return err
			}
		}
	}), nil
}
