package agent

import (
	"context"
	"net"
	"net/http"
	"sync"

	"github.com/aetherium/aetherium/services/core/internal/agent/files"
)

// clients are the connections that are served, with what ends what each asked
// for: those of a machine's origin have no business in its fork.
type clients struct {
	mu    sync.Mutex
	conns map[net.Conn]context.CancelFunc
	taken map[net.Conn]bool // by a handler, which closes it: the server no longer tells
}

type clientKey struct{}

// enter makes the context of a connection's requests.
func (c *clients) enter(ctx context.Context, conn net.Conn) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns == nil {
		c.conns, c.taken = map[net.Conn]context.CancelFunc{}, map[net.Conn]bool{}
	}
	c.conns[conn] = cancel
	return files.WithLifetime(context.WithValue(ctx, clientKey{}, conn))
}

// state follows what becomes of a connection.
func (c *clients) state(conn net.Conn, s http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch s {
	case http.StateClosed:
		c.leaveLocked(conn)
	case http.StateHijacked:
		c.taken[conn] = true
	}
}

// leave ends what a connection asked for.
func (c *clients) leave(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaveLocked(conn)
}

func (c *clients) leaveLocked(conn net.Conn) {
	if cancel := c.conns[conn]; cancel != nil {
		cancel()
	}
	delete(c.conns, conn)
	delete(c.taken, conn)
}

// serving notes when a handler is done with a connection that it took over. Its
// answers bear no date: nobody reads it, and where a processor is emulated its
// first formatting is a good part of a millisecond.
func (c *clients) serving(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, ok := r.Context().Value(clientKey{}).(net.Conn); ok {
			defer func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				if c.taken[conn] {
					c.leaveLocked(conn)
				}
			}()
		}
		w.Header()["Date"] = nil
		h.ServeHTTP(w, r)
	})
}

// endOthers ends all connections but the one that ctx's request came by.
func (c *clients) endOthers(ctx context.Context) {
	own, _ := ctx.Value(clientKey{}).(net.Conn)
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn, cancel := range c.conns {
		if conn != own {
			cancel()
			_ = conn.Close()
		}
	}
}
