package gateway

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
)

const (
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
	maxH2Streams   = 250
	abortGrace     = 2 * time.Second
)

// errStopping is why requests that outlast the grace are broken off.
var errStopping = errors.New(errors.Unavailable, "the server is stopping").WithRetryAfter(time.Second)

// Server serves a gateway: HTTP/1.1 and HTTP/2, over TLS or in clear text.
// Start and Stop may each be called more than once.
type Server struct {
	gateway *Gateway
	http    *http.Server
	abort   context.CancelCauseFunc

	mu      sync.Mutex
	active  int           // requests under way, hijacked connections included
	idle    chan struct{} // closed when none is, once Stop waits for that
	bound   []*bound      // what is listened on: plain HTTP first, where there is both
	stopped bool
	done    chan struct{}
	err     error
}

// bound is an address that is listened on.
type bound struct {
	net.Listener
	tls bool
}

// NewServer makes a server; it does not listen yet.
func NewServer(g *Gateway) *Server {
	s := &Server{gateway: g, done: make(chan struct{})}
	base, abort := context.WithCancelCause(context.Background())
	s.abort = abort
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		TLSConfig:         g.config.TLS,
		Protocols:         &protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxH2Streams, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		ReadHeaderTimeout: g.config.HeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(g.deps.Logger.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return base },
		// "OPTIONS *" goes the way of every other request.
		DisableGeneralOptionsHandler: true,
	}
	return s
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.active++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.active--; s.active == 0 && s.idle != nil {
			close(s.idle)
			s.idle = nil
		}
	}()
	s.gateway.ServeHTTP(w, r)
}

// whenIdle gives a channel that is closed when no request is under way.
func (s *Server) whenIdle() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	idle := make(chan struct{})
	if s.active == 0 {
		close(idle)
	} else {
		s.idle = idle
	}
	return idle
}

// Start listens and returns; requests are answered from then on. ctx bounds
// the listening only. Returns Unavailable when an address is taken.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errors.New(errors.Conflict, "the server has been stopped")
	}
	if s.bound != nil {
		return nil
	}
	c := s.gateway.config
	plain, err := listen(ctx, c.Address, false)
	if err != nil {
		return err
	}
	all := []*bound{{plain, c.TLS != nil && c.TLSAddress == ""}}
	if c.TLSAddress != "" {
		secure, err := listen(ctx, c.TLSAddress, c.TLSElsewhere)
		if err != nil {
			_ = plain.Close()
			return err
		}
		all = append(all, &bound{secure, true})
	}
	s.bound = all
	connections := countConnections(c.MaxConnsPerAddress, c.MaxConns, s.gateway.standsForMany)
	ends := make(chan error, len(all))
	for _, b := range all {
		limited := limitListener(b, connections)
		serve := func() error { return s.http.Serve(limited) }
		if b.tls {
			serve = func() error { return s.http.ServeTLS(limited, "", "") }
		}
		go func() { ends <- serve() }()
	}
	go func() {
		defer close(s.done)
		for i := range all {
			err := <-ends
			if !errors.Is(err, http.ErrServerClosed) && s.err == nil {
				s.err = err
			}
			if i == 0 { // one is not served without the other
				for _, b := range all {
					_ = b.Close()
				}
			}
		}
	}()
	return nil
}

// listen listens on an address or, if it may be, on another port of its host.
func listen(ctx context.Context, address string, elsewhere bool) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if elsewhere && errors.Is(err, syscall.EADDRINUSE) {
		host, _, _ := net.SplitHostPort(address) // it was one to listen on
		l, err = lc.Listen(ctx, "tcp", net.JoinHostPort(host, "0"))
	}
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot listen on %s", address).WithHint("is another server running there?")
	}
	return l, nil
}

// at is what is listened on with TLS or without; nil where nothing is.
func (s *Server) at(tls bool) *bound {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.bound {
		if b.tls == tls {
			return b
		}
	}
	return nil
}

// Addr is where the server listens; nil before Start. Of two addresses it is
// that of plain HTTP.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bound == nil {
		return nil
	}
	return s.bound[0].Addr()
}

// TLSAddr is where the server listens for TLS; nil where it does not.
func (s *Server) TLSAddr() net.Addr {
	if b := s.at(true); b != nil {
		return b.Addr()
	}
	return nil
}

// Endpoints are how the API is reached from this machine; empty before Start.
func (s *Server) Endpoints() wire.Endpoints {
	return wire.Endpoints{URL: s.url(false), TLSURL: s.url(true)}
}

// URL is the one of the endpoints that needs no trust, where there are both.
func (s *Server) URL() string { return cmp.Or(s.url(false), s.url(true)) }

func (s *Server) url(tls bool) string {
	b := s.at(tls)
	if b == nil {
		return ""
	}
	scheme := "http://"
	if tls {
		scheme = "https://"
	}
	host, port, _ := net.SplitHostPort(b.Addr().String()) // a TCP address has both
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + net.JoinHostPort(host, port)
}

// Done is closed when the server serves no longer; Err then tells why.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err is why serving ended; nil after Stop.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Leave has /ready say that the server is about to stop, while all goes on for as long
// as who sends requests here may take to notice, or until serving has ended.
func (s *Server) Leave(notice time.Duration) {
	s.gateway.leaving.Store(true)
	timer := time.NewTimer(notice)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.done:
	}
}

// Stop ends streams so that their clients come back elsewhere or later, lets
// other requests finish until the grace or ctx is over, then cuts them off.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	first := s.bound != nil && !s.stopped
	s.stopped = true
	s.mu.Unlock()
	s.gateway.EndStreams()
	if !first {
		return nil
	}
	defer s.gateway.lines.Flush()
	defer s.abort(nil)
	ctx, cancel := context.WithTimeout(ctx, s.gateway.config.StopGrace)
	defer cancel()
	err := s.http.Shutdown(ctx)
	idle := s.whenIdle()
	select {
	case <-idle:
	case <-ctx.Done():
		s.abort(errStopping) // handlers return, and have a moment to say why
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortGrace)
		defer cancel()
		_ = s.http.Shutdown(last)
		err = s.http.Close()
		<-idle
	}
	<-s.done
	return err
}
