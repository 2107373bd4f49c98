package nodelink

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
)

const (
	// A connection on which nothing came for pingAfter is asked for a sign of
	// life, and given up pingFor later.
	pingAfter = 10 * time.Second
	pingFor   = 5 * time.Second

	// dialLimit bounds reaching a worker.
	dialLimit = 5 * time.Second
	// tellLimit bounds a call that may fail, and tellFor how long it is made
	// again: after that the node has looked by itself.
	tellLimit = 10 * time.Second
	tellFor   = 30 * time.Second

	// maxStreams is how many calls one connection may have under way.
	maxStreams = 10_000
)

// Client is a node at the other end of a connection. Its methods tell what that
// node's tell, and Unavailable where it cannot be reached.
type Client struct {
	address string
	tls     *tls.Config
	http    *http.Client
	plain   *http.Client // of HTTP/1.1; see straight
	// patience is how long such a call waits before the node is asked for a sign of life.
	patience time.Duration
	busy     atomic.Int32 // calls of plain
	older    older        // than executions.run
	base     url.URL
	metrics  *Metrics
	log      *slog.Logger
	life     context.Context //nolint:containedctx // of what goes on by itself
	end      context.CancelFunc
}

var _ service.Node = (*Client)(nil)

// NewClient makes a client of the node at an address (host:port). The
// configuration says who the node must be and who the client is. Nothing is
// connected yet.
func NewClient(address string, config *tls.Config, log *slog.Logger) *Client {
	c := &Client{address: address, tls: config.Clone(), base: url.URL{Scheme: "https", Host: address, Path: Prefix}, log: log, patience: pingAfter}
	c.life, c.end = context.WithCancel(context.Background())
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: dialLimit}).DialContext, TLSHandshakeTimeout: dialLimit,
		TLSClientConfig: config, Protocols: protocols, DisableCompression: true,
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingFor},
	}}
	c.plain = newPlain(config)
	return c
}

// Measured has the client's calls measured, from before its first call.
func (c *Client) Measured(m *Metrics) *Client {
	c.metrics = m
	return c
}

// ServerTLS is a configuration completed for a server of [Handler].
func ServerTLS(config *tls.Config) *tls.Config {
	config = config.Clone()
	config.NextProtos = []string{"h2", "http/1.1"}
	return config
}

// NewServer makes a server of a node. It wants a listener of TLS ([http.Server.ServeTLS]).
func NewServer(h http.Handler, config *tls.Config, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, TLSConfig: ServerTLS(config), ReadHeaderTimeout: dialLimit, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: pingAfter, PingTimeout: pingFor, MaxConcurrentStreams: maxStreams,
			// One call that does not read what it is sent, as on a slow disk, holds up no other.
			MaxReceiveBufferPerConnection: 64 << 20,
		},
	}
}

// Close ends the connections that no call uses. What the node was to be told,
// and could not be, it has to find.
func (c *Client) Close() {
	c.end()
	c.http.CloseIdleConnections()
	c.plain.CloseIdleConnections()
}

// reply is a call's answer behind its value.
type reply struct {
	*bufio.Reader
	response *http.Response
	ctx      context.Context // of the call
	cancel   context.CancelFunc
}

// Read gives the bytes of an answer; its end may be an error that the node told of.
func (r *reply) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	return n, r.why(err)
}

// why tells what ended an answer.
func (r *reply) why(err error) error {
	switch {
	case err == nil:
		return nil
	case err == io.EOF: //nolint:errorlint // returned bare
		if told := trailed(r.response.Trailer); told != nil {
			return told
		}
		return io.EOF
	}
	return unreachable(r.ctx, err)
}

// Close ends the call. It does not wait for what the call sends, which may have
// nothing to send for long.
func (r *reply) Close() error {
	r.cancel()
	return r.response.Body.Close()
}

// open makes a call: in and then body are sent, out is the value of the answer.
func (c *Client) open(ctx context.Context, name string, in any, body io.Reader, out any) (r *reply, err error) {
	return c.openBy(ctx, c.http, name, in, body, out)
}

