package ws

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/limit"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

const (
	startTimeout   = 30 * time.Second // for the start frame to arrive
	controlTimeout = 10 * time.Second // for the guest to take a signal or a size
)

// StdinTeller is a power of an orchestrator that knows how much input an
// execution was given so far: a client that takes one up which somebody else
// sent input to, or that lost count, goes on from there.
type StdinTeller interface {
	StdinOffset(ctx context.Context, by vmm.Caller, id domain.ID) (int64, error)
}

// StartFunc starts what a start frame asks for, and tells where to begin with
// its output.
type StartFunc func(ctx context.Context, frame []byte) (exec *domain.Execution, offset int64, err error)

// Execution serves a WebSocket on an execution from an offset. An error means
// that nothing has been answered yet.
func (s *Streams) Execution(w http.ResponseWriter, r *http.Request, by vmm.Caller, id domain.ID, offset int64) error {
	exec, err := s.VMs.GetExecution(r.Context(), by, id)
	if err != nil {
		return err
	}
	ctx, leave, err := s.enter(r, "execution")
	if err != nil {
		return err
	}
	defer leave()
	out, err := s.VMs.Output(ctx, by, id, offset, true)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	out.Hold()
	c, err := s.accept(w, r)
	if err != nil {
		return err
	}
	s.serve(ctx, r, c, by, exec, offset, out)
	return nil
}

// Start serves a WebSocket on a VM whose first frame starts an execution. An
// error means that nothing has been answered yet.
func (s *Streams) Start(w http.ResponseWriter, r *http.Request, by vmm.Caller, start StartFunc) error {
	ctx, leave, err := s.enter(r, "execution")
	if err != nil {
		return err
	}
	defer leave()
	c, err := s.accept(w, r)
	if err != nil {
		return err
	}
	exec, offset, out, err := s.begin(ctx, c, by, start)
	if err != nil {
		c.bye(ctx, err)
		return nil
	}
	defer func() { _ = out.Close() }()
	s.serve(ctx, r, c, by, exec, offset, out)
	return nil
}

func (s *Streams) begin(ctx context.Context, c *conn, by vmm.Caller, start StartFunc) (*domain.Execution, int64, vmm.OutputReader, error) {
	kind, frame, err := firstFrame(ctx, c)
	if err != nil {
		return nil, 0, nil, errors.Wrap(err, errors.Canceled, "no start frame arrived")
	}
	if kind != websocket.MessageText {
		return nil, 0, nil, errors.New(errors.InvalidArgument, "the first frame must be a start frame").
			WithHint(`send {"type":"start","args":["true"]} as text`)
	}
	exec, offset, err := start(ctx, frame)
	if err != nil {
		return nil, 0, nil, err
	}
	out, err := s.VMs.Output(ctx, by, exec.ID, offset, true)
	if err == nil {
		out.Hold()
	}
	return exec, offset, out, err
}

// firstFrame reads without a context of its own, whose end would break the
// connection before the goodbye.
func firstFrame(ctx context.Context, c *conn) (websocket.MessageType, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	type read struct {
		kind  websocket.MessageType
		frame []byte
		err   error
	}
	done := make(chan read, 1)
	go func() {
		kind, frame, err := c.read(context.Background()) // until the connection ends, which the caller sees to
		done <- read{kind, frame, err}
	}()
	select {
	case r := <-done:
		return r.kind, r.frame, r.err
	case <-ctx.Done():
		return 0, nil, context.Cause(ctx)
	}
}

// session is one open WebSocket on an execution.
type session struct {
	*conn
	vms vmm.Orchestrator
	lim *limit.Limits

	trail   *trail.Trail
	request *http.Request
	vm      domain.ID
	by      vmm.Caller
	id      domain.ID
	in      *inputQueue

	// What is recorded once for each stream; each is of one goroutine.
	resized, fed bool
}

