package netd

import (
	"net"
	"net/netip"
	"sync"
)

// limiter bounds how much is under way, in all and for each client.
type limiter struct {
	all, each int
	mu        sync.Mutex
	total     int
	by        map[netip.Addr]int
}

func newLimiter(all, each int) *limiter {
	return &limiter{all: all, each: each, by: map[netip.Addr]int{}}
}

// enter counts one more, unless a bound is reached. done is called once when it is over.
func (l *limiter) enter(client netip.Addr) (done func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.all || l.by[client] >= l.each {
		return nil, false
	}
	l.total++
	l.by[client]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.total--
		if l.by[client]--; l.by[client] == 0 {
			delete(l.by, client)
		}
	}, true
}

// limitListener closes at once the connections that are too many.
func limitListener(l net.Listener, by *limiter) net.Listener { return &boundedListener{l, by} }

type boundedListener struct {
	net.Listener
	by *limiter
}

func (b *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		client, _, _ := clientOf(c.RemoteAddr())
		done, ok := b.by.enter(client)
		if !ok {
			_ = c.Close()
			continue
		}
		return &countedConn{Conn: c, done: sync.OnceFunc(done)}, nil
	}
}

type countedConn struct {
	net.Conn
	done func()
}

func (c *countedConn) Close() error {
	defer c.done()
	return c.Conn.Close()
}
