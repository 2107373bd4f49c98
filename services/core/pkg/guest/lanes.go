package guest

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/lane"
)

const (
	// laneAfter is how much output an attachment takes before it gets a lane:
	// most commands never write so much, and are spared the change.
	laneAfter = 2 << 20
	// maxLanes bounds the lanes of one machine: what they take of our memory is
	// not counted by the transport that all else shares.
	maxLanes = 16
)

// lanes counts the connections that a machine's executions have for themselves.
type lanes struct {
	open    atomic.Int32
	missing atomic.Bool // the agent knows none: it is older than they are
}

func (l *lanes) enter() bool {
	if l.missing.Load() {
		return false
	}
	if l.open.Add(1) > maxLanes {
		l.open.Add(-1)
		return false
	}
	return true
}

func (l *lanes) leave() { l.open.Add(-1) }

// leave reports whether a lane is to take over, and if so has nothing more
// sent. An attachment that has sent a signal is not left: a signal is not sent
// again, and may still be on its way.
func (a *attachment) leave() bool {
	x := a.x
	if a.lane || !x.s.cfg.Client.lanes.enter() {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if a.signalled {
		x.s.cfg.Client.lanes.leave()
		return false
	}
	a.left = true
	close(a.leaving)
	return true
}

// openLane makes a lane, which ends with ctx.
func (s *Session) openLane(ctx context.Context) (stream, error) {
	conn, err := s.cfg.Client.openLane(ctx)
	if err != nil {
		return nil, err
	}
	str, _ := laneOn(ctx, conn)
	return str, nil
}

// laneOn makes a lane of a connection. It ends with ctx, unless unbind reports that it
// does not any more.
func laneOn(ctx context.Context, conn net.Conn) (str stream, unbind func() bool) {
	return lane.NewHost(conn), context.AfterFunc(ctx, func() { _ = conn.Close() })
}

// takeSpare has the attachment use the lane that waits, if there is one; the
// caller calls lanes.leave then.
func (a *attachment) takeSpare() bool {
	s := a.x.s
	conn := s.cfg.Client.spare.take()
	if conn == nil {
		return false
	}
	if !s.cfg.Client.lanes.enter() {
		_ = conn.Close()
		return false
	}
	a.lane, a.spare = true, conn
	return true
}

// takeOwn has the attachment open a lane, where that asks nothing of the agent
// that it has not to do anyway; the caller calls lanes.leave then.
func (a *attachment) takeOwn() bool {
	c := a.x.s.cfg.Client
	if !c.calls.knows.Load() || !c.lanes.enter() {
		return false
	}
	ctx, cancel := context.WithTimeoutCause(a.x.ctx, c.o.CallTimeout, errSlow)
	defer cancel()
	conn, err := c.openLane(ctx)
	if err != nil {
		c.lanes.leave()
		return false
	}
	a.lane, a.spare = true, conn
	return true
}

// laneConn is a lane's connection.
type laneConn struct {
	net.Conn
	many bool // it is for one execution after another; older agents know none that are
}

// handOverIn is how long a lane whose execution has ended may take to send what was
// being said of it, before it is closed.
const handOverIn = time.Second

// handOver has a lane wait for the next execution once nothing more is said of this
// one, whose end has come. It reports whether there will be one; else the attachment
// is to be ended.
func (a *attachment) handOver() bool {
	conn := a.spare
	if conn == nil || !conn.many || !a.unbind() {
		return false
	}
	a.x.mu.Lock()
	a.left = true
	a.x.mu.Unlock()
	close(a.leaving)
	late := time.AfterFunc(handOverIn, func() { _ = conn.Close() })
	go func() {
		<-a.sent
		if late.Stop() && a.sendErr == nil {
			a.x.s.cfg.Client.spare.keep(conn)
			return
		}
		_ = conn.Close()
	}()
	return true
}

// broke reports whether a lane's connection has come to an end.
func broke(err error) bool {
	var failed net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) || errors.As(err, &failed)
}