// note records something that is about to be done.
func (sn *session) note(operation string) error {
	return sn.trail.Note(sn.request, sn.by, trail.Act{Operation: operation, Kind: "execution", ID: sn.id.String(), VM: sn.vm})
}

// once is note for what is recorded the first time only.
func (sn *session) once(done *bool, operation string) error {
	if *done {
		return nil
	}
	*done = true
	return sn.note(operation)
}

// serve runs the session to its end. The request ends when the server gives up
// waiting for streams to end by themselves.
func (s *Streams) serve(ctx context.Context, r *http.Request, c *conn, by vmm.Caller, exec *domain.Execution, offset int64, out vmm.OutputReader) {
	ws := c.ws
	sn := &session{conn: c, vms: s.VMs, lim: s.Limits, trail: s.Trail, request: r, vm: exec.VMID, by: by, id: exec.ID, in: newInputQueue()}
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(r.Context(), func() { _ = ws.CloseNow() })
	defer unhook()

	var helpers sync.WaitGroup
	helpers.Go(func() { cancel(sn.readFrames(ctx)) })
	helpers.Go(func() { sn.feed(ctx, cancel) })
	helpers.Go(func() { sn.keepAlive(ctx, s.Ping) })

	started := wire.ServerControl{Type: wire.ControlStarted, ExecutionID: exec.ID.String(), PID: exec.PID, Offset: offset}
	if teller, ok := s.VMs.(StdinTeller); ok && (exec.Command.Stdin || exec.Command.PTY != nil) && !exec.State.Ended() {
		if n, err := teller.StdinOffset(ctx, by, exec.ID); err == nil {
			started.StdinOffset = &n
		}
	}
	err := sn.send(started)
	if err == nil {
		err = sn.pump(ctx, out)
	}
	sn.bye(ctx, err)
	cancel(context.Canceled)
	_ = ws.CloseNow() // releases the reader, whatever happened
	helpers.Wait()
}

