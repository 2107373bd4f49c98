package proxy

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// early is a connection to the address that a machine chose, made while it is
// waited for what the machine says, for protocols in which the server speaks
// first. There is one only where the address alone is allowed.
type early struct {
	none   bool
	cancel context.CancelFunc
	spoke  chan struct{} // closed when the server has said something, or cannot be reached; nil with none
	once   sync.Once

	// Once spoke is closed, or after take:
	conn *net.TCPConn
	said []byte
	err  error

	mu     sync.Mutex
	made   chan struct{} // closed when conn or err is there
	wanted bool          // nobody waits for what the server says any more
}

// early begins to connect where that is of use.
func (f *flow) early() *early {
	d, _ := f.machine.Rules().Connection("", f.to.Addr())
	// Where the machine speaks first, its name decides anyway.
	if !d.Allow || f.to.Port() == 80 || f.to.Port() == 443 || f.p.cfg.Refused(f.to.Addr()) {
		return &early{none: true, cancel: func() {}}
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &early{cancel: cancel, spoke: make(chan struct{}), made: make(chan struct{})}
	go func() {
		defer close(e.spoke)
		e.conn, _, e.err = f.dial(ctx, "", d, false)
		close(e.made)
		if e.err != nil {
			return
		}
		e.mu.Lock()
		wanted := e.wanted
		e.mu.Unlock()
		if wanted {
			return
		}
		buf := make([]byte, 4096)
		n, _ := e.conn.Read(buf) // an end or an error is met again by who reads on
		e.said = buf[:n]
	}()
	return e
}

// take gives the connection and what the server has said on it already.
func (e *early) take() (*net.TCPConn, []byte, error) {
	if e.none {
		return nil, nil, &denial{reason: domain.EgressUnreachable}
	}
	e.mu.Lock()
	e.wanted = true
	e.mu.Unlock()
	<-e.made
	if e.err != nil {
		return nil, nil, e.err
	}
	_ = e.conn.SetReadDeadline(time.Unix(1, 0)) // ends the waiting
	<-e.spoke
	_ = e.conn.SetReadDeadline(time.Time{})
	e.once.Do(func() {}) // it is the taker's now
	return e.conn, e.said, nil
}

// connected reports whether the server was reached.
func (e *early) connected() bool {
	if e.none {
		return false
	}
	select {
	case <-e.made:
		return e.err == nil
	default:
		return false
	}
}

// discard gives the connection up, unless it was taken.
func (e *early) discard(f *flow) {
	e.once.Do(func() {
		e.cancel()
		if e.none {
			return
		}
		go func() {
			<-e.made
			if e.err == nil {
				f.part(e.conn)
				_ = e.conn.Close()
			}
		}()
	})
}
