package client

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/coder/websocket"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// StreamOptions go with a stream.
type StreamOptions struct {
	// Offset is where to begin with the output.
	Offset int64
	// Waiting is told before each new attempt to reach the server how long it
	// has been away and why; may be nil. It is called from Next.
	Waiting func(away time.Duration, cause error)
	// Back is told when the server is back; may be nil. It is called from Next.
	Back func(away time.Duration)
}

// StreamEvent is one thing that an execution's stream tells. Exactly one of
// Data, Gap, Warning and Exit is set.
type StreamEvent struct {
	// Offset of Data among the bytes of all streams together.
	Offset  int64
	Kind    api.FrameKind // FrameStdout, FrameStderr or FramePTY
	Data    []byte        // valid until the next call of Next
	Gap     *api.OutputGap
	Warning error // something that was asked for did not happen; the stream goes on
	Exit    *api.OutputExit
}

// Stream is an execution's output and input. Whatever happens to the
// connection, the server included, it goes on where it was: every byte of
// output comes once and in order, and so does every byte of input to a command
// that this stream started.
//
// Next belongs to one goroutine; the other methods may be called from any.
// Closing a stream never ends the command.
type Stream struct {
	c       *Client
	opts    StreamOptions
	vm      string            // where to start the command
	start   *api.StartControl // how; nil: it was started by somebody
	id      string
	in      *input
	backoff *backoff

	// Next's own.
	link    *link
	started bool  // the server confirmed the execution
	broke   bool  // a connection was there and is lost
	next    int64 // offset of the first byte not yet told
	holes   int   // in succession: output that skipped bytes without a word
	frame   bytes.Buffer
	refused error // the last error frame, not yet told
	stashed *StreamEvent
	ended   bool
}

// Start starts a command and returns its stream when the guest agent has
// confirmed it. Whatever happens to the connection meanwhile, it is started at most once.
func (c *Client) Start(ctx context.Context, vm string, req api.StartExecution, o StreamOptions) (*Stream, error) {
	if req.ID == "" {
		req.ID = domain.NewID().String()
	}
	s := &Stream{
		c: c, opts: o, vm: vm, id: req.ID, next: o.Offset, in: newInput(false), backoff: c.backoff(),
		start: &api.StartControl{Type: api.ControlStart, StartExecution: req},
	}
	return s, s.open(ctx)
}

// Attach takes up an execution's stream. Returns NotFound.
func (c *Client) Attach(ctx context.Context, execution string, o StreamOptions) (*Stream, error) {
	s := &Stream{c: c, opts: o, id: execution, next: o.Offset, in: newInput(true), backoff: c.backoff()}
	return s, s.open(ctx)
}

func (s *Stream) open(ctx context.Context) error {
	err := s.connect(ctx)
	if err != nil {
		s.Close()
	}
	return err
}

// ID is the execution's.
func (s *Stream) ID() string { return s.id }

// Offset is where to take the stream up again: what Next has told lies below.
func (s *Stream) Offset() int64 { return s.next }

// Write sends input. It waits while a window of input is not yet taken by
// the command. Returns io.ErrClosedPipe after CloseStdin and Close.
func (s *Stream) Write(p []byte) (int, error) { return s.in.write(p) }

// CloseStdin ends the input, after all that was written.
func (s *Stream) CloseStdin() { s.in.closeStdin() }

// Resize tells the command's terminal its size.
func (s *Stream) Resize(size api.PTYSize) { s.in.resize(size) }

// Signal signals the command's process group. A signal waits for the server
// to come back, and is sent once. Returns Unavailable when too many wait.
func (s *Stream) Signal(name string) error { return s.in.signal(name) }

// Close lets go of the stream; the command goes on. It must not be called
// while Next runs: end Next by its context.
func (s *Stream) Close() {
	s.in.stop()
	s.drop()
}

// Next gives what the stream tells next, and io.EOF after the exit. Any other
// error is final, unless ctx ended: then Next may be called again.
func (s *Stream) Next(ctx context.Context) (StreamEvent, error) {
	if ev := s.stashed; ev != nil {
		s.stashed = nil
		return *ev, nil
	}
	for !s.ended {
		if s.link == nil {
			if err := s.connect(ctx); err != nil {
				return StreamEvent{}, err
			}
		}
		ev, err := s.read(ctx)
		switch {
		case err != nil:
			s.drop()
			s.broke = true
			if ctx.Err() != nil {
				return StreamEvent{}, errors.Public(context.Cause(ctx))
			}
			if !s.worthAnother(ctx, err) {
				return StreamEvent{}, err
			}
			if !s.backoff.wait(ctx, err) {
				return StreamEvent{}, s.gaveUp(err)
			}
			continue
		case ev == nil:
			continue
		case s.refused != nil: // its connection goes on, so it was no last word
			s.stashed, ev = ev, &StreamEvent{Warning: s.refused}
			s.refused = nil
		}
		return *ev, nil
	}
	return StreamEvent{}, io.EOF
}

