package mux_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/guest/mux"
)

// wire is a stream that outlives its ends, as a virtio-serial port does: what
// one end wrote stays in it when that end goes away.
type wire struct {
	toGuest, toHost *buffer
}

func newWire() *wire { return &wire{newBuffer(), newBuffer()} }

func (w *wire) host(context.Context) (io.ReadWriteCloser, error) {
	return &end{in: w.toHost, out: w.toGuest, done: make(chan struct{})}, nil
}

func (w *wire) guest(context.Context) (io.ReadWriteCloser, error) {
	return &end{in: w.toGuest, out: w.toHost, done: make(chan struct{})}, nil
}

// buffer is one direction, of bounded size.
type buffer struct {
	mu      sync.Mutex
	data    []byte
	changed chan struct{}
}

const bufferSize = 64 << 10

func newBuffer() *buffer { return &buffer{changed: make(chan struct{})} }

func (b *buffer) wake() { close(b.changed); b.changed = make(chan struct{}) }

func (b *buffer) inject(p []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = append(b.data, p...)
	b.wake()
}

// lose throws away the first n bytes that wait.
func (b *buffer) lose(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = b.data[min(n, len(b.data)):]
	b.wake()
}

type end struct {
	in, out *buffer
	once    sync.Once
	done    chan struct{}
}

func (e *end) Close() error { e.once.Do(func() { close(e.done) }); return nil }

func (e *end) Read(p []byte) (int, error) {
	for {
		e.in.mu.Lock()
		changed := e.in.changed
		n := copy(p, e.in.data)
		if n > 0 {
			e.in.data = e.in.data[n:]
			e.in.wake()
		}
		e.in.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		select {
		case <-changed:
		case <-e.done:
			return 0, io.EOF
		}
	}
}

// Write may be cut off half-way by Close, as by the death of a process.
func (e *end) Write(p []byte) (int, error) {
	total := 0
	for total < len(p) {
		e.out.mu.Lock()
		changed := e.out.changed
		n := min(bufferSize-len(e.out.data), len(p)-total)
		if n > 0 {
			e.out.data = append(e.out.data, p[total:total+n]...)
			total += n
			e.out.wake()
		}
		e.out.mu.Unlock()
		select {
		case <-e.done:
			return total, io.ErrClosedPipe
		default:
		}
		if n == 0 {
			select {
			case <-changed:
			case <-e.done:
				return total, io.ErrClosedPipe
			}
		}
	}
	return total, nil
}

// echo serves connections until the mux is closed.
func echo(m *mux.Mux) {
	l := m.Listener()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
}

func newEnd(t testing.TB, role mux.Role, open mux.Open) *mux.Mux {
	t.Helper()
	m := mux.New(role, open, mux.Options{})
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func dial(t testing.TB, m *mux.Mux) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := m.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func roundTrip(conn net.Conn, text string) error {
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("got %q", got)
	}
	return nil
}

func TestManyConnectionsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWire()
	echo(newEnd(t, mux.Guest, w.guest))
	host := newEnd(t, mux.Host, w.host)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			conn := dial(t, host)
			src := make([]byte, 1<<20)
			_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(src)
			go func() { _, _ = conn.Write(src) }()
			sum := sha256.New()
			if _, err := io.CopyN(sum, conn, int64(len(src))); err != nil {
				t.Error(err)
			}
			if want := sha256.Sum256(src); !bytes.Equal(sum.Sum(nil), want[:]) {
				t.Error("the bytes differ")
			}
		})
	}
	all.Wait()
}

