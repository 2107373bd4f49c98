package mux

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	// writeTimeout is how long a connection waits for the stream to take its
	// bytes. The other end may be frozen for a while.
	writeTimeout = 30 * time.Second
	// closeTimeout is how long a closed connection waits for the other side to close.
	closeTimeout = 30 * time.Second
	// backlog bounds the connections that wait to be accepted, and with 256 KiB
	// each the memory that a hostile peer can take.
	backlog = 64
)

// link is what two ends share as long as both live: a yamux session.
type link struct {
	c          *carrier
	self, peer uint64
	session    *yamux.Session
	received   uint32 // packets; of the reading goroutine alone
	frames     frames // of the reading goroutine alone
	sent       uint32 // packets; of yamux's sending goroutine alone
	in         *io.PipeWriter
	fromCarry  *io.PipeReader
	once       sync.Once
	done       chan struct{}
}

func newLink(c *carrier, self, peer uint64) (*link, error) {
	l := &link{c: c, self: self, peer: peer, done: make(chan struct{})}
	l.fromCarry, l.in = io.Pipe()
	config := yamux.DefaultConfig()
	config.AcceptBacklog = backlog
	// A frozen machine answers no pings and is well.
	config.EnableKeepAlive = false
	config.StreamOpenTimeout = 0
	config.ConnectionWriteTimeout = writeTimeout
	config.StreamCloseTimeout = closeTimeout
	config.MaxStreamWindowSize = window
	config.LogOutput = io.Discard
	open := yamux.Client
	if c.m.role == Guest {
		open = yamux.Server
	}
	var err error
	if l.session, err = open(pipe{l}, config); err != nil {
		return nil, err
	}
	c.m.wg.Go(l.accept)
	return l, nil
}

func (l *link) accept() {
	for {
		s, err := l.session.AcceptStream()
		if err != nil {
			l.c.failed(l)
			return
		}
		l.c.m.take(l, newConn(s))
	}
}

func (l *link) dial(ctx context.Context) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	ch := make(chan result, 1)
	go func() {
		s, err := l.session.OpenStream()
		if err != nil {
			ch <- result{err: err}
			return
		}
		ch <- result{conn: newConn(s)}
	}()
	select {
	case r := <-ch:
		return r.conn, r.err
	case <-ctx.Done():
		go func() {
			if r := <-ch; r.err == nil {
				_ = r.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// receive takes what a data packet carried. It blocks until yamux has it, or
// the link has ended.
func (l *link) receive(b []byte) error {
	return l.frames.feed(b, func(frame []byte) { _, _ = l.in.Write(frame) })
}

func (l *link) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return l.session.IsClosed()
	}
}

// end resets every connection. It does not wait.
func (l *link) end() {
	l.once.Do(func() {
		close(l.done)
		_ = l.fromCarry.CloseWithError(io.EOF)
		_ = l.in.CloseWithError(io.ErrUnexpectedEOF)
		l.c.m.wg.Go(func() { _ = l.session.Close() })
	})
}

// pipe is what yamux reads and writes: the bytes of the link's data packets.
type pipe struct{ l *link }

func (p pipe) Read(b []byte) (int, error) { return p.l.fromCarry.Read(b) }

func (p pipe) Write(b []byte) (int, error) {
	total := 0
	for len(b) > 0 {
		n := min(len(b), maxData)
		head := packet{kind: data, from: p.l.self, to: p.l.peer, count: p.l.sent, data: b[:n]}
		out := &outPacket{bytes: head.stuffed(), sent: make(chan error, 1)}
		select {
		case p.l.c.out <- out:
		case <-p.l.done:
			return total, io.ErrClosedPipe
		case <-p.l.c.done:
			return total, io.ErrClosedPipe
		}
		p.l.sent++
		select {
		case err := <-out.sent:
			if err != nil {
				return total, err
			}
		case <-p.l.done:
			return total, io.ErrClosedPipe
		}
		total += n
		b = b[n:]
	}
	return total, nil
}

func (p pipe) Close() error {
	p.l.end()
	return nil
}