// read reads one frame; nil is one with nothing to tell.
func (s *Stream) read(ctx context.Context) (*StreamEvent, error) {
	kind, err := s.receive(ctx)
	if err != nil {
		if websocket.CloseStatus(err) == api.CloseRefused && s.refused != nil {
			err, s.refused = s.refused, nil
			if s.in.unacked() && inputFault(err) {
				err = errors.Wrap(&lostError{err}, errors.Unavailable, "input did not reach the command")
			}
			return nil, err
		}
		return nil, s.c.unreachable(ctx, err)
	}
	if kind == websocket.MessageBinary {
		return s.output(s.frame.Bytes())
	}
	m, err := parseControl(s.frame.Bytes())
	if err != nil {
		return nil, err
	}
	switch m.Type {
	case api.ControlStdinAck:
		s.in.ack(m.Offset)
	case api.ControlGap:
		if m.To <= s.next {
			return nil, nil
		}
		gap := &api.OutputGap{From: max(m.From, s.next), To: m.To}
		s.next = m.To
		return &StreamEvent{Offset: gap.From, Gap: gap}, nil
	case api.ControlExit:
		if m.Exit == nil {
			return nil, protocolError("an exit without a status")
		}
		s.ended = true
		s.Close()
		return &StreamEvent{Offset: s.next, Exit: m.Exit}, nil
	case api.ControlError:
		err := controlError(m)
		if transient(err) && s.in.unacked() {
			return nil, err // some input was not taken: a new connection sends it again
		}
		s.refused = err
	}
	return nil, nil
}

// output takes a binary frame: what was told already is skipped, and what
// would leave a hole is asked for again.
func (s *Stream) output(frame []byte) (*StreamEvent, error) {
	kind, offset, data, err := api.ParseFrame(frame)
	if err != nil {
		return nil, truncated()
	}
	if offset < 0 || (kind != api.FrameStdout && kind != api.FrameStderr && kind != api.FramePTY) {
		return nil, protocolError("a frame of an unknown kind")
	}
	if offset > s.next {
		if s.holes++; s.holes > 3 {
			return nil, errors.New(errors.GuestFault, "output bytes %d to %d are missing, and nobody says why", s.next, offset)
		}
		return nil, errors.Wrap(&lostError{errors.Plain("output skipped bytes")}, errors.Unavailable, "output skipped bytes")
	}
	s.holes = 0
	if skip := min(s.next-offset, int64(len(data))); skip > 0 {
		offset, data = offset+skip, data[skip:]
	}
	s.backoff.reset()
	if len(data) == 0 {
		return nil, nil
	}
	s.next = offset + int64(len(data))
	return &StreamEvent{Offset: offset, Kind: kind, Data: data}, nil
}

// worthAnother reports whether another connection may do better.
func (s *Stream) worthAnother(ctx context.Context, err error) bool {
	if !s.started && !s.broke {
		return s.c.worthRepeating(ctx, err)
	}
	// A server that has just come back may not yet know what runs.
	settling := errors.HasCode(err, errors.NotFound) && s.started && s.backoff.down() < settleTime
	return IsUnreachable(err) || transient(err) || settling || s.c.worthRepeating(ctx, err)
}

// settleTime is how long a restarted server may need to find what runs.
const settleTime = 5 * time.Second

func transient(err error) bool {
	return errors.HasCode(err, errors.Unavailable) || errors.HasCode(err, errors.DeadlineExceeded)
}

// inputFault reports whether an error that ended a connection may come from a
// piece of input that did not get through: a new connection sends it again.
func inputFault(err error) bool {
	switch errors.CodeOf(err) {
	case errors.GuestFault, errors.Internal, errors.OutOfRange, errors.CapacityExhausted:
		return true
	}
	return false
}

func (s *Stream) gaveUp(err error) error {
	e := *errors.Public(err)
	if s.started {
		e.Hint = "the command goes on; take it up again with: " + s.resumeCommand()
	}
	return &e
}

func protocolError(what string) error {
	return errors.New(errors.Internal, "the server sent %s", what).WithHint("are client and server of the same version?")
}

// truncated is a frame that is not whole: the connection broke within it. The
// WebSocket library tells the end of a broken connection and the end of a
// frame alike. (Output that was cut short is as good as a shorter frame: the
// rest comes over the next connection.)
func truncated() error {
	return errors.Wrap(&lostError{io.ErrUnexpectedEOF}, errors.Unavailable, "the connection broke within a message")
}

func parseControl(text []byte) (api.ServerControl, error) {
	var m api.ServerControl
	if err := json.Unmarshal(text, &m); err != nil {
		return m, truncated()
	}
	return m, nil
}

func controlError(m api.ServerControl) error {
	e := errors.New(errors.Code(m.Code), "%s", m.Message)
	e.Hint, e.Field = m.Hint, m.Field
	return e
}