// TestLeftovers starts on a stream that has something in it already.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 30_000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	for name, before := range map[string][]byte{
		"nothing": nil, "noise": noise, "zeros": make([]byte, 10_000),
		"a packet cut off": bytes.Repeat([]byte{0xFE, 1, 2, 3}, 1000),
	} {
		for _, hostFirst := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, host first %v", name, hostFirst), func(t *testing.T) {
				t.Parallel()
				w := newWire()
				w.toGuest.inject(before)
				w.toHost.inject(before)
				var host *mux.Mux
				if hostFirst {
					host = newEnd(t, mux.Host, w.host)
				}
				echo(newEnd(t, mux.Guest, w.guest))
				if !hostFirst {
					host = newEnd(t, mux.Host, w.host)
				}
				if err := roundTrip(dial(t, host), "hello"); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestRestartOfEitherSide(t *testing.T) {
	t.Parallel()
	for name, restartHost := range map[string]bool{"host": true, "guest": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWire()
			start := func(isHost bool) *mux.Mux {
				if isHost {
					return mux.New(mux.Host, w.host, mux.Options{})
				}
				g := mux.New(mux.Guest, w.guest, mux.Options{})
				echo(g)
				return g
			}
			host, guest := start(true), start(false)
			defer func() { _, _ = host.Close(), guest.Close() }()
			for i := range 10 {
				old := dial(t, host)
				if err := roundTrip(old, fmt.Sprint("life ", i)); err != nil {
					t.Fatal(err)
				}
				// It is in the middle of writing when it dies.
				busy := dial(t, host)
				go func() { _, _ = busy.Write(make([]byte, 4<<20)) }()
				if restartHost {
					_ = host.Close()
					host = start(true)
				} else {
					_ = guest.Close()
					guest = start(false)
				}
				// Until it is noticed that the peer died, a connection may still be
				// made to its old life, and fails like the old ones.
				deadline := time.Now().Add(20 * time.Second)
				for {
					err := roundTrip(dial(t, host), fmt.Sprint("next life ", i))
					if err == nil {
						break
					}
					if time.Now().After(deadline) {
						t.Fatalf("after restart %d: %v", i, err)
					}
				}
				// The old connection must fail, not hang or go on.
				_ = old.SetReadDeadline(time.Now().Add(20 * time.Second))
				if _, err := old.Read(make([]byte, 1)); err == nil {
					t.Fatal("a connection survived its peer")
				} else if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal("a connection hangs after its peer's end")
				}
			}
		})
	}
}

func TestLostBytesResetTheLink(t *testing.T) {
	t.Parallel()
	w := newWire()
	echo(newEnd(t, mux.Guest, w.guest))
	host := newEnd(t, mux.Host, w.host)
	for range 20 {
		conn := dial(t, host)
		failed := make(chan struct{})
		go func() {
			defer close(failed)
			buf := make([]byte, 32<<10)
			for {
				if _, err := conn.Write(buf); err != nil {
					return
				}
				if _, err := io.ReadFull(conn, buf); err != nil {
					return
				}
			}
		}()
		for lost := false; !lost; {
			w.toGuest.lose(100)
			// A hole shows by what follows it.
			if other, err := host.Dial(t.Context()); err == nil {
				_, _ = io.WriteString(other, "follows")
				_ = other.Close()
			}
			select {
			case <-failed:
				lost = true
			case <-time.After(time.Millisecond):
			}
		}
		if err := roundTrip(dial(t, host), "again"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSlowConnectionHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	w := newWire()
	guest := newEnd(t, mux.Guest, w.guest)
	host := newEnd(t, mux.Host, w.host)
	l := guest.Listener()
	first := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		first <- conn // nobody reads it
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn) }()
		}
	}()
	slow := dial(t, host)
	wrote := make(chan int, 1)
	go func() {
		n, _ := slow.Write(make([]byte, 8<<20))
		wrote <- n
	}()
	unread := <-first
	for range 20 {
		if err := roundTrip(dial(t, host), "quick"); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case n := <-wrote:
		t.Errorf("%d bytes were taken for one who does not read", n)
	default:
	}
	// When it is read after all, everything is there.
	if _, err := io.CopyN(io.Discard, unread, 8<<20); err != nil {
		t.Error(err)
	}
}

