package ws

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/limit"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

// Config is what streams need. Zero durations and counts take the defaults named.
type Config struct {
	VMs vmm.Orchestrator
	// Stopping ends when the server is about to stop: streams then end in a
	// way that tells clients to come back.
	Stopping context.Context
	// Origins may open WebSockets beside the server's own, each as
	// "https://host" or "host", with a port where there is one. Usually empty.
	Origins []string
	// Ping is how often a quiet stream shows that it lives; default 25 s.
	Ping time.Duration
	// Stall is how long a client may take nothing; default 2 min.
	Stall time.Duration
	// Max bounds the streams open at a time; default 4096.
	Max int
	// Limits bound what each caller has open and sends; nil: nothing does.
	Limits *limit.Limits
	// Trail records what is done over streams; nil: nothing does.
	Trail *trail.Trail
	// Opened counts streams by kind; may be nil.
	Opened func(kind string) (closed func())
}

// Streams serves streams.
type Streams struct {
	Config
	open atomic.Int64
}

// New makes Streams.
func New(c Config) *Streams {
	if c.Stopping == nil {
		c.Stopping = context.Background()
	}
	if c.Ping <= 0 {
		c.Ping = 25 * time.Second
	}
	if c.Stall <= 0 {
		c.Stall = 2 * time.Minute
	}
	if c.Max <= 0 {
		c.Max = 4096
	}
	if c.Opened == nil {
		c.Opened = func(string) func() { return func() {} }
	}
	if c.Limits == nil {
		c.Limits = limit.New(limit.Config{}, nil)
	}
	return &Streams{Config: c}
}

// errStopping is the cause of a stream's end when the server stops.
var errStopping = errors.New(errors.Unavailable, "the server is stopping").WithRetryAfter(time.Second).
	WithHint("connect again and go on at your offset")

// enter counts a stream in and gives it a context that ends with the request,
// when its credentials hold no longer, or when the server is stopping. Returns
// Unavailable when there are too many, RateLimited when the caller has.
func (s *Streams) enter(r *http.Request, kind string) (context.Context, func(), error) {
	if s.Stopping.Err() != nil {
		return nil, nil, errStopping
	}
	if s.open.Add(1) > int64(s.Max) {
		s.open.Add(-1)
		return nil, nil, errors.New(errors.Unavailable, "too many streams are open").WithRetryAfter(5 * time.Second)
	}
	release, err := s.Limits.OpenStream(auth.CallerFrom(r.Context()))
	if err != nil {
		s.open.Add(-1)
		return nil, nil, err
	}
	closed := s.Opened(kind)
	ctx, cancel := context.WithCancelCause(r.Context())
	unhook := context.AfterFunc(s.Stopping, func() { cancel(errStopping) })
	ended := auth.Ended(r.Context())
	unended := context.AfterFunc(ended, func() { cancel(streamError{context.Cause(ended)}) })
	return ctx, func() {
		unhook()
		unended()
		cancel(context.Canceled)
		closed()
		release()
		s.open.Add(-1)
	}, nil
}

// IsUpgrade reports whether a request asks for a WebSocket.
func IsUpgrade(r *http.Request) bool {
	return hasToken(r.Header, "Connection", "upgrade") && hasToken(r.Header, "Upgrade", "websocket")
}

// accept upgrades the request. On an error nothing has been answered yet.
func (s *Streams) accept(w http.ResponseWriter, r *http.Request) (*conn, error) {
	switch {
	case r.ProtoMajor != 1 || !IsUpgrade(r):
		w.Header().Set("Upgrade", "websocket")
		return nil, errors.New(errors.InvalidArgument, "this is a WebSocket endpoint").
			WithHint("connect with a WebSocket client over HTTP/1.1, subprotocol %s", wire.Subprotocol)
	case r.Header.Get("Sec-Websocket-Version") != "13" || len(r.Header.Values("Sec-Websocket-Key")) != 1:
		return nil, errors.New(errors.InvalidArgument, "the WebSocket handshake is not one of version 13 (RFC 6455)")
	case !s.originAllowed(r):
		return nil, errors.New(errors.PermissionDenied, "pages of other origins may not open streams")
	}
	c := &conn{stall: s.Stall, frames: rate.NewLimiter(framesPerSecond, framesBurst)}
	var err error
	c.ws, err = websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       []string{wire.Subprotocol},
		InsecureSkipVerify: true, // the origin was checked above, with an answer in our error format
		CompressionMode:    websocket.CompressionDisabled,
		OnPingReceived:     func(ctx context.Context, _ []byte) bool { return c.frames.Wait(ctx) == nil },
	})
	if err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "the WebSocket handshake failed")
	}
	c.ws.SetReadLimit(wire.MaxControlBytes + wire.FrameHeaderBytes)
	return c, nil
}

func (s *Streams) originAllowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true // not a browser
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	if strings.EqualFold(u.Host, r.Host) {
		return true
	}
	for _, o := range s.Origins {
		if strings.EqualFold(o, origin) || strings.EqualFold(o, u.Host) {
			return true
		}
	}
	return false
}

func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}
