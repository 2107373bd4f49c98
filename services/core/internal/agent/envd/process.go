package envd

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/access"
	"github.com/aetherium/aetherium/services/core/internal/agent/execution"
	"github.com/aetherium/aetherium/services/core/internal/agent/spawn"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
	processpb "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/process"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/process/processpbconnect"
)

// Process serves process.Process.
type Process struct {
	Guard      *access.Guard
	Executions *execution.Registry
}

var _ processpbconnect.ProcessHandler = (*Process)(nil)

// Start runs a program and follows it. The time that Connect-Timeout-Ms gives
// is the command's: it holds when the client has long gone.
func (p *Process) Start(ctx context.Context, req *connect.Request[processpb.StartRequest], out *connect.ServerStream[processpb.StartResponse]) error {
	command, err := p.command(req)
	if err != nil {
		return wire.Connect(err)
	}
	ex, reader, err := p.Executions.StartForeign(ctx, command)
	if err != nil {
		return wire.Connect(err)
	}
	defer reader.Close()
	return follow(ctx, ex, reader, keepalive(req.Header()), func(e *processpb.ProcessEvent) error {
		return out.Send(&processpb.StartResponse{Event: e})
	})
}

func (p *Process) command(req *connect.Request[processpb.StartRequest]) (execution.Command, error) {
	config := req.Msg.GetProcess()
	if config.GetCmd() == "" {
		return execution.Command{}, errors.New(errors.InvalidArgument, "no command is given")
	}
	u, err := p.Guard.User(req.Header())
	if err != nil {
		return execution.Command{}, err
	}
	timeout, err := timeoutOf(req.Header())
	if err != nil {
		return execution.Command{}, err
	}
	c := execution.Command{
		Args: append([]string{config.GetCmd()}, config.GetArgs()...), Env: config.GetEnvs(), Cwd: config.GetCwd(),
		User: u.Name, Tag: req.Msg.GetTag(), Timeout: timeout,
		Stdin: req.Msg.Stdin == nil || req.Msg.GetStdin(),
	}
	if req.Msg.GetPty() != nil {
		size, err := sizeOf(req.Msg.GetPty())
		if err != nil {
			return execution.Command{}, err
		}
		c.Size = &size
	}
	return c, nil
}