// openBy is open by another client.
func (c *Client) openBy(ctx context.Context, by *http.Client, name string, in any, body io.Reader, out any) (r *reply, err error) {
	begun := time.Now()
	ctx, span := tracing.Begin(ctx, "call "+name)
	defer func() {
		c.metrics.answered(name, begun, err)
		span.End(err)
	}()
	text, err := line(in)
	if err != nil {
		return nil, err
	}
	var sent io.Reader = bytes.NewReader(text)
	if body != nil {
		sent = io.MultiReader(sent, body)
	}
	if closer, ok := body.(io.Closer); ok {
		// The transport tells of a broken connection only when it has done with the
		// body, and for a body that waits for more that is when it is closed.
		sent = struct {
			io.Reader
			io.Closer
		}{sent, closer}
	}
	life, cancel := context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(life, http.MethodPost, c.base.JoinPath(name).String(), sent)
	if err != nil {
		cancel()
		return nil, errors.Wrap(err, errors.Internal, "a call to a node cannot be made")
	}
	tracing.Send(ctx, req.Header)
	response, err := by.Do(req) //nolint:bodyclose // the reply is closed by whoever has it
	if err != nil {
		cancel()
		return nil, unreachable(ctx, err)
	}
	r = &reply{bufio.NewReader(response.Body), response, ctx, cancel}
	if err := r.value(out); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// value reads the answer's value, or the error that is in its place.
func (r *reply) value(out any) error {
	if r.response.StatusCode != http.StatusOK {
		return refusal(r.response.StatusCode, r)
	}
	err := readLine(r.Reader, out)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		if told := trailed(r.response.Trailer); told != nil {
			return told
		}
	}
	if err != nil {
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		return garbled(err)
	}
	return nil
}

// refusal is the error that a node answered with.
func refusal(status int, r io.Reader) error {
	var f failure
	if err := json.NewDecoder(io.LimitReader(r, maxLine)).Decode(&f); err != nil || f.Code == "" {
		if status == http.StatusNotFound { // nothing is there that would answer
			return errors.New(errors.Unsupported, "the worker does not know this call: its version is too old").WithHint("update the worker")
		}
		return garbled(err)
	}
	return f.error()
}

// call makes a call whose answer is a value.
func call[Out any](ctx context.Context, c *Client, name string, in any) (Out, error) {
	return send[Out](ctx, c, name, in, nil)
}

// send makes a call that sends bytes and whose answer is a value. An error of
// the bytes' reader is the call's.
func send[Out any](ctx context.Context, c *Client, name string, in any, body io.Reader) (out Out, err error) {
	var from *source
	if body != nil {
		from = &source{Reader: body}
		body = from
	}
	r, err := c.open(ctx, name, in, body, &out)
	if err == nil {
		return out, r.Close()
	}
	if from != nil {
		if failed := from.failure(); failed != nil {
			return out, failed
		}
	}
	return out, err
}

// source is what a call sends. It keeps the error that reading it ended with.
type source struct {
	io.Reader
	mu  sync.Mutex
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // returned bare
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
	return n, err
}

func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// tell makes a call that may fail: what it is about is in the database, where
// the node finds it by itself, though later.
func (c *Client) tell(ctx context.Context, name string, in any) error {
	ctx, cancel := context.WithTimeout(ctx, tellLimit)
	defer cancel()
	_, err := call[none](ctx, c, name, in)
	return err
}

func (c *Client) untold(name string, err error) {
	c.log.Warn("a worker was not told", "call", name, "worker", c.address, "error", err)
}

// keepTelling tells the node as soon as it can be reached, and does not wait for
// that. It goes on when ctx has ended.
func (c *Client) keepTelling(ctx context.Context, name string, in any) {
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellFor)
		defer cancel()
		defer context.AfterFunc(c.life, cancel)()
		err := c.tell(ctx, name, in)
		if err != nil {
			c.untold(name, err)
		}
		for pause := 50 * time.Millisecond; err != nil; pause = min(2*pause, time.Second) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause/2 + rand.N(pause/2)):
			}
			err = c.tell(ctx, name, in)
		}
	}()
}

// unreachable tells why a node did not answer.
func unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Wrap(err, errors.Unavailable, "the worker that has this cannot be reached").WithRetryAfter(time.Second)
}
