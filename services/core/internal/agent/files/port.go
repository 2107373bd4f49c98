package files

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
)

const portDialTimeout = 5 * time.Second

// forwardPort is POST /aetherium/port/{port} with "Upgrade: tcp": after 101 the
// connection carries the bytes of a TCP connection to the port on loopback, for
// drivers that cannot enter the machine's network. Either side's end of stream
// is passed on. A closed port is Unavailable.
func forwardPort(w http.ResponseWriter, r *http.Request) {
	port, err := strconv.ParseUint(r.PathValue("port"), 10, 16)
	if err != nil || port == 0 {
		wire.Error(w, errors.New(errors.InvalidArgument, "%.16q is not a port", r.PathValue("port")))
		return
	}
	if r.ProtoMajor != 1 || !strings.EqualFold(r.Header.Get("Upgrade"), "tcp") {
		wire.Error(w, errors.New(errors.InvalidArgument, "the request must be HTTP/1.1 with Upgrade: tcp"))
		return
	}
	target, err := dialLoopback(r.Context(), strconv.FormatUint(port, 10))
	if err != nil {
		wire.Error(w, errors.Wrap(err, errors.Unavailable, "nothing listens on port %d", port))
		return
	}
	defer func() { _ = target.Close() }()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		wire.Error(w, errors.Wrap(err, errors.Internal, "the connection cannot be taken over"))
		return
	}
	defer func() { _ = client.Close() }()
	// The server set deadlines for the headers; the stream has none.
	if client.SetDeadline(time.Time{}) != nil {
		return
	}
	_, err = io.WriteString(client, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	if err != nil {
		return
	}
	if lifetime, ok := r.Context().Value(lifetimeKey{}).(context.Context); ok {
		stop := context.AfterFunc(lifetime, func() { _, _ = client.Close(), target.Close() })
		defer stop()
	}
	early, err := buffered.Reader.Peek(buffered.Reader.Buffered())
	if err != nil {
		return
	}
	join(client, early, target)
}

type lifetimeKey struct{}

// WithLifetime makes ctx tell how long its server serves. Connections that were
// taken over end with it: the server no longer knows them, and a request's
// context ends with the client's end of stream, which is too early.
func WithLifetime(ctx context.Context) context.Context {
	return context.WithValue(ctx, lifetimeKey{}, ctx)
}

// dialLoopback tries IPv4 first: most servers listen there.
func dialLoopback(ctx context.Context, port string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: portDialTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	if err == nil {
		return conn, nil
	}
	if conn, err6 := dialer.DialContext(ctx, "tcp", net.JoinHostPort("::1", port)); err6 == nil {
		return conn, nil
	}
	return nil, err
}

// join copies both ways until both ended. early is what the client has sent
// already; it goes by itself, for the kernel carries what stands between two
// sockets and nothing else.
func join(client net.Conn, early []byte, target net.Conn) {
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := target.Write(early); err != nil {
			_ = target.Close()
			return
		}
		carry(target, client)
	})
	carry(client, target)
	both.Wait()
}

// carry copies one way and passes the end of stream on. A connection that
// cannot be closed in one direction is closed.
func carry(to net.Conn, from io.Reader) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		_ = half.CloseWrite()
		return
	}
	_ = to.Close()
}
