// Package envd serves what SDKs of the field speak: the Connect services
// process.Process and filesystem.Filesystem, and the HTTP endpoints beside
// them. Every process started here is an execution too (package execution), so
// the host journals it like its own.
package envd

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/services/core/internal/agent/access"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
)

const (
	// maxMessage bounds one request message; SDKs send a whole stdin in one.
	maxMessage = 16 << 20
	// compressFrom keeps gzip away from small answers and stream messages.
	compressFrom = 16 << 10

	keepaliveHeader  = "Keepalive-Ping-Interval" // seconds
	defaultKeepalive = 90 * time.Second
	maxKeepalive     = time.Hour
)

// Options are the handler options of both services: bounds, and the access
// token on every call.
func Options(g *access.Guard) []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithReadMaxBytes(maxMessage),
		connect.WithCompressMinBytes(compressFrom),
		connect.WithInterceptors(tokenCheck{g}),
	}
}

// tokenCheck refuses calls without the access token.
type tokenCheck struct{ guard *access.Guard }

func (t tokenCheck) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if err := t.guard.Token(req.Header()); err != nil {
			return nil, wire.Connect(err)
		}
		return next(ctx, req)
	}
}

func (t tokenCheck) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (t tokenCheck) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if err := t.guard.Token(conn.RequestHeader()); err != nil {
			return wire.Connect(err)
		}
		return next(ctx, conn)
	}
}

// keepalive is how long a stream may stay silent.
func keepalive(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get(keepaliveHeader))
	if err != nil || seconds <= 0 {
		return defaultKeepalive
	}
	return min(time.Duration(seconds)*time.Second, maxKeepalive)
}
