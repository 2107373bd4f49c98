package guest

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/execution"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/lane"
)

// laneBuffer is what a socket is asked to hold of output: a frame, so that it
// is written at once.
const laneBuffer = lane.MaxOutput + 64<<10

// Lane is POST [lane.Path]: Attach over a connection of its own.
func (s *Executions) Lane(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || !strings.EqualFold(r.Header.Get("Upgrade"), lane.Protocol) {
		wire.Error(w, errors.New(errors.InvalidArgument, "the request must be HTTP/1.1 with Upgrade: %s", lane.Protocol))
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		wire.Error(w, errors.Wrap(err, errors.Internal, "the connection cannot be taken over"))
		return
	}
	defer func() { _ = conn.Close() }()
	// The server set deadlines for the headers; the stream has none.
	if conn.SetDeadline(time.Time{}) != nil {
		return
	}
	many := r.Header.Get(lane.HeaderMany) == lane.Many
	agreed := ""
	if many {
		agreed = lane.HeaderMany + ": " + lane.Many + "\r\n"
	}
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+lane.Protocol+"\r\n"+agreed+"\r\n")
	if err != nil {
		return
	}
	early, err := buffered.Reader.Peek(buffered.Reader.Buffered())
	if err != nil {
		return
	}
	from := io.Reader(conn)
	if len(early) > 0 {
		from = io.MultiReader(bytes.NewReader(early), conn)
	}
	s.lane(r.Context(), conn, from, many)
}

// lane serves an attachment to its end, or many, and says why, if that is not the
// execution's. The end of ctx ends a read or write that blocks.
func (s *Executions) lane(ctx context.Context, conn net.Conn, from io.Reader, many bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if b, ok := conn.(interface{ SetWriteBuffer(int) error }); ok {
		_ = b.SetWriteBuffer(laneBuffer) // as much as the system grants
	}
	l := laneChannel{lane.NewAgent(conn, from)}
	if many {
		s.oneAfterAnother(ctx, l, conn)
	} else if err := s.attach(ctx, l); err != nil {
		l.lastWord(err)
	}
}

// oneAfterAnother serves attachments until the host begins none any more, or one
// fails.
func (s *Executions) oneAfterAnother(ctx context.Context, l laneChannel, conn io.Closer) {
	for next, err := l.Receive(); err == nil && next != nil; {
		ex, hold, taken, berr := s.begin(ctx, l, next)
		if berr != nil {
			l.lastWord(berr)
			return
		}
		failed, over := make(chan error, 1), make(chan struct{})
		go func() {
			defer close(over)
			defer hold.Release()
			defer l.Rest()
			if err := deliver(l, ex, hold, taken, failed); err != nil {
				l.lastWord(err)
				_ = conn.Close() // which ends the reading below
			}
		}()
		next, err = l.until(ex, hold, failed, over)
		if err != nil && !errors.Is(err, io.EOF) {
			fail(failed, err)
		}
		<-over // at the end of what the host says the attachment goes on, for it may listen
	}
}

// until takes the controls of an attachment until the host begins the next, with the
// message that is given. What comes once it is over is nobody's any more.
func (l laneChannel) until(ex *execution.Execution, hold *execution.Hold, failed chan<- error, over <-chan struct{}) (*guestv1.AttachRequest, error) {
	for {
		msg, err := l.Receive()
		if err != nil {
			return nil, err
		}
		switch msg.GetRequest().(type) {
		case *guestv1.AttachRequest_Start_, *guestv1.AttachRequest_Resume_:
			if _, ended := ex.End(); !ended {
				return nil, wire.Connect(errors.New(errors.InvalidArgument, "not a control message"))
			}
			return msg, nil
		}
		select {
		case <-over:
			continue
		default:
		}
		if err := control(msg, ex, hold); err != nil {
			fail(failed, wire.Connect(err))
		}
	}
}

// fail has an attachment end with an error, unless it has ended or does with another.
func fail(failed chan<- error, err error) {
	select {
	case failed <- err:
	default:
	}
}

// laneChannel is a channel over a lane.
type laneChannel struct{ *lane.Agent }

// lastWord tells why the lane ends.
func (l laneChannel) lastWord(err error) {
	var told *connect.Error
	if errors.As(wire.Connect(err), &told) {
		_ = l.SendError(told.Code(), told.Message())
	}
}

func (l laneChannel) room() []byte { return l.Room() }

func (l laneChannel) sendOutput(c execution.Chunk) error {
	return l.SendOutput(c.Offset, streams[c.Stream], len(c.Data))
}
