package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
	"github.com/aetherium/aetherium/services/core/pkg/guest/lane"
)

// envelope is what Connect has before each message of a stream: flags (1 byte)
// and its length (4, big endian).
const envelope = 5

// endOfStream is the flag of a stream's last message in Connect, which is JSON.
const endOfStream = 2

// called are the calls that are made by frames, by their paths in HTTP.
var called = map[string]lane.Method{
	guestv1connect.MachineServiceHandshakeProcedure: lane.Handshake,
	guestv1connect.MachineServiceAssumeProcedure:    lane.Assume,
	guestv1connect.MachineServiceConfigureProcedure: lane.Configure,
	guestv1connect.MachineServiceHoldProcedure:      lane.Hold,
	guestv1connect.MachineServiceReleaseProcedure:   lane.Release,
	guestv1connect.ExecutionServiceListProcedure:    lane.List,
	guestv1connect.ExecutionServiceRenameProcedure:  lane.Rename,
	guestv1connect.ExecutionServiceForgetProcedure:  lane.Forget,
	guestv1connect.ExecutionServiceWatchProcedure:   lane.Watch,
}

// caller makes calls by frames (see package lane) where the agent knows them,
// and those that are not among them by HTTP. It is what a client of Connect
// sends its requests by.
type caller struct {
	dial Dial
	http *http.Client

	knows   atomic.Bool // the agent answered a call
	missing atomic.Bool // it is older than they are

	mu   sync.Mutex
	idle *lane.Caller // a connection that nobody uses
	off  bool         // the client is closed
}

// Do makes one call.
func (c *caller) Do(req *http.Request) (*http.Response, error) {
	method, ok := called[req.URL.Path]
	if !ok || c.missing.Load() {
		return c.http.Do(req)
	}
	raw, err := io.ReadAll(req.Body) // a message of ours
	_ = req.Body.Close()
	if err != nil {
		return nil, err
	}
	resp, err := c.call(req, method, raw)
	if errors.Is(err, lane.ErrOlder) {
		c.missing.Store(true)
		again := req.Clone(req.Context())
		again.Body, again.ContentLength, again.GetBody = io.NopCloser(bytes.NewReader(raw)), int64(len(raw)), nil
		return c.http.Do(again)
	}
	return resp, err
}

func (c *caller) call(req *http.Request, method lane.Method, raw []byte) (*http.Response, error) {
	if method == lane.Watch {
		return c.watch(req, raw[min(envelope, len(raw)):])
	}
	limit := maxMessage
	if method == lane.List {
		limit = maxListing
	}
	answer, err := c.ask(req.Context(), method, raw, limit)
	var refused *connect.Error
	switch {
	case errors.As(err, &refused):
		return answered(req, http.StatusInternalServerError, "application/json", newBody(errorJSON(refused))), nil
	case err != nil:
		return nil, err
	}
	return answered(req, http.StatusOK, "application/proto", newBody(answer)), nil
}

func newBody(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }

// ask makes a call that has one answer. A connection that broke since it was
// last used is no reason to fail.
func (c *caller) ask(ctx context.Context, method lane.Method, message []byte, limit int) ([]byte, error) {
	if conn := c.take(); conn != nil {
		answer, err := c.askOn(ctx, conn, method, message, limit)
		if err == nil || !broke(err) || ctx.Err() != nil {
			return answer, err
		}
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	return c.askOn(ctx, lane.NewCaller(conn), method, message, limit)
}

// askOn keeps the connection for later, unless it failed.
func (c *caller) askOn(ctx context.Context, conn *lane.Caller, method lane.Method, message []byte, limit int) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err := conn.Call(method, message)
	var answer []byte
	if err == nil {
		answer, err = conn.Answer(limit)
	}
	whole := stop()
	var refused *connect.Error
	if err == nil || errors.As(err, &refused) {
		c.knows.Store(true)
		if whole {
			c.keep(conn)
			return answer, err
		}
	}
	_ = conn.Close()
	return answer, err
}

// watch makes the call whose answers do not end. They end with the request's
// context, or when the body is closed.
func (c *caller) watch(req *http.Request, message []byte) (*http.Response, error) {
	ctx := req.Context()
	plain, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	conn := lane.NewCaller(plain)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	if err = conn.Call(lane.Watch, message); err == nil {
		_, err = conn.Answer(0)
	}
	s := &answers{conn: conn, stop: stop}
	var refused *connect.Error
	switch {
	case errors.As(err, &refused):
		s.end(refused)
	case err != nil:
		_ = s.Close()
		return nil, err
	}
	c.knows.Store(true)
	return answered(req, http.StatusOK, "application/connect+proto", s), nil
}

// openLane begins a lane without waiting for the agent, which has answered
// calls before. It is the caller's to close.
func (c *caller) openLane(ctx context.Context) (net.Conn, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = lane.NewCaller(conn).Call(lane.Attach, nil)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// take gives the connection that waits, or nil.
func (c *caller) take() *lane.Caller {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := c.idle
	c.idle = nil
	return conn
}

func (c *caller) keep(conn *lane.Caller) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off || c.idle != nil {
		_ = conn.Close()
		return
	}
	c.idle = conn
}

// close lets go of the connection that waits. Calls under way go on.
func (c *caller) close() {
	c.mu.Lock()
	c.off = true
	c.mu.Unlock()
	if conn := c.take(); conn != nil {
		_ = conn.Close()
	}
}

// answered makes what a client of Connect expects.
func answered(req *http.Request, status int, contentType string, body io.ReadCloser) *http.Response {
	return &http.Response{
		StatusCode: status, ProtoMajor: 2, Header: http.Header{"Content-Type": {contentType}}, Trailer: http.Header{},
		Body: body, ContentLength: -1, Request: req,
	}
}

// errorJSON is an error as Connect writes it.
func errorJSON(err *connect.Error) []byte {
	b, _ := json.Marshal(map[string]string{"code": err.Code().String(), "message": err.Message()}) // strings can be written
	return b
}

// answers reads a call's answers as Connect has the messages of a stream.
type answers struct {
	conn *lane.Caller
	stop func() bool // waiting for the call's context to end
	rest []byte      // of the message that is being read
	over error       // after it
}

func (s *answers) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.over != nil {
			return 0, s.over
		}
		m, err := s.conn.Answer(maxMessage)
		var refused *connect.Error
		switch {
		case errors.As(err, &refused):
			s.end(refused)
		case err != nil:
			return 0, err
		default:
			s.rest = append(head(0, len(m)), m...)
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// end has an error be the last word.
func (s *answers) end(err *connect.Error) {
	b := append(append([]byte(`{"error":`), errorJSON(err)...), '}')
	s.rest, s.over = append(head(endOfStream, len(b)), b...), io.EOF
}

func head(flags byte, length int) []byte {
	return binary.BigEndian.AppendUint32([]byte{flags}, uint32(length)) //nolint:gosec // bounded by a message's
}

func (s *answers) Close() error {
	s.stop()
	return s.conn.Close()
}
