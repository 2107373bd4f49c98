package mux

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/internal/backoff"
)

// Open opens the stream, again each time it broke. It blocks until the stream
// can be used or ctx ends. Closing what it returns ends a Read that blocks.
type Open func(ctx context.Context) (io.ReadWriteCloser, error)

// Role tells the two ends apart.
type Role int

// The roles.
const (
	Host Role = iota
	Guest
)

// Options tune a mux. Zero fields mean the defaults.
type Options struct {
	Log *slog.Logger // default: nothing is logged
}

// Mux is one end. It is safe for concurrent use.
type Mux struct {
	open Open
	role Role
	log  *slog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	link     *link         // nil while there is none
	changed  chan struct{} // closed when link changes
	incoming chan net.Conn // nil until Listener is called
}

// New makes an end and begins to open the stream. Call Close when done.
func New(role Role, open Open, o Options) *Mux {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	m := &Mux{open: open, role: role, log: o.Log, changed: make(chan struct{})}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.wg.Go(m.run)
	return m
}

// errClosed is what calls on a closed mux return.
var errClosed = errors.New(errors.Unavailable, "the channel to the machine is closed")

// Dial opens a connection to the other end. It blocks until that is there.
// Returns Unavailable after Close, and ctx's error.
func (m *Mux) Dial(ctx context.Context) (net.Conn, error) {
	for {
		m.mu.Lock()
		l, changed := m.link, m.changed
		m.mu.Unlock()
		if l != nil {
			conn, err := l.dial(ctx)
			switch {
			case err == nil:
				return conn, nil
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case !l.ended():
				return nil, errors.Wrap(err, errors.Unavailable, "the channel to the machine takes no more connections")
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-m.ctx.Done():
			return nil, errClosed
		}
	}
}

// Listener yields the connections that the other end dials. Without a call of
// it they are closed at once. It may be called once.
func (m *Mux) Listener() net.Listener {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.incoming = make(chan net.Conn)
	return &listener{m: m, done: make(chan struct{})}
}

// Close ends all connections and lets go of the stream.
func (m *Mux) Close() error {
	m.cancel()
	m.wg.Wait()
	return nil
}

func (m *Mux) setLink(l *link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.link = l
	close(m.changed)
	m.changed = make(chan struct{})
}

// run opens the stream again and again.
func (m *Mux) run() {
	wait := backoff.New(5*time.Millisecond, time.Second)
	for m.ctx.Err() == nil {
		rw, err := m.open(m.ctx)
		if err == nil {
			c := newCarrier(m, rw)
			err = c.run()
			if c.linked { // nobody else uses c any more
				wait.Reset()
			}
		}
		if m.ctx.Err() == nil {
			m.log.Debug("the stream broke", "error", err)
			_ = wait.Wait(m.ctx, nil)
		}
	}
}

// take hands an incoming connection to who listens.
func (m *Mux) take(l *link, conn net.Conn) {
	m.mu.Lock()
	incoming := m.incoming
	m.mu.Unlock()
	if incoming == nil {
		_ = conn.Close()
		return
	}
	select {
	case incoming <- conn:
	case <-l.done:
		_ = conn.Close()
	}
}

// newLife draws a number that tells this life from all others.
func newLife() uint64 {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // never fails
		if n := binary.LittleEndian.Uint64(b[:]); n != 0 {
			return n
		}
	}
}

type listener struct {
	m    *Mux
	once sync.Once
	done chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.m.incoming:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-l.m.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *listener) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "mux" }
func (addr) String() string  { return "mux" }
