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
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+lane.Protocol+"\r\n\r\n")
	if err != nil {
		return
	}
	early, err := buffered.Reader.Peek(buffered.Reader.Buffered())
	if err != nil {
		return
	}
	s.lane(r.Context(), conn, io.MultiReader(bytes.NewReader(early), conn))
}

// lane serves an attachment to its end and says why, if that is not the
// execution's. The end of ctx ends a read or write that blocks.
func (s *Executions) lane(ctx context.Context, conn net.Conn, from io.Reader) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if b, ok := conn.(interface{ SetWriteBuffer(int) error }); ok {
		_ = b.SetWriteBuffer(laneBuffer) // as much as the system grants
	}
	l := laneChannel{lane.NewAgent(conn, from)}
	if err := s.attach(ctx, l); err != nil {
		var told *connect.Error
		if errors.As(wire.Connect(err), &told) {
			_ = l.SendError(told.Code(), told.Message())
		}
	}
}

// laneChannel is a channel over a lane.
type laneChannel struct{ *lane.Agent }

func (l laneChannel) room() []byte { return l.Room() }

func (l laneChannel) sendOutput(c execution.Chunk) error {
	return l.SendOutput(c.Offset, streams[c.Stream], len(c.Data))
}
