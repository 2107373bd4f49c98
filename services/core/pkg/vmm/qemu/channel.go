package qemu

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/mux"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"golang.org/x/sys/unix"
)

// channel is what this process holds of the stream to a guest's agent.
type channel struct {
	dir   string
	mux   *mux.Mux
	once  sync.Once
	ended chan struct{} // closed when nobody serves the socket any more
}

// Dial connects to the guest's agent, by way of the one stream that this process
// has to it. Returns Conflict when the guest has ended, Unavailable after Close.
func (e *Engine) Dial(ctx context.Context, g microvm.Guest) (net.Conn, error) {
	c, err := e.channel(g)
	if err != nil {
		return nil, err
	}
	dial, cancel := context.WithCancel(ctx)
	defer cancel()
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-c.ended:
			cancel()
		case <-over:
		}
	}()
	conn, err := c.mux.Dial(dial)
	if err != nil && ctx.Err() == nil && dial.Err() != nil {
		e.drop(g, c)
		return nil, errors.New(errors.Conflict, "the machine has ended")
	}
	return conn, err
}

// channel gives the one to a guest, opening it if need be.
func (e *Engine) channel(g microvm.Guest) (*channel, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errors.New(errors.Unavailable, "the driver is closed")
	}
	if c := e.channels[g.ID]; c != nil && c.dir == g.Dir {
		return c, nil
	} else if c != nil {
		go c.close()
	}
	c := &channel{dir: g.Dir, ended: make(chan struct{})}
	c.mux = mux.New(mux.Host, c.open, mux.Options{Log: e.log})
	e.channels[g.ID] = c
	return c, nil
}

// open connects to the monitor's end of the agent's port.
func (c *channel) open(ctx context.Context) (io.ReadWriteCloser, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(c.dir, agentSocket))
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
		c.once.Do(func() { close(c.ended) })
	}
	return conn, err
}

func (c *channel) close() { _ = c.mux.Close() }

// drop forgets a channel that leads nowhere.
func (e *Engine) drop(g microvm.Guest, c *channel) {
	e.mu.Lock()
	current := e.channels[g.ID] == c
	if current {
		delete(e.channels, g.ID)
	}
	e.mu.Unlock()
	if current {
		c.close()
	}
}

// forget lets go of a guest's channel.
func (e *Engine) forget(g microvm.Guest) {
	e.mu.Lock()
	c := e.channels[g.ID]
	e.mu.Unlock()
	if c != nil {
		e.drop(g, c)
	}
}