func TestDialWaitsForThePeer(t *testing.T) {
	t.Parallel()
	w := newWire()
	host := newEnd(t, mux.Host, w.host)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := host.Dial(ctx); err == nil {
		t.Fatal("connected to nobody")
	}
	result := make(chan error, 1)
	go func() {
		conn, err := host.Dial(t.Context())
		if err == nil {
			err = roundTrip(conn, "late")
		}
		result <- err
	}()
	echo(newEnd(t, mux.Guest, w.guest))
	if err := <-result; err != nil {
		t.Error(err)
	}
	_ = host.Close()
	if _, err := host.Dial(t.Context()); err == nil {
		t.Error("dialled after Close")
	}
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	w := newWire()
	guest := newEnd(t, mux.Guest, w.guest)
	newEnd(t, mux.Host, w.host) // does not listen: what a guest dials is closed
	conn := dial(t, guest)
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want EOF", err)
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	w := newWire()
	echo(newEnd(b, mux.Guest, w.guest))
	conn := dial(b, newEnd(b, mux.Host, w.host))
	for b.Loop() {
		if err := roundTrip(conn, "ping"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkThroughput(b *testing.B) {
	w := newWire()
	guest := newEnd(b, mux.Guest, w.guest)
	l := guest.Listener()
	go func() {
		if conn, err := l.Accept(); err == nil {
			_, _ = io.Copy(io.Discard, conn)
		}
	}()
	conn := dial(b, newEnd(b, mux.Host, w.host))
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if _, err := conn.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// TestCloseEndsARead: whoever waits for bytes is let go by its own Close, also
// when the other side neither writes nor closes.
func TestCloseEndsARead(t *testing.T) {
	t.Parallel()
	w := newWire()
	l := newEnd(t, mux.Guest, w.guest).Listener()
	conn := dial(t, newEnd(t, mux.Host, w.host))
	if _, err := l.Accept(); err != nil { // it is silent for good
		t.Fatal(err)
	}
	reading := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		reading <- err
	}()
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-reading; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read that waited: %v", err)
	}
	if err := conn.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a deadline: %v", err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("another read: %v", err)
	}
}

// TestCloseEndsAReadInTheMiddleOfAMessage: the other side stops for good when
// half of what it has to say is out.
func TestCloseEndsAReadInTheMiddleOfAMessage(t *testing.T) {
	t.Parallel()
	w := newWire()
	gate := &gate{open: make(chan struct{})}
	l := newEnd(t, mux.Guest, func(ctx context.Context) (io.ReadWriteCloser, error) {
		rw, err := w.guest(ctx)
		return gated{rw, gate}, err
	}).Listener()
	conn := dial(t, newEnd(t, mux.Host, w.host))
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(far, far) }()
	if err := roundTrip(conn, "before"); err != nil {
		t.Fatal(err)
	}
	gate.allow(1)
	t.Cleanup(func() { close(gate.open) })
	stopped := gate.stopped()
	reading := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 64))
		reading <- err
	}()
	if _, err := conn.Write([]byte("never answered")); err != nil {
		t.Fatal(err)
	}
	<-stopped
	w.toHost.awaitEmpty()
	_ = conn.Close()
	if err := <-reading; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read that waited: %v", err)
	}
}

// gate lets a number of writes pass and stops the others.
type gate struct {
	mu      sync.Mutex
	limited bool
	left    int
	stop    chan struct{}
	open    chan struct{} // lets everything pass
}

func (g *gate) allow(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limited, g.left, g.stop = true, n, make(chan struct{})
}

func (g *gate) stopped() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stop
}

func (g *gate) pass() {
	g.mu.Lock()
	g.left--
	if !g.limited || g.left >= 0 {
		g.mu.Unlock()
		return
	}
	if g.left == -1 {
		close(g.stop)
	}
	g.mu.Unlock()
	<-g.open
}

type gated struct {
	io.ReadWriteCloser
	gate *gate
}

func (g gated) Write(p []byte) (int, error) {
	g.gate.pass()
	return g.ReadWriteCloser.Write(p)
}

func (b *buffer) awaitEmpty() {
	for {
		b.mu.Lock()
		n, changed := len(b.data), b.changed
		b.mu.Unlock()
		if n == 0 {
			return
		}
		<-changed
	}
}
