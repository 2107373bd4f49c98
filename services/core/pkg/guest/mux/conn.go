package mux

import (
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// conn is a connection as [net.Conn] has it: Close ends a Read that waits.
// yamux's own closes only the sending half, and its Read waits on for what the
// other side may never say.
type conn struct {
	*yamux.Stream

	mu     sync.Mutex
	closed bool
}

func newConn(s *yamux.Stream) *conn { return &conn{Stream: s} }

func (c *conn) Read(p []byte) (int, error) {
	if c.isClosed() {
		return 0, net.ErrClosed
	}
	n, err := c.Stream.Read(p)
	if err != nil && c.isClosed() {
		err = net.ErrClosed
	}
	return n, err
}

func (c *conn) Close() error {
	c.mu.Lock()
	c.closed = true
	_ = c.Stream.SetReadDeadline(time.Unix(1, 0)) // it never fails
	c.mu.Unlock()
	return c.Stream.Close()
}

func (c *conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// SetReadDeadline does nothing on a closed connection: a Read must not wait again.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return c.Stream.SetReadDeadline(t)
}

func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}
