package gateway

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
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

	mu       sync.Mutex
	active   int           // requests under way, hijacked connections included
	idle     chan struct{} // closed when none is, once Stop waits for that
	listener net.Listener
	stopped  bool
	done     chan struct{}
	err      error
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
// the listening only. Returns Unavailable when the address is taken.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errors.New(errors.Conflict, "the server has been stopped")
	}
	if s.listener != nil {
		return nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.gateway.config.Address)
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot listen on %s", s.gateway.config.Address).WithHint("is another server running there?")
	}
	s.listener = l
	limited := limitListener(l, s.gateway.config.MaxConnsPerAddress, s.gateway.config.MaxConns, s.gateway.standsForMany)
	go func() {
		defer close(s.done)
		serve := func() error { return s.http.Serve(limited) }
		if s.gateway.config.TLS != nil {
			serve = func() error { return s.http.ServeTLS(limited, "", "") }
		}
		err := serve()
		if !errors.Is(err, http.ErrServerClosed) {
			s.err = err
		}
	}()
	return nil
}

// Addr is where the server listens; nil before Start.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// URL is how the API is reached from this machine; empty before Start.
func (s *Server) URL() string {
	addr := s.Addr()
	if addr == nil {
		return ""
	}
	scheme := "http://"
	// Not http.TLSConfig: serving HTTP/2 sets that in clear text as well.
	if s.gateway.config.TLS != nil {
		scheme = "https://"
	}
	host, port, _ := net.SplitHostPort(addr.String()) // a TCP address has both
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

// Stop ends streams so that their clients come back elsewhere or later, lets
// other requests finish until the grace or ctx is over, then cuts them off.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	first := s.listener != nil && !s.stopped
	s.stopped = true
	s.mu.Unlock()
	s.gateway.EndStreams()
	if !first {
		return nil
	}
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
