package guest

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/filesystem/filesystempbconnect"
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
	rpc   *http.Client // HTTP/2: calls and executions, many on one connection
	bulk  *http.Client // HTTP/1.1: one connection per transfer, so that none holds up another

	executions guestv1connect.ExecutionServiceClient
	listing    guestv1connect.ExecutionServiceClient // with room for long answers
	machine    guestv1connect.MachineServiceClient
	files      filesystempbconnect.FilesystemClient

	lanes lanes
	spare spare
}

// base is a name that is never resolved: dial alone says where bytes go.
const base = "http://agent"

// New makes a client. Nothing is dialled before the first call.
func New(dial Dial, o Options) *Client {
	c := &Client{dial: dial, o: o.withDefaults()}
	c.rpc = newRPC(dial)
	c.bulk = newBulk(polite(roomy(dial)))
	small := connect.WithReadMaxBytes(maxMessage)
	// The agent is near: compression costs more than it saves, and what is not
	// decompressed cannot explode.
	plain := connect.WithAcceptCompression("gzip", nil, nil)
	c.calls.dial, c.calls.http = dial, c.rpc
	c.machine = guestv1connect.NewMachineServiceClient(&c.calls, base, small, plain)
	c.executions = guestv1connect.NewExecutionServiceClient(&c.calls, base, small, plain)
	long := connect.WithReadMaxBytes(maxListing)
	c.listing = guestv1connect.NewExecutionServiceClient(&c.calls, base, long, plain)
	c.files = filesystempbconnect.NewFilesystemClient(c.rpc, base, long, plain)
	return c
}

func newRPC(dial Dial) *http.Client {
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true)
	t := &http.Transport{
		Protocols:              h2c,
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxReadFrameSize:              maxFrame,
			MaxReceiveBufferPerStream:     maxStreamBuf,
			MaxReceiveBufferPerConnection: maxConnBuf,
		},
	}
	return &http.Client{Transport: t, CheckRedirect: noRedirect}
}

func newBulk(dial Dial) *http.Client {
	h1 := new(http.Protocols)
	h1.SetHTTP1(true)
	t := &http.Transport{
		Protocols:              h1,
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
		DisableKeepAlives:      true, // see polite; a new connection costs 50 µs
	}
	return &http.Client{Transport: t, CheckRedirect: noRedirect}
}

// noRedirect keeps the agent from sending us elsewhere.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Close lets go of idle connections. Calls under way go on.
func (c *Client) Close() {
	c.spare.close()
	c.calls.close()
	c.rpc.CloseIdleConnections()
	c.bulk.CloseIdleConnections()
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
