package guest

import (
	"context"
	"net"
	"sync"
)

// polite has an HTTP/1.1 server speak only when it was spoken to: what comes
// on a connection without a request, net/http would write to the log.
func polite(dial Dial) Dial {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		return &politeConn{Conn: conn, spoken: make(chan struct{})}, nil
	}
}

type politeConn struct {
	net.Conn
	once   sync.Once
	spoken chan struct{} // closed by the first Write, or Close
}

func (c *politeConn) Read(p []byte) (int, error) {
	<-c.spoken
	return c.Conn.Read(p)
}

func (c *politeConn) Write(p []byte) (int, error) {
	c.once.Do(func() { close(c.spoken) })
	return c.Conn.Write(p)
}

func (c *politeConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.spoken) })
	return err
}
