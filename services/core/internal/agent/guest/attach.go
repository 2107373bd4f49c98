package guest

import (
	"context"
	"io"
	"math"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/execution"
	"github.com/aetherium/aetherium/services/core/internal/agent/spawn"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

// chunkBytes is the most output in one message.
const chunkBytes = 64 << 10

type attachStream = connect.BidiStream[guestv1.AttachRequest, guestv1.AttachResponse]

// channel is what an attachment speaks over.
type channel interface {
	Receive() (*guestv1.AttachRequest, error)
	Send(m *guestv1.AttachResponse) error
	// room is where output is put that is to be sent.
	room() []byte
	// sendOutput sends a chunk whose data is the beginning of room.
	sendOutput(c execution.Chunk) error
}

// Attach starts an execution or takes one up again; see guest.proto.
func (s *Executions) Attach(ctx context.Context, stream *attachStream) error {
	return s.attach(ctx, &connectChannel{attachStream: stream})
}

// connectChannel is a channel over a Connect stream.
type connectChannel struct {
	*attachStream
	buf []byte
}

func (c *connectChannel) room() []byte {
	if c.buf == nil {
		c.buf = make([]byte, chunkBytes)
	}
	return c.buf
}

func (c *connectChannel) sendOutput(chunk execution.Chunk) error {
	return c.Send(&guestv1.AttachResponse{Response: &guestv1.AttachResponse_Output_{
		Output: &guestv1.AttachResponse_Output{Offset: chunk.Offset, Stream: streams[chunk.Stream], Data: chunk.Data},
	}})
}

func (s *Executions) attach(ctx context.Context, stream channel) error {
	first, err := stream.Receive()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return wire.Connect(errors.New(errors.InvalidArgument, "the first message is missing"))
		}
		return err
	}
	ex, hold, taken, err := s.begin(ctx, stream, first)
	if err != nil {
		return err
	}
	defer hold.Release()
	// Receiving cannot be interrupted but by the end of the call; so it runs
	// beside sending, and returning from here ends it.
	failed := make(chan error, 1)
	go func() {
		if err := receive(stream, ex, hold); err != nil {
			failed <- err
		}
	}()
	return deliver(stream, ex, hold, taken, failed)
}

// begin does what the first message of an attachment asks, and tells of the start.
// The caller releases the hold. taken is how much input the execution has.
func (s *Executions) begin(ctx context.Context, stream channel, first *guestv1.AttachRequest) (ex *execution.Execution, hold *execution.Hold, taken int64, err error) {
	ex, already, offset, err := s.open(ctx, first)
	if err != nil {
		return nil, nil, 0, wire.Connect(err)
	}
	if hold, err = ex.Hold(ctx, offset); err != nil {
		return nil, nil, 0, wire.Connect(err)
	}
	taken, _, _ = ex.InputProgress()
	err = stream.Send(&guestv1.AttachResponse{Response: &guestv1.AttachResponse_Started_{
		Started: &guestv1.AttachResponse_Started{Pid: int32(ex.PID), StdinOffset: taken, Already: already},
	}})
	if err != nil {
		hold.Release()
		return nil, nil, 0, err
	}
	return ex, hold, taken, nil
}

// open finds or starts the execution that the first message names.
func (s *Executions) open(ctx context.Context, first *guestv1.AttachRequest) (ex *execution.Execution, already bool, offset int64, err error) {
	switch req := first.GetRequest().(type) {
	case *guestv1.AttachRequest_Start_:
		command, err := commandOf(req.Start.GetCommand())
		if err != nil {
			return nil, false, 0, err
		}
		ex, already, err = s.Registry.Start(ctx, req.Start.GetExecutionId(), command)
		return ex, already, 0, err
	case *guestv1.AttachRequest_Resume_:
		ex, err = s.Registry.Get(req.Resume.GetExecutionId())
		return ex, true, req.Resume.GetOffset(), err
	}
	return nil, false, 0, errors.New(errors.InvalidArgument, "the first message must be start or resume")
}

// receive takes the host's controls until it sends no more.
func receive(stream channel, ex *execution.Execution, hold *execution.Hold) error {
	for {
		msg, err := stream.Receive()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil // the host only listens from here
			}
			return err
		}
		if err := control(msg, ex, hold); err != nil {
			return wire.Connect(err)
		}
	}
}