// pump sends output until the end. One buffer is used for every frame, and the
// next piece is read only when the last one was taken. A slow client grows
// nothing: once the journal is full the command waits for it, as for any slow
// reader of a pipe, and a client that takes nothing at all is cut off in time.
func (sn *session) pump(ctx context.Context, out vmm.OutputReader) error {
	var frame []byte
	var next int64
	for {
		ev, err := out.Next(ctx)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New(errors.Unavailable, "the output ended before the execution did").WithRetryAfter(time.Second)
			}
			return err
		}
		switch {
		case ev.End != nil:
			return sn.send(wire.ServerControl{Type: wire.ControlExit, Exit: exit(ev.End, max(next, ev.Offset))})
		case ev.Gap != nil:
			err = sn.send(wire.ServerControl{Type: wire.ControlGap, From: ev.Gap.From, To: ev.Gap.To})
		default:
			frame = wire.AppendFrame(frame[:0], wire.FrameKind(ev.Stream), ev.Offset, ev.Data)
			err = sn.write(websocket.MessageBinary, frame)
			next = ev.Offset + int64(len(ev.Data))
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func exit(end *domain.ExecutionEnd, written int64) *wire.OutputExit {
	return &wire.OutputExit{
		ExitCode: end.ExitCode, Signal: end.Signal, TimedOut: end.TimedOut,
		LostReason: end.LostReason, OutputBytes: written,
	}
}

// readFrames takes what the client sends until the connection ends or ctx does.
func (sn *session) readFrames(ctx context.Context) error {
	for {
		// The read has no deadline (keepAlive finds dead peers) and must not end
		// with ctx: that would break the connection before the goodbye.
		kind, frame, err := sn.read(context.Background())
		if err != nil {
			return err
		}
		if kind == websocket.MessageBinary {
			err = sn.takeInput(ctx, frame)
		} else {
			err = sn.control(ctx, frame)
		}
		if err != nil {
			if e := sn.sendError(err); e != nil {
				return e
			}
		}
	}
}

func (sn *session) takeInput(ctx context.Context, frame []byte) error {
	kind, offset, data, err := wire.ParseFrame(frame)
	switch {
	case err != nil || kind != wire.FrameStdin || offset < wire.AppendOffset:
		return errors.New(errors.InvalidArgument, "a binary frame must be stdin: kind 0, eight bytes of offset, data")
	case len(data) > wire.MaxStdinFrameBytes:
		return errors.New(errors.TooLarge, "a stdin frame carries at most %d bytes", wire.MaxStdinFrameBytes)
	case len(data) > 0:
		sn.in.push(ctx, input{offset: offset, data: data})
	}
	return nil
}

func (sn *session) control(ctx context.Context, frame []byte) error {
	var m wire.ClientControl
	dec := json.NewDecoder(bytes.NewReader(frame))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "a text frame must be a control message in JSON")
	}
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	switch m.Type {
	case wire.ControlCloseStdin:
		sn.in.push(ctx, input{close: true})
		return nil
	case wire.ControlResize:
		if m.Cols == 0 || m.Rows == 0 {
			return errors.New(errors.InvalidArgument, "a terminal has at least one column and one row").WithField("cols")
		}
		if err := sn.lim.Take(sn.by); err != nil {
			return err
		}
		if err := sn.once(&sn.resized, "resize-execution"); err != nil {
			return err
		}
		return ignoreEnded(sn.vms.ResizePTY(ctx, sn.by, sn.id, domain.PTYSize{Cols: m.Cols, Rows: m.Rows}))
	case wire.ControlSignal:
		n, err := wire.ParseSignal(m.Signal)
		if err != nil {
			return errors.New(errors.InvalidArgument, "%s", err.Error()).WithField("signal")
		}
		if err := sn.lim.Take(sn.by); err != nil {
			return err
		}
		if err := sn.note("signal-execution"); err != nil {
			return err
		}
		return ignoreEnded(sn.vms.SignalExecution(ctx, sn.by, sn.id, n))
	}
	return errors.New(errors.InvalidArgument, "unknown control message").
		WithField("type").WithHint("close_stdin, resize or signal")
}

// feed passes input on and acknowledges it. After a piece that failed nothing
// more is passed on: the command must not see a hole, nor an end of input that
// is not the end.
func (sn *session) feed(ctx context.Context, end context.CancelCauseFunc) {
	var taken int64
	for {
		in, ok := sn.in.pop(ctx)
		if !ok {
			return
		}
		err := sn.pass(ctx, in)
		if err == nil && !in.close {
			if in.offset >= 0 {
				taken = in.offset
			}
			taken += int64(len(in.data))
			err = sn.send(wire.ServerControl{Type: wire.ControlStdinAck, Offset: taken})
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return
		case errors.HasCode(err, errors.InvalidArgument):
			// Such as a command without stdin: its output goes on.
			if sn.sendError(err) != nil {
				return
			}
			sn.in.refuse()
			return
		case ignoreEnded(err) == nil:
			sn.in.refuse()
			return
		default: // the client may come back and resend what was not acknowledged
			end(streamError{err})
			return
		}
	}
}

// pass gives a piece of input to the command, or its end.
func (sn *session) pass(ctx context.Context, in input) error {
	if in.close {
		if err := sn.note("close-stdin"); err != nil {
			return err
		}
		return sn.vms.CloseStdin(ctx, sn.by, sn.id)
	}
	if err := sn.once(&sn.fed, "write-stdin"); err != nil {
		return err
	}
	return sn.vms.WriteStdin(ctx, sn.by, sn.id, in.offset, in.data)
}

// ignoreEnded drops the error of talking to a command that has just ended: the
// exit frame is on its way and says more.
func ignoreEnded(err error) error {
	if errors.HasCode(err, errors.Conflict) || errors.HasCode(err, errors.Gone) {
		return nil
	}
	return err
}
