package guest

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Limits on what the agent may send.
const (
	maxMessage   = 2 << 20   // one message of a stream, or the answer of a call
	maxListing   = 32 << 20  // the answer of a directory or execution listing
	maxHeader    = 32 << 10  // all headers of an HTTP answer
	maxErrorBody = 64 << 10  // a JSON error
	maxFrame     = 256 << 10 // one HTTP/2 frame
	maxStreamBuf = 1 << 20   // received and not yet read, per HTTP/2 stream
	maxConnBuf   = 64 << 20  // the same for a whole connection
)

// Dial connects to the agent. It blocks until the agent can be reached, ctx
// ends, or it is known that it cannot.
type Dial func(ctx context.Context) (net.Conn, error)

// Options tune a client. Zero fields mean the defaults.
type Options struct {
	HostVersion string
	// Features that the host offers in the handshake.
	Features []string
	// CallTimeout bounds a call that needs no work in the guest; default 10 s.
	CallTimeout time.Duration
	// FileTimeout bounds file system calls and the wait for an answer's first
	// byte in transfers; default 60 s.
	FileTimeout time.Duration
	Log         *slog.Logger // default: nothing is logged
}

func (o Options) withDefaults() Options {
	if o.CallTimeout <= 0 {
		o.CallTimeout = 10 * time.Second
	}
	if o.FileTimeout <= 0 {
		o.FileTimeout = 60 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Client talks to one machine's agent. It is safe for concurrent use.
type Client struct {
	dial Dial
	o    Options

	calls caller
	lanes lanes
	spare spare

	webOnce sync.Once
	webMade atomic.Pointer[web]
}

// New makes a client. Nothing is dialled before the first call.
func New(dial Dial, o Options) *Client {
	c := &Client{dial: dial, o: o.withDefaults()}
	c.calls.dial = dial
	return c
}

// web is what the agent is asked by HTTP.
func (c *Client) web() *web {
	c.webOnce.Do(func() { c.webMade.Store(newWeb(c.dial)) })
	return c.webMade.Load()
}

// Close lets go of idle connections. Calls under way go on.
func (c *Client) Close() {
	c.spare.close()
	c.calls.close()
	if w := c.webMade.Load(); w != nil {
		w.rpc.CloseIdleConnections()
		w.bulk.CloseIdleConnections()
	}
}

// bounded limits a call in time; done turns what came out into our vocabulary.
func bounded[T any](ctx context.Context, limit time.Duration, what string, call func(context.Context) (T, error)) (T, error) {
	inner, cancel := context.WithTimeoutCause(ctx, limit, errSlow)
	defer cancel()
	v, err := call(inner)
	if err != nil {
		var zero T
		return zero, fault(inner, err, what)
	}
	return v, nil
}