// control does what one message asks. Controls of a process that has ended
// meanwhile are no errors: its end is on the way.
func control(msg *guestv1.AttachRequest, ex *execution.Execution, hold *execution.Hold) error {
	var err error
	switch req := msg.GetRequest().(type) {
	case *guestv1.AttachRequest_Ack_:
		return hold.Ack(req.Ack.GetOffset())
	case *guestv1.AttachRequest_Stdin_:
		return ex.PutInput(req.Stdin.GetOffset(), req.Stdin.GetData())
	case *guestv1.AttachRequest_CloseStdin_:
		return ex.CloseInput(req.CloseStdin.GetOffset())
	case *guestv1.AttachRequest_Resize:
		var size *spawn.Size
		if size, err = sizeOf(req.Resize); err == nil {
			err = ex.Resize(*size)
		}
	case *guestv1.AttachRequest_Signal:
		err = ex.Signal(int(req.Signal.GetNumber()))
	default:
		err = errors.New(errors.InvalidArgument, "not a control message")
	}
	if errors.HasCode(err, errors.Conflict) {
		return nil
	}
	return err
}

// deliver sends output, what became of the input, and the end.
func deliver(stream channel, ex *execution.Execution, hold *execution.Hold, told int64, failed <-chan error) error {
	ack := func() (moved <-chan struct{}, err error) {
		_, written, moved := ex.InputProgress()
		if written > told {
			told = written
			err = stream.Send(&guestv1.AttachResponse{Response: &guestv1.AttachResponse_StdinAck_{
				StdinAck: &guestv1.AttachResponse_StdinAck{Offset: written},
			}})
		}
		return moved, err
	}
	for {
		inputMoved, err := ack()
		if err != nil {
			return err
		}
		if hold.Context.Err() != nil {
			return gone(hold.Context)
		}
		chunk, outputMoved, err := hold.Poll(stream.room())
		switch {
		case errors.Is(err, io.EOF):
			// What it ended by may be what it was told.
			if _, err := ack(); err != nil {
				return err
			}
			end, _ := ex.End()
			return stream.Send(&guestv1.AttachResponse{Response: &guestv1.AttachResponse_End{End: endOf(end)}})
		case err != nil:
			return wire.Connect(err)
		case len(chunk.Data) > 0:
			if err := stream.sendOutput(chunk); err != nil {
				return err
			}
			continue
		}
		select {
		case <-outputMoved:
		case <-inputMoved:
		case err := <-failed:
			return err
		case <-hold.Context.Done():
		}
	}
}

// gone says why the host no longer holds the execution.
func gone(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), execution.ErrTaken) {
		return connect.NewError(connect.CodeAborted, errors.Plain("a newer attachment took the execution"))
	}
	return wire.Connect(ctx.Err())
}

var streams = map[execution.Stream]guestv1.Stream{
	execution.Stdout:   guestv1.Stream_STREAM_STDOUT,
	execution.Stderr:   guestv1.Stream_STREAM_STDERR,
	execution.Terminal: guestv1.Stream_STREAM_PTY,
}

func commandOf(c *guestv1.Command) (execution.Command, error) {
	if c.GetTimeoutMs() > math.MaxInt64/int64(time.Millisecond) {
		return execution.Command{}, errors.New(errors.InvalidArgument, "the timeout is out of bounds")
	}
	command := execution.Command{
		Args: c.GetArgs(), Env: c.GetEnv(), Cwd: c.GetCwd(), User: c.GetUser(), Stdin: c.GetStdin(),
		Timeout: time.Duration(c.GetTimeoutMs()) * time.Millisecond, Tag: c.GetTag(),
	}
	if c.GetPty() == nil {
		return command, nil
	}
	size, err := sizeOf(c.GetPty())
	command.Size = size
	return command, err
}

func sizeOf(t *guestv1.TerminalSize) (*spawn.Size, error) {
	if t.GetCols() > math.MaxUint16 || t.GetRows() > math.MaxUint16 {
		return nil, errors.New(errors.InvalidArgument, "the terminal's size is out of bounds")
	}
	size := spawn.Size{Cols: uint16(t.GetCols()), Rows: uint16(t.GetRows())}.OrDefault()
	return &size, nil
}

func endOf(e execution.End) *guestv1.End {
	return &guestv1.End{
		ExitCode: int32(e.ExitCode), Signal: int32(e.Signal), TimedOut: e.TimedOut, OutputBytes: e.OutputBytes,
	}
}
