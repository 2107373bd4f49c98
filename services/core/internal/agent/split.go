package agent

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/lane"
)

// splitter is a listener of which the connections of calls are served apart;
// those that remain speak HTTP.
type splitter struct {
	net.Listener
	ctx   context.Context //nolint:containedctx // of the connections of calls
	serve func(ctx context.Context, conn net.Conn, from io.Reader)
	begin sync.Once
	rest  chan accepted

	close sync.Once
	done  chan struct{} // closed by Close
}

type accepted struct {
	conn net.Conn
	err  error
}

// split takes the connections of calls off a listener.
func split(ctx context.Context, l net.Listener, serve func(context.Context, net.Conn, io.Reader)) net.Listener {
	return &splitter{Listener: l, ctx: ctx, serve: serve, rest: make(chan accepted), done: make(chan struct{})}
}

// Accept gives the next connection that is not of calls.
func (s *splitter) Accept() (net.Conn, error) {
	s.begin.Do(func() { go s.accept() })
	select {
	case next := <-s.rest:
		return next.conn, next.err
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *splitter) Close() error {
	s.close.Do(func() { close(s.done) })
	return s.Listener.Close()
}

// accept takes connections until that fails for good. What fails for a while is
// the caller of Accept's to wait out.
func (s *splitter) accept() {
	for {
		conn, err := s.Listener.Accept()
		if err == nil {
			go s.sort(conn)
			continue
		}
		var passing interface{ Temporary() bool }
		if !s.give(accepted{err: err}) || !errors.As(err, &passing) || !passing.Temporary() {
			return
		}
	}
}

func (s *splitter) give(a accepted) bool {
	select {
	case s.rest <- a:
		return true
	case <-s.done:
		if a.conn != nil {
			_ = a.conn.Close()
		}
		return false
	}
}

// sort finds out what a connection speaks.
func (s *splitter) sort(conn net.Conn) {
	// Until it has said so it is as a request without headers.
	_ = conn.SetReadDeadline(time.Now().Add(headerTimeout))
	if foreign, known := peek(conn); known && foreign {
		s.speaksHTTP(conn)
		return
	}
	r := bufio.NewReaderSize(conn, lane.AheadBytes)
	for n := 1; ; n++ {
		said, err := r.Peek(n)
		if err != nil {
			_ = conn.Close()
			return
		}
		if said[n-1] != lane.Hello[n-1] {
			s.speaksHTTP(ahead(conn, r))
			return
		}
		if n == len(lane.Hello) {
			break
		}
	}
	_, _ = r.Discard(len(lane.Hello)) // it was looked at
	if conn.SetReadDeadline(time.Time{}) != nil {
		_ = conn.Close()
		return
	}
	s.serve(s.ctx, conn, r)
}

func (s *splitter) speaksHTTP(conn net.Conn) {
	if conn.SetReadDeadline(time.Time{}) != nil {
		_ = conn.Close()
		return
	}
	s.give(accepted{conn: conn})
}

// ahead is a connection of which r has read something, and that can be closed one
// way only where it could be before.
func ahead(conn net.Conn, r *bufio.Reader) net.Conn {
	read := &lane.ReadAhead{Conn: conn, R: r}
	if _, ok := conn.(interface{ CloseWrite() error }); ok {
		return read
	}
	return struct{ net.Conn }{read}
}

// peek looks at the first byte of a connection that the kernel has, and takes
// nothing. known is false where it cannot tell.
func peek(conn net.Conn) (foreign, known bool) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false, false
	}
	var first [1]byte
	n := 0
	rerr := raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), first[:], unix.MSG_PEEK|unix.MSG_DONTWAIT) //nolint:gosec // a descriptor
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if rerr != nil || err != nil || n == 0 {
		return false, false
	}
	return first[0] != lane.Hello[0], true
}