// timeoutOf reads Connect-Timeout-Ms; absent is unlimited. Connect itself ends
// the stream by it; the process is ours to kill.
func timeoutOf(h http.Header) (time.Duration, error) {
	text := h.Get("Connect-Timeout-Ms")
	if text == "" {
		return 0, nil
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ms < 0 || len(text) > 10 { // ten digits, as the protocol says
		return 0, errors.New(errors.InvalidArgument, "Connect-Timeout-Ms cannot be read")
	}
	return time.Duration(ms) * time.Millisecond, nil
}

func sizeOf(pty *processpb.PTY) (spawn.Size, error) {
	cols, rows := pty.GetSize().GetCols(), pty.GetSize().GetRows()
	if cols > math.MaxUint16 || rows > math.MaxUint16 {
		return spawn.Size{}, errors.New(errors.InvalidArgument, "the terminal's size is out of bounds")
	}
	return spawn.Size{Cols: uint16(cols), Rows: uint16(rows)}.OrDefault(), nil
}

// Connect follows a process from now on.
func (p *Process) Connect(ctx context.Context, req *connect.Request[processpb.ConnectRequest], out *connect.ServerStream[processpb.ConnectResponse]) error {
	ex, err := p.find(req.Msg.GetProcess())
	if err != nil {
		return wire.Connect(err)
	}
	reader := ex.Subscribe()
	defer reader.Close()
	return follow(ctx, ex, reader, keepalive(req.Header()), func(e *processpb.ProcessEvent) error {
		return out.Send(&processpb.ConnectResponse{Event: e})
	})
}

// find picks an execution by process ID or tag. Returns NotFound.
func (p *Process) find(s *processpb.ProcessSelector) (*execution.Execution, error) {
	switch by := s.GetSelector().(type) {
	case *processpb.ProcessSelector_Pid:
		return p.Executions.ByPID(int(by.Pid))
	case *processpb.ProcessSelector_Tag:
		return p.Executions.ByTag(by.Tag)
	}
	return nil, errors.New(errors.InvalidArgument, "no process is selected")
}

// running is find for those that can still be talked to.
func (p *Process) running(s *processpb.ProcessSelector) (*execution.Execution, error) {
	ex, err := p.find(s)
	if err != nil {
		return nil, err
	}
	if _, ended := ex.End(); ended {
		return nil, errors.New(errors.NotFound, "the process has ended")
	}
	return ex, nil
}

// List tells the running processes.
func (p *Process) List(context.Context, *connect.Request[processpb.ListRequest]) (*connect.Response[processpb.ListResponse], error) {
	list := &processpb.ListResponse{}
	for _, ex := range p.Executions.Running() {
		c := &ex.Command
		info := &processpb.ProcessInfo{
			Config: &processpb.ProcessConfig{Cmd: c.Args[0], Args: c.Args[1:], Envs: c.Env},
			Pid:    uint32(ex.PID),
		}
		if c.Cwd != "" {
			info.Config.Cwd = &c.Cwd
		}
		if c.Tag != "" {
			info.Tag = &c.Tag
		}
		list.Processes = append(list.Processes, info)
	}
	return connect.NewResponse(list), nil
}

// Update resizes a process's terminal.
func (p *Process) Update(_ context.Context, req *connect.Request[processpb.UpdateRequest]) (*connect.Response[processpb.UpdateResponse], error) {
	ex, err := p.running(req.Msg.GetProcess())
	if err == nil && req.Msg.GetPty() != nil {
		var size spawn.Size
		if size, err = sizeOf(req.Msg.GetPty()); err == nil {
			err = ex.Resize(size)
		}
	}
	return connect.NewResponse(&processpb.UpdateResponse{}), wire.Connect(err)
}

// SendInput writes input and answers when the process has it in its pipe.
func (p *Process) SendInput(ctx context.Context, req *connect.Request[processpb.SendInputRequest]) (*connect.Response[processpb.SendInputResponse], error) {
	ex, err := p.running(req.Msg.GetProcess())
	if err == nil {
		err = send(ctx, ex, req.Msg.GetInput())
	}
	return connect.NewResponse(&processpb.SendInputResponse{}), wire.Connect(err)
}

// send writes one input of the kind that the process takes.
func send(ctx context.Context, ex *execution.Execution, input *processpb.ProcessInput) error {
	terminal := ex.Command.Size != nil
	switch in := input.GetInput().(type) {
	case *processpb.ProcessInput_Stdin:
		if terminal {
			return errors.New(errors.InvalidArgument, "the process runs on a terminal: send pty input")
		}
		return ex.AddInput(ctx, in.Stdin)
	case *processpb.ProcessInput_Pty:
		if !terminal {
			return errors.New(errors.InvalidArgument, "the process does not run on a terminal: send stdin input")
		}
		return ex.AddInput(ctx, in.Pty)
	}
	return errors.New(errors.InvalidArgument, "no input is given")
}

// StreamInput writes input as it comes.
func (p *Process) StreamInput(ctx context.Context, in *connect.ClientStream[processpb.StreamInputRequest]) (*connect.Response[processpb.StreamInputResponse], error) {
	var ex *execution.Execution
	for in.Receive() {
		var err error
		switch event := in.Msg().GetEvent().(type) {
		case *processpb.StreamInputRequest_Start:
			if ex != nil {
				err = errors.New(errors.InvalidArgument, "a second start")
				break
			}
			ex, err = p.running(event.Start.GetProcess())
		case *processpb.StreamInputRequest_Data:
			if ex == nil {
				err = errors.New(errors.InvalidArgument, "data before start")
				break
			}
			err = send(ctx, ex, event.Data.GetInput())
		case *processpb.StreamInputRequest_Keepalive:
		default:
			err = errors.New(errors.InvalidArgument, "an empty message")
		}
		if err != nil {
			return nil, wire.Connect(err)
		}
	}
	if err := in.Err(); err != nil {
		return nil, err
	}
	return connect.NewResponse(&processpb.StreamInputResponse{}), nil
}

// SendSignal signals the process's group: what a shell started goes with it.
func (p *Process) SendSignal(_ context.Context, req *connect.Request[processpb.SendSignalRequest]) (*connect.Response[processpb.SendSignalResponse], error) {
	ex, err := p.running(req.Msg.GetProcess())
	if err == nil {
		switch signal := req.Msg.GetSignal(); signal {
		case processpb.Signal_SIGNAL_SIGTERM, processpb.Signal_SIGNAL_SIGKILL:
			err = ex.Signal(int(signal))
		default:
			err = errors.New(errors.InvalidArgument, "the signal must be SIGNAL_SIGTERM or SIGNAL_SIGKILL")
		}
	}
	return connect.NewResponse(&processpb.SendSignalResponse{}), wire.Connect(err)
}

// CloseStdin ends a process's input.
func (p *Process) CloseStdin(_ context.Context, req *connect.Request[processpb.CloseStdinRequest]) (*connect.Response[processpb.CloseStdinResponse], error) {
	ex, err := p.running(req.Msg.GetProcess())
	if err == nil {
		err = ex.CloseInput(0)
	}
	return connect.NewResponse(&processpb.CloseStdinResponse{}), wire.Connect(err)
}
