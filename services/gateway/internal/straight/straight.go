// Package straight sends a request without a body and reads its answer in the
// goroutine that asks, where [http.Transport] has two of its own for each
// connection, which are woken one after the other: some 30 µs of a request's
// way to a server on the same host.
package straight

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// Transport is an [http.RoundTripper]. What it is not made for goes to Rest:
// requests with a body or for another protocol, those that must not be sent
// twice, and what is not Near.
//
// It is made for sockets. A connection that is none is closed after its
// answer, as nobody could tell whether something has come on it since; its
// address is remembered, and what is asked there goes to Rest.
type Transport struct {
	// Near tells whether Dial gives sockets for a request's server.
	Near func(*http.Request) bool
	// Dial connects to an address (host:port).
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Rest http.RoundTripper

	MaxBusy   int           // requests to one address at a time; more go to Rest
	MaxIdle   int           // connections that wait for a request, all together
	IdleTime  time.Duration // for how long they wait
	MaxHeader int64         // bytes of an answer's header
	Buffer    int           // bytes that are read at once

	mu       sync.Mutex
	servers  map[string]*server // by address
	idle     int
	channels map[string]struct{} // addresses whose connections are no sockets
}

// maxChannels bounds the addresses that are remembered; beyond, it begins anew.
const maxChannels = 4096

// server is what there is to one address.
type server struct {
	idle []*line // the last used is the last
	busy int
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !fits(r) || !t.Near(r) {
		return t.Rest.RoundTrip(r)
	}
	to := r.URL.Host
	l, ok := t.take(to)
	if !ok {
		return t.Rest.RoundTrip(r)
	}
	if l == nil {
		conn, err := t.Dial(r.Context(), "tcp", to)
		if err != nil {
			t.ended(to)
			return nil, err
		}
		if l = newLine(conn, t, to); l.raw == nil {
			t.isChannel(to)
		}
	}
	resp, err := l.roundTrip(r)
	if err != nil && l.untouched() && r.Context().Err() == nil {
		// A server may close a connection that waits at any time, and a request may
		// cross that (RFC 9112 §9.3.1): it is safe to send it anew.
		return t.Rest.RoundTrip(r)
	}
	return resp, err
}

// fits: it has no body, asks for no other protocol, and may be sent twice (RFC 9110 §9.2.2).
func fits(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
	default:
		return false
	}
	return r.URL.Scheme == "http" && (r.Body == nil || r.Body == http.NoBody) && r.Header.Get("Upgrade") == "" && r.Header.Get("Expect") == ""
}

// take gives a connection that waits; nil: one is to be made. Not ok: there are
// as many as may be, or what there is would be no socket.
func (t *Transport) take(to string) (l *line, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.channels[to]; known {
		return nil, false
	}
	s := t.servers[to]
	if s == nil {
		s = &server{}
		if t.servers == nil {
			t.servers = make(map[string]*server)
		}
		t.servers[to] = s
	}
	for n := len(s.idle) - 1; n >= 0; n-- {
		l := s.idle[n]
		s.idle[n], s.idle = nil, s.idle[:n]
		t.idle--
		l.waits.Stop() // where it is too late for that, drop finds nothing
		if l.quiet() {
			s.busy++
			return l, true
		}
		_ = l.Close()
	}
	if s.busy >= t.MaxBusy {
		return nil, false
	}
	s.busy++
	return nil, true
}

// isChannel remembers an address.
func (t *Transport) isChannel(to string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.channels == nil || len(t.channels) >= maxChannels {
		t.channels = make(map[string]struct{})
	}
	t.channels[to] = struct{}{}
}

// ended counts a connection that was taken and is no more.
func (t *Transport) ended(to string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.servers[to]
	s.busy--
	t.forget(to, s)
}

// forget has no entry for a server that there is nothing to.
func (t *Transport) forget(to string, s *server) {
	if s.busy == 0 && len(s.idle) == 0 {
		delete(t.servers, to)
	}
}

// keep has a connection that was taken wait for the next request.
func (t *Transport) keep(l *line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.servers[l.to]
	s.busy--
	if t.idle >= t.MaxIdle {
		_ = l.Close()
		t.forget(l.to, s)
		return
	}
	s.idle = append(s.idle, l)
	t.idle++
	l.used = true
	if l.waits == nil {
		l.waits = time.AfterFunc(t.IdleTime, func() { t.drop(l) })
	} else {
		l.waits.Reset(t.IdleTime)
	}
}

// drop closes a connection that has waited long enough.
func (t *Transport) drop(l *line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.servers[l.to]
	if s == nil {
		return
	}
	for i, other := range s.idle {
		if other == l {
			s.idle = append(s.idle[:i], s.idle[i+1:]...)
			t.idle--
			_ = l.Close()
			t.forget(l.to, s)
			return
		}
	}
}

// CloseIdleConnections closes those that wait for a request.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for to, s := range t.servers {
		for _, l := range s.idle {
			l.waits.Stop()
			_ = l.Close()
		}
		t.idle -= len(s.idle)
		s.idle = nil
		t.forget(to, s)
	}
}
