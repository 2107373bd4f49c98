package fake

import (
	"context"
	"net"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// direct is the listener of a machine that is reached by a connection each, as a
// container is, and by no stream that they share.
type direct struct {
	conns chan net.Conn
	close sync.Once
	done  chan struct{}
}

func newDirect() *direct { return &direct{conns: make(chan net.Conn), done: make(chan struct{})} }

// dial makes a connection. Returns Conflict once the machine has ended.
func (l *direct) dial(ctx context.Context) (net.Conn, error) {
	host, guest := net.Pipe()
	select {
	case l.conns <- guest:
		return host, nil
	case <-l.done:
		return nil, errors.New(errors.Conflict, "the machine has ended")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (l *direct) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *direct) Close() error {
	l.close.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (*direct) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
