package guest

import (
	"context"
	"net"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/lane"
)

// spare is a lane that waits for the next command of a machine. Over HTTP/2 a
// message passes from goroutine to goroutine at both ends; that is a good part
// of what a short command takes, and so is the opening of a lane.
type spare struct {
	mu      sync.Mutex
	conn    net.Conn // nil: none is ready
	filling bool
	off     bool // the client is closed
}

// take gives the lane that waits, or nil.
func (s *spare) take() net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn := s.conn
	s.conn = nil
	return conn
}

// begin reports whether a lane is to be opened; whoever does so calls put.
func (s *spare) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off || s.filling || s.conn != nil {
		return false
	}
	s.filling = true
	return true
}

// put keeps a lane, unless there is none or nobody wants it any more.
func (s *spare) put(conn net.Conn, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filling = false
	switch {
	case err != nil:
	case s.off:
		_ = conn.Close()
	default:
		s.conn = conn
	}
}

func (s *spare) close() {
	s.mu.Lock()
	s.off = true
	s.mu.Unlock()
	if conn := s.take(); conn != nil {
		_ = conn.Close()
	}
}

// openLane begins a lane, which is the caller's to close. An agent that refuses
// one because it is older than they are is not asked again.
func (c *Client) openLane(ctx context.Context) (net.Conn, error) {
	if c.calls.knows.Load() {
		return c.calls.openLane(ctx)
	}
	conn, err := upgrade(ctx, c.dial, lane.Path, lane.Protocol, "opening a lane")
	if errors.HasCode(err, errors.NotFound) || errors.HasCode(err, errors.GuestFault) {
		c.lanes.missing.Store(true)
	}
	return conn, err
}

// fillSpare opens a lane for the next command if there is none.
func (c *Client) fillSpare(ctx context.Context) {
	if c.lanes.missing.Load() || !c.spare.begin() {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.o.CallTimeout, errSlow)
	defer cancel()
	c.spare.put(c.openLane(ctx))
}
