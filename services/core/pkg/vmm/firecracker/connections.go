package firecracker

import (
	"net"
	"sync"
	"syscall"

	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// connections are the host's ends of those to guests' agents, by the directories of
// the guests' runs. A guest that is saved resets its own ends and says nothing
// (VIRTIO_VSOCK_EVENT_TRANSPORT_RESET): who only listens would do so for ever.
type connections struct {
	mu    sync.Mutex
	of    map[string][]net.Conn
	limit map[string]int // how many there are when those that were closed are next looked for
}

// leastLimit is how many connections are kept without looking which are closed.
const leastLimit = 64

// add notes a connection.
func (c *connections) add(g microvm.Guest, conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of, c.limit = map[string][]net.Conn{}, map[string]int{}
	}
	all := c.of[g.Dir]
	if len(all) >= max(leastLimit, c.limit[g.Dir]) {
		var open []net.Conn
		for _, conn := range all {
			if !closed(conn) {
				open = append(open, conn)
			}
		}
		all = open
		c.limit[g.Dir] = 2 * len(all)
	}
	c.of[g.Dir] = append(all, conn)
}

// end closes a guest's connections.
func (c *connections) end(g microvm.Guest) {
	for _, conn := range c.drop(g) {
		_ = conn.Close()
	}
}

// drop lets a guest's connections be: what its agent said last is still read from them.
func (c *connections) drop(g microvm.Guest) []net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.of[g.Dir]
	delete(c.of, g.Dir)
	delete(c.limit, g.Dir)
	return all
}

// closed reports whether this end was closed.
func closed(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	return err != nil || raw.Control(func(uintptr) {}) != nil
}
