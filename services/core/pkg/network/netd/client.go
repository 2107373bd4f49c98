package netd

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
)

// Client tells a netd what machines may reach. Its methods are safe for
// concurrent use; each returns when what it says is in force. They return
// Unavailable when no netd answers.
type Client struct{ http *http.Client }

// NewClient makes a client of the netd behind a control socket; nothing is
// connected yet.
func NewClient(socket string) *Client {
	var d net.Dialer
	return &Client{&http.Client{Transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
		MaxIdleConnsPerHost: 4,
	}}}
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// SetState says everything; machines that are not in it are forgotten.
func (c *Client) SetState(ctx context.Context, s egress.State) error {
	return c.do(ctx, http.MethodPut, "/state", s)
}

// SetMachine says what one machine may reach.
func (c *Client) SetMachine(ctx context.Context, m egress.Machine) error {
	return c.do(ctx, http.MethodPut, "/machines/"+m.Address.String(), m)
}

// RemoveMachine says that nobody has an address any more.
func (c *Client) RemoveMachine(ctx context.Context, a netip.Addr) error {
	return c.do(ctx, http.MethodDelete, "/machines/"+a.String(), nil)
}

func (c *Client) do(ctx context.Context, method, path string, body any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return errors.Wrap(err, errors.Internal, "cannot say it to netd")
		}
	}
	// NewRequest lets a body of bytes be sent again on another connection, where
	// a kept one was that of a netd that has died.
	req, err := http.NewRequestWithContext(ctx, method, "http://netd"+path, bytes.NewReader(text))
	if err != nil {
		return errors.Wrap(err, errors.Internal, "cannot say it to netd")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "netd does not answer")
	}
	defer func() { _ = resp.Body.Close() }()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "netd does not answer")
	}
	if resp.StatusCode != http.StatusNoContent {
		return errors.Wrap(errors.Plain(string(bytes.TrimSpace(said))), errors.Unavailable, "netd refuses what it is told")
	}
	return nil
}
