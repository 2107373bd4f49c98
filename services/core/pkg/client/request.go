package client

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"syscall"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// maxJSONBytes bounds a JSON answer.
const maxJSONBytes = 64 << 20

// call is one request.
type call struct {
	method string
	path   []string // segments below the API's path
	query  url.Values
	header http.Header
	body   any // sent as JSON; nil: none
	// stream is a body of bytes; length is -1 where it is not known. Such a
	// request is never repeated.
	stream io.Reader
	length int64
	// safe says that the request may be sent again when it is not known
	// whether the server took it: it reads, it is idempotent by its nature, or
	// it carries a key or an ID that the server compares.
	safe bool
}

func get(path ...string) call { return call{method: http.MethodGet, path: path, safe: true} }

func post(body any, path ...string) call {
	return call{method: http.MethodPost, path: path, body: body}
}

// create is a POST that makes something, with a fresh idempotency key.
func create(body any, path ...string) call {
	return post(body, path...).keyed(domain.NewID().String())
}

func (cl call) keyed(key string) call {
	cl = cl.with(api.HeaderIdempotencyKey, key)
	cl.safe = true
	return cl
}

func (cl call) with(name, value string) call {
	if cl.header = cl.header.Clone(); cl.header == nil {
		cl.header = http.Header{}
	}
	cl.header.Set(name, value)
	return cl
}

func (cl call) param(name, value string) call {
	q := url.Values{}
	for k, v := range cl.query {
		q[k] = v
	}
	q.Set(name, value)
	cl.query = q
	return cl
}

func (cl call) repeatable() call {
	cl.safe = true
	return cl
}

// send makes a request and hands an answer of status 2xx to take, which reads
// its body. Anything else is an error. A request that is safe to repeat is
// repeated, also when its answer broke off: take then starts anew.
func (c *Client) send(ctx context.Context, cl call, take func(*http.Response) error) error {
	var payload []byte
	if cl.body != nil {
		var err error
		if payload, err = json.Marshal(cl.body); err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "the request cannot be written as JSON")
		}
	}
	for b := c.backoff(); ; {
		resp, err := c.once(ctx, cl, payload)
		if err == nil {
			err = errors.Join(take(resp), resp.Body.Close())
		}
		if err == nil || !cl.safe || cl.stream != nil || !c.worthRepeating(ctx, err) || !b.wait(ctx, err) {
			return err
		}
	}
}

// open makes a request and returns its answer, whose body the caller closes.
func (c *Client) open(ctx context.Context, cl call) (*http.Response, error) {
	for b := c.backoff(); ; {
		resp, err := c.once(ctx, cl, nil)
		if err == nil || !cl.safe || cl.stream != nil || !c.worthRepeating(ctx, err) || !b.wait(ctx, err) {
			return resp, err
		}
	}
}

func (c *Client) once(ctx context.Context, cl call, payload []byte) (*http.Response, error) {
	ctx = c.traced(ctx)
	req, err := http.NewRequestWithContext(ctx, cl.method, c.endpoint(cl.path, cl.query).String(), nil)
	if err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "the request cannot be made")
	}
	for k, v := range cl.header {
		req.Header[k] = v
	}
	c.identify(req.Header)
	switch {
	case cl.stream != nil:
		req.Body = io.NopCloser(cl.stream)
		if req.ContentLength = cl.length; cl.length == 0 {
			req.Body = http.NoBody
		}
	case payload != nil:
		req.Body = io.NopCloser(bytes.NewReader(payload))
		req.ContentLength = int64(len(payload))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(payload)), nil }
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer func() { _ = resp.Body.Close() }()
		return nil, problemFrom(resp)
	}
	return resp, nil
}

func (c *Client) identify(h http.Header) {
	h.Set("User-Agent", c.agent)
	if c.project != "" {
		h.Set(api.HeaderProject, c.project)
	}
	if c.key != "" {
		h.Set("Authorization", "Bearer "+c.key)
	}
}

// traced notes when a connection to the server exists.
func (c *Client) traced(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { c.reached.Store(true) },
	})
}

// unreachable makes an error of a request that got no answer.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.Public(context.Cause(ctx))
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // the outer text repeats the URL, query included
	}
	if c.reached.Load() {
		return errors.Wrap(&lostError{err}, errors.Unavailable, "the connection to %s broke: %s", c.origin, reason(err))
	}
	return errors.Wrap(&lostError{err}, errors.Unavailable, "no server answers at %s: %s", c.origin, reason(err)).
		WithHint("start one with: make up")
}

// lostError marks an error of the connection, not of the server's.
type lostError struct{ error }

func (e *lostError) Unwrap() error { return e.error }

// IsUnreachable reports whether err means that no server answered.
func IsUnreachable(err error) bool {
	var lost *lostError
	return errors.As(err, &lost)
}

// reason shortens "dial tcp 127.0.0.1:7300: connect: connection refused" to what matters.
func reason(err error) string {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "it was closed"
	}
	return err.Error()
}

// fetch makes a request and decodes its JSON answer.
func fetch[T any](ctx context.Context, c *Client, cl call) (out T, err error) {
	err = c.send(ctx, cl.with("Accept", "application/json"), func(resp *http.Response) error {
		out, err = decode[T](ctx, c, resp)
		return err
	})
	return out, err
}

func decode[T any](ctx context.Context, c *Client, resp *http.Response) (T, error) {
	var out T
	body := &io.LimitedReader{R: resp.Body, N: maxJSONBytes + 1}
	raw, err := io.ReadAll(body)
	switch {
	case body.N <= 0:
		return out, errors.New(errors.TooLarge, "the server's answer is larger than %d MiB", maxJSONBytes>>20)
	case err != nil:
		return out, c.unreachable(ctx, err)
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return out, errors.Wrap(err, errors.Internal, "the server's answer is not what its API promises").
			WithHint("is %s an Aetherium server of this version?", c.origin)
	}
	return out, nil
}

// perform makes a request whose answer has nothing to tell.
func (c *Client) perform(ctx context.Context, cl call) error {
	return c.send(ctx, cl, func(resp *http.Response) error {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10)) // so that the connection is used again
		return nil
	})
}
