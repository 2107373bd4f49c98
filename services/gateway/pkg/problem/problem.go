// Package problem renders errors as application/problem+json (RFC 9457): one
// way out for every error, with its stable code, whatever part of the gateway
// it comes from.
package problem

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
)

// Response is an error ready to be sent. It is itself an error, so that a
// typed handler can return it.
type Response struct {
	wire.Problem
	header http.Header
	cause  error
}

// From renders an error. Its text comes from [errors.Public], so the cause
// never leaves.
func From(err error) *Response {
	e := errors.Public(err)
	status := errors.HTTPStatus(e.Code)
	p := &Response{cause: err, Problem: wire.Problem{
		Type: "/docs#" + string(e.Code), Title: title(status), Status: status,
		Code: string(e.Code), Detail: e.Message, Hint: e.Hint, Field: e.Field,
	}}
	if e.RetryAfter > 0 {
		p.header = http.Header{"Retry-After": {RetryAfter(e.RetryAfter)}}
	}
	return p
}

// Invalid renders a request that failed validation in several places.
func Invalid(code errors.Code, detail string, fields []wire.FieldError) *Response {
	p := From(errors.New(code, "%s", detail))
	p.Errors = fields
	if len(fields) == 1 {
		p.Field, p.Hint = fields[0].Field, fields[0].Hint
		p.Detail = fields[0].Field + ": " + fields[0].Message
	}
	return p
}

// WithStatus overrides the status that the code's table gives.
func (p *Response) WithStatus(status int) *Response {
	p.Status, p.Title = status, title(status)
	return p
}

// SetHeader adds a header to the answer.
func (p *Response) SetHeader(name, value string) *Response {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Set(name, value)
	return p
}

// Error is the cause's text, for logs.
func (p *Response) Error() string {
	if p.cause != nil {
		return p.cause.Error()
	}
	return p.Code + ": " + p.Detail
}

// Unwrap gives the cause.
func (p *Response) Unwrap() error { return p.cause }

// GetStatus is the HTTP status.
func (p *Response) GetStatus() int { return p.Status }

// Header is what goes with the answer; may be nil.
func (p *Response) Header() http.Header { return p.header }

// ContentType is the media type of the body.
func (p *Response) ContentType(string) string { return wire.ProblemContentType }

// Noter is a ResponseWriter that remembers an error for the access log.
type Noter interface{ NoteError(err error) }

// Starter is a ResponseWriter that knows whether its header has been sent.
type Starter interface{ Started() bool }

// Renderer is a ResponseWriter whose clients know errors in another form.
type Renderer interface {
	RenderProblem(p *Response) (contentType string, body []byte)
}

// Write sends err as the answer. Where an answer is already under way it
// cannot be taken back: the connection is then aborted, so that the client
// does not take a cut answer for a whole one.
func Write(w http.ResponseWriter, err error) {
	var p *Response
	if !errors.As(err, &p) {
		p = From(err)
	}
	Note(w, err)
	if s, ok := find[Starter](w); ok && s.Started() {
		panic(http.ErrAbortHandler)
	}
	p.RequestID = w.Header().Get(wire.HeaderRequestID)
	contentType, body := render(w, p)
	h := w.Header()
	for k, v := range p.header {
		h[k] = v
	}
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Del("Content-Encoding")
	h.Del("Etag")
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n'))
}

func render(w http.ResponseWriter, p *Response) (contentType string, body []byte) {
	if r, ok := find[Renderer](w); ok {
		return r.RenderProblem(p)
	}
	body, err := json.Marshal(p.Problem)
	if err != nil { // cannot be: plain strings and numbers
		panic(err)
	}
	return wire.ProblemContentType, body
}

// Note tells the access log of an error.
func Note(w http.ResponseWriter, err error) {
	if n, ok := find[Noter](w); ok {
		n.NoteError(err)
	}
}

// find looks for T along the chain of wrapped writers.
func find[T any](w http.ResponseWriter) (T, bool) {
	for {
		if t, ok := w.(T); ok {
			return t, true
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			var zero T
			return zero, false
		}
		w = u.Unwrap()
	}
}

func title(status int) string {
	if status == 499 {
		return "Client Closed Request"
	}
	return http.StatusText(status)
}

// RetryAfter is a header's value: in seconds, and not too early.
func RetryAfter(d time.Duration) string {
	return strconv.Itoa(int(math.Ceil(d.Seconds())))
}
