package lane

import (
	"bufio"
	"net"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// ReadAhead is a connection of which R has read some bytes already.
type ReadAhead struct {
	net.Conn
	R *bufio.Reader
}

// Read gives what was read before, and then what comes.
func (c *ReadAhead) Read(p []byte) (int, error) {
	if c.R.Buffered() > 0 {
		return c.R.Read(p)
	}
	return c.Conn.Read(p)
}

// CloseWrite passes the end of the stream on. Returns Unsupported where the
// channel cannot be closed one way.
func (c *ReadAhead) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.New(errors.Unsupported, "the channel to this machine cannot be closed one way")
}
