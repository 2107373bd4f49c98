package nodelink

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
)

type dialPort struct {
	VM   *domain.VM
	Port uint16
}

// dial serves a connection to a port of a guest.
func (s *server) dial(w http.ResponseWriter, r *http.Request) {
	out := &answer{w: w, flush: http.NewResponseController(w).Flush}
	var in dialPort
	if err := readLine(bufio.NewReader(r.Body), &in); err != nil {
		out.end(r.Context(), s, "dial", errors.Wrap(err, errors.InvalidArgument, "what is to be dialed is not understood"))
		return
	}
	guest, err := s.node.Dial(r.Context(), in.VM, in.Port)
	if err != nil {
		out.end(r.Context(), s, "dial", err)
		return
	}
	defer func() { _ = guest.Close() }()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		out.end(r.Context(), s, "dial", errors.Wrap(err, errors.InvalidArgument, "a connection to a port wants HTTP/1.1"))
		return
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+upgrade+"\r\n\r\n"); err != nil {
		return
	}
	splice(guest, conn, buffered.Reader)
}

type writeCloser interface{ CloseWrite() error }

// splice passes bytes between two connections, each direction to its end, and
// returns when both have ended. What conn says is read from early.
func splice(guest, conn net.Conn, early io.Reader) {
	var both sync.WaitGroup
	pass := func(to net.Conn, from io.Reader) {
		_, err := io.Copy(to, from)
		half, can := to.(writeCloser)
		if err != nil || !can || half.CloseWrite() != nil {
			_ = to.Close() // the other direction has nobody to speak to
		}
	}
	both.Go(func() { pass(guest, early) })
	both.Go(func() { pass(conn, guest) })
	both.Wait()
}

// Dial implements service.Node.
func (c *Client) Dial(ctx context.Context, vm *domain.VM, port uint16) (conn net.Conn, err error) {
	begun := time.Now()
	defer func() { c.metrics.answered("dial", begun, err) }()
	config := c.tls.Clone()
	config.NextProtos = []string{"http/1.1"}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reach, done := context.WithTimeout(ctx, dialLimit)
	defer done()
	raw, err := (&tls.Dialer{Config: config}).DialContext(reach, "tcp", c.address)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	if conn, err = c.takeOver(ctx, raw, dialPort{vm, port}); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

// takeOver makes a fresh connection to a node one to a port of a guest.
func (c *Client) takeOver(ctx context.Context, raw net.Conn, what dialPort) (net.Conn, error) {
	text, err := line(what)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath("dial").String(), bytes.NewReader(text))
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "a call to a node cannot be made")
	}
	tracing.Send(ctx, req.Header)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgrade)
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	r := bufio.NewReader(raw)
	response, err := exchange(raw, r, req)
	if !stop() {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		defer func() { _ = response.Body.Close() }()
		return nil, refusal(response.StatusCode, response.Body)
	}
	return &portConn{Conn: raw, r: r}, nil
}

func exchange(raw net.Conn, r *bufio.Reader, req *http.Request) (*http.Response, error) {
	if err := req.Write(raw); err != nil {
		return nil, err
	}
	return http.ReadResponse(r, req)
}

// portConn is a connection to a port of a guest of another node.
type portConn struct {
	net.Conn
	r *bufio.Reader
}

func (p *portConn) Read(b []byte) (int, error) { return p.r.Read(b) }

// CloseWrite tells the other end that nothing more comes.
func (p *portConn) CloseWrite() error { return p.Conn.(writeCloser).CloseWrite() }
