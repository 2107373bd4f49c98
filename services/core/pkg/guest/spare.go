package guest

import (
	"context"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/lane"
)

// maxSpares is how many lanes of a machine wait at most.
const maxSpares = 4

// spare is lanes that wait for the next commands of a machine. Over HTTP/2 a
// message passes from goroutine to goroutine at both ends; that is a good part
// of what a short command takes, and so is the opening of a lane.
type spare struct {
	mu      sync.Mutex
	conns   []*laneConn // the last that came is the first to go
	filling bool
	off     bool // the client is closed
}

// take gives a lane that waits, or nil.
func (s *spare) take() *laneConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.conns) - 1
	if n < 0 {
		return nil
	}
	conn := s.conns[n]
	s.conns[n] = nil
	s.conns = s.conns[:n]
	return conn
}

// begin reports whether a lane is to be opened; whoever does so calls put.
func (s *spare) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off || s.filling || len(s.conns) > 0 {
		return false
	}
	s.filling = true
	return true
}

// put keeps a lane that was opened, unless there is none or nobody wants it any more.
func (s *spare) put(conn *laneConn, err error) {
	s.mu.Lock()
	s.filling = false
	s.mu.Unlock()
	if err == nil {
		s.keep(conn)
	}
}

// keep has a lane wait, unless enough do or nobody wants it any more.
func (s *spare) keep(conn *laneConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off || len(s.conns) >= maxSpares {
		_ = conn.Close()
		return
	}
	s.conns = append(s.conns, conn)
}

// drop closes the lanes that wait: what has broken one has most often broken all.
func (s *spare) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
}

func (s *spare) close() {
	s.mu.Lock()
	s.off = true
	s.mu.Unlock()
	s.drop()
}

// openLane begins a lane, which is the caller's to close. An agent that refuses
// one because it is older than they are is not asked again.
func (c *Client) openLane(ctx context.Context) (*laneConn, error) {
	if c.calls.knows.Load() {
		conn, err := c.calls.openLane(ctx)
		return &laneConn{conn, true}, err
	}
	conn, agreed, err := upgrade(ctx, c.dial, lane.Path, lane.Protocol, lane.HeaderMany+": "+lane.Many+"\r\n", "opening a lane")
	if errors.HasCode(err, errors.NotFound) || errors.HasCode(err, errors.GuestFault) {
		c.lanes.missing.Store(true)
	}
	return &laneConn{conn, agreed.Get(lane.HeaderMany) == lane.Many}, err
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
