package guest

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/lane"
)

// caller makes calls by frames, see package lane.
type caller struct {
	dial Dial

	knows   atomic.Bool // the agent answered a call
	missing atomic.Bool // it is older than they are
	few     atomic.Bool // it knows the first of them only, and not Quiesce

	mu   sync.Mutex
	idle *lane.Caller // a connection that nobody uses
	off  bool         // the client is closed
}

// has reports whether the agent may know a call.
func (c *caller) has(m lane.Method) bool {
	return !c.missing.Load() && (m < lane.Quiesce || !c.few.Load())
}

// lacks reports whether err says that the agent does not know a call. It is not asked
// for that again, unless what it says may be meant of its machine: those of a shared
// kernel have no Usage, and no Shutdown.
func (c *caller) lacks(m lane.Method, err error) bool {
	switch {
	case errors.Is(err, lane.ErrOlder):
		c.missing.Store(true)
		return true
	case m >= lane.Quiesce && wireCode(err) == connect.CodeUnimplemented:
		if m == lane.Quiesce || m == lane.Thaw {
			c.few.Store(true)
		}
		return true
	}
	return false
}

// ask makes a call that has one answer. A connection that broke since it was
// last used is no reason to fail, where the call can be made again without harm.
func (c *caller) ask(ctx context.Context, method lane.Method, req, res proto.Message) error {
	raw, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	limit := maxMessage
	if method == lane.List {
		limit = maxListing
	}
	answer, err := c.answer(ctx, method, raw, limit)
	if err != nil {
		return unreached(err)
	}
	return proto.Unmarshal(answer, res)
}

// unreached is why there is no answer, as a client of Connect has it: what the
// agent said, or that it could not be asked.
func unreached(err error) error {
	if wireCode(err) != 0 {
		return err
	}
	return connect.NewError(connect.CodeUnavailable, err)
}

func (c *caller) answer(ctx context.Context, method lane.Method, message []byte, limit int) ([]byte, error) {
	if method.Again() {
		if conn := c.take(); conn != nil {
			answer, err := c.askOn(ctx, conn, method, message, limit)
			if err == nil || !broke(err) || ctx.Err() != nil {
				return answer, err
			}
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

// watch makes the call whose answers do not end. They end with ctx, or when they are closed.
func (c *caller) watch(ctx context.Context) (*answers, error) {
	plain, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	conn := lane.NewCaller(plain)
	a := &answers{conn: conn, stop: context.AfterFunc(ctx, func() { _ = conn.Close() })}
	if err = conn.Call(lane.Watch, nil); err == nil {
		_, err = conn.Answer(0) // comes when it watches
	}
	if err != nil {
		a.close()
		return nil, err
	}
	c.knows.Store(true)
	return a, nil
}

// news tells of a machine's executions, one after another, as long as it lasts.
type news interface {
	next() (*guestv1.WatchResponse, error)
	close()
}

// watch begins to hear of the machine's executions. That ends with ctx, or when it is closed.
func (c *Client) watch(ctx context.Context) (news, error) {
	if c.calls.has(lane.Watch) {
		a, err := c.calls.watch(ctx)
		if err == nil {
			return a, nil
		}
		if !c.calls.lacks(lane.Watch, err) {
			return nil, unreached(err)
		}
	}
	str, err := c.web().executions.Watch(ctx, connect.NewRequest(&guestv1.WatchRequest{}))
	if err != nil {
		return nil, err
	}
	_ = str.ResponseHeader() // comes when it watches
	return streamed{str}, nil
}

// streamed is news by HTTP.
type streamed struct {
	str *connect.ServerStreamForClient[guestv1.WatchResponse]
}

func (s streamed) next() (*guestv1.WatchResponse, error) {
	if s.str.Receive() {
		return s.str.Msg(), nil
	}
	if err := s.str.Err(); err != nil {
		return nil, err
	}
	return nil, io.EOF
}

func (s streamed) close() { _ = s.str.Close() }

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

// answers are those of a call that has many.
type answers struct {
	conn *lane.Caller
	stop func() bool // waiting for the call's context to end
}

func (a *answers) next() (*guestv1.WatchResponse, error) {
	raw, err := a.conn.Answer(maxMessage)
	if err != nil {
		return nil, err
	}
	m := new(guestv1.WatchResponse)
	return m, proto.Unmarshal(raw, m)
}

func (a *answers) close() {
	a.stop()
	_ = a.conn.Close()
}
