package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/coder/websocket"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

const (
	handshakeTimeout = 10 * time.Second
	// startedTimeout is how long a server may take to confirm an execution; it
	// may have to resume the VM first.
	startedTimeout = 90 * time.Second
	// maxFrameBytes bounds what one frame from the server may be.
	maxFrameBytes = 4 << 20
)

// link is one connection of a stream, with the goroutine that sends its input.
type link struct {
	ws     *websocket.Conn
	since  time.Time
	cancel context.CancelFunc
	done   chan struct{}
}

// steady is how long a connection must have lasted for its loss to be news,
// and not one more failed attempt.
const steady = 5 * time.Second

// connect makes a connection and waits until the server has confirmed the
// execution, again and again within the client's patience.
func (s *Stream) connect(ctx context.Context) error {
	for {
		away := s.backoff.down()
		err := s.attempt(ctx)
		if err == nil {
			if away > 0 && s.opts.Back != nil {
				s.opts.Back(away)
			}
			return nil
		}
		if !s.worthAnother(ctx, err) {
			return err
		}
		if s.opts.Waiting != nil {
			s.opts.Waiting(s.backoff.down(), err)
		}
		if !s.backoff.wait(ctx, err) {
			if ctx.Err() != nil {
				return errors.Public(context.Cause(ctx))
			}
			return s.gaveUp(err)
		}
	}
}

func (s *Stream) attempt(ctx context.Context) error {
	path, query := []string{"executions", s.id, "stream"}, url.Values{"offset": {strconv.FormatInt(s.next, 10)}}
	starting := s.start != nil && !s.started
	if starting {
		path, query = []string{"vms", s.vm, "stream"}, nil
	}
	ws, _, err := s.c.dial(ctx, path, query)
	if err != nil {
		return err
	}
	ws.SetReadLimit(maxFrameBytes)
	s.link = &link{ws: ws, cancel: func() {}}
	if err := s.begin(ctx, ws, starting); err != nil {
		s.drop()
		s.broke = s.broke || IsUnreachable(err)
		return err
	}
	s.link.since = time.Now()
	return nil
}

// begin sends the start frame, where one is due, and waits for its answer.
func (s *Stream) begin(ctx context.Context, ws *websocket.Conn, starting bool) error {
	ctx, cancel := context.WithTimeout(ctx, startedTimeout)
	defer cancel()
	if starting {
		s.start.Offset = s.next
		text, err := json.Marshal(s.start)
		if err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "the command cannot be written as JSON")
		}
		if err := ws.Write(ctx, websocket.MessageText, text); err != nil {
			return s.c.unreachable(ctx, err)
		}
	}
	kind, err := s.receive(ctx)
	if err != nil {
		return s.c.unreachable(ctx, err)
	}
	m, err := parseControl(s.frame.Bytes())
	switch {
	case err != nil:
		return err
	case kind == websocket.MessageText && m.Type == api.ControlError:
		return controlError(m)
	case kind != websocket.MessageText || m.Type != api.ControlStarted:
		return protocolError("something else than a start's confirmation")
	}
	s.started = true
	if n := s.in.connected(m.StdinOffset); n > 0 {
		s.refused = errors.New(errors.Unavailable, "the last %d bytes of input may not have reached the command", n)
	}
	s.link.feed(s.in)
	return nil
}

// receive reads one frame into s.frame.
func (s *Stream) receive(ctx context.Context) (websocket.MessageType, error) {
	kind, r, err := s.link.ws.Reader(ctx)
	if err != nil {
		return kind, err
	}
	s.frame.Reset()
	_, err = s.frame.ReadFrom(r)
	return kind, err
}

// feed sends input until the link is dropped. A failed write is left to the
// reader to find: the connection is closed.
func (l *link) feed(in *input) {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel, l.done = cancel, make(chan struct{})
	go func() {
		defer close(l.done)
		var buf []byte
		for {
			frame, text, ok := in.take(buf[:0])
			if !ok {
				select {
				case <-in.wake:
					continue
				case <-ctx.Done():
					return
				}
			}
			kind := websocket.MessageBinary
			if text {
				kind = websocket.MessageText
			}
			if err := l.ws.Write(ctx, kind, frame); err != nil {
				_ = l.ws.CloseNow()
				return
			}
			buf = frame
		}
	}()
}

// drop ends the present connection. No goodbye is waited for: the server
// reads the journal's truth, not a client's farewell.
func (s *Stream) drop() {
	if s.link == nil {
		return
	}
	if !s.link.since.IsZero() && time.Since(s.link.since) > steady {
		s.backoff.reset()
	}
	s.link.cancel()
	_ = s.link.ws.CloseNow()
	if s.link.done != nil {
		<-s.link.done
	}
	s.link = nil
}

func (s *Stream) resumeCommand() string {
	return fmt.Sprintf("aetherium attach %s --offset %d", s.id, s.next)
}

// dial opens a WebSocket.
func (c *Client) dial(ctx context.Context, path []string, query url.Values) (*websocket.Conn, http.Header, error) {
	dctx, cancel := context.WithTimeout(c.traced(ctx), handshakeTimeout)
	defer cancel()
	header := http.Header{}
	c.identify(header)
	//nolint:bodyclose // of an answer that is no WebSocket the library has kept a copy and closed it
	ws, resp, err := websocket.Dial(dctx, c.endpoint(path, query).String(), &websocket.DialOptions{
		HTTPClient: c.http, HTTPHeader: header, Subprotocols: []string{api.Subprotocol},
	})
	switch {
	case err == nil:
		return ws, resp.Header, nil
	case resp != nil && resp.StatusCode != http.StatusSwitchingProtocols:
		return nil, nil, problemFrom(resp)
	case ctx.Err() == nil && dctx.Err() != nil:
		return nil, nil, c.unreachable(ctx, errors.Plain("no answer within "+handshakeTimeout.String()))
	}
	return nil, nil, c.unreachable(ctx, err)
}
