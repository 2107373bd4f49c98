// Package api is a client of Firecracker's HTTP API, of those calls and fields
// that the product uses, in versions 1.12 and newer.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	// callTimeout bounds a call that needs no more than a moment.
	callTimeout = 30 * time.Second
	// maxAnswer bounds what a monitor may answer.
	maxAnswer = 256 << 10
	// maxMessage bounds how much of a refusal is told.
	maxMessage = 2 << 10
)

// Fault is what Firecracker says when it refuses a call.
type Fault struct {
	Status  int
	Message string
}

func (f *Fault) Error() string {
	return fmt.Sprintf("firecracker answered %d: %s", f.Status, f.Message)
}

// Client talks to one monitor. It is safe for concurrent use.
type Client struct {
	http *http.Client
}

// New makes a client of the monitor that dial connects to.
func New(dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{http: &http.Client{
		Transport: &http.Transport{
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			MaxConnsPerHost:        1, // calls are made one after the other there, too
			MaxResponseHeaderBytes: 16 << 10,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close lets go of the connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call makes a call, which is to take no longer than limit; none: as ctx says.
// Returns Conflict when no monitor answers, Internal with a [Fault] when it refuses.
func (c *Client) call(ctx context.Context, limit time.Duration, method, path string, body, answer any) error {
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return errors.Wrap(err, errors.Internal, "a call to the monitor cannot be written")
		}
	}
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://firecracker"+path, bytes.NewReader(raw))
	if err != nil {
		return errors.Wrap(err, errors.Internal, "a call to the monitor cannot be written")
	}
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return unanswered(ctx, err, method+" "+path)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return unanswered(ctx, err, method+" "+path)
	case len(text) > maxAnswer:
		return errors.New(errors.Internal, "the monitor's answer is too long")
	case response.StatusCode/100 != 2:
		return refused(response.StatusCode, text, method+" "+path)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return errors.Wrap(err, errors.Internal, "the monitor's answer cannot be read")
	}
	return nil
}

func unanswered(ctx context.Context, err error, call string) error {
	switch {
	case ctx.Err() != nil:
		return errors.Wrap(err, errors.CodeOf(ctx.Err()), "the monitor did not answer in time (%s)", call)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return errors.Wrap(err, errors.Conflict, "the machine does not run")
	}
	return errors.Wrap(err, errors.Internal, "the monitor ended within a call (%s)", call)
}

func refused(status int, text []byte, call string) error {
	var said struct {
		Message string `json:"fault_message"`
	}
	if json.Unmarshal(text, &said) != nil || said.Message == "" {
		said.Message = string(text)
	}
	if len(said.Message) > maxMessage {
		said.Message = said.Message[:maxMessage]
	}
	return errors.Wrap(&Fault{status, said.Message}, errors.Internal, "the monitor refused a call (%s)", call)
}
