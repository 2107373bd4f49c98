package gateway

import (
	"net"
	"net/netip"
	"sync"
)

// connections counts those of an address, and all of them together.
type connections struct {
	each, all int
	exempt    func(netip.Addr) bool // from each: who stands for many

	mu    sync.Mutex
	open  int
	count map[netip.Prefix]int
}

func countConnections(each, all int, exempt func(netip.Addr) bool) *connections {
	return &connections{each: each, all: all, exempt: exempt, count: map[netip.Prefix]int{}}
}

// limitedListener closes connections that are more than there may be: each
// takes memory and a descriptor for as long as its client likes.
type limitedListener struct {
	net.Listener
	*connections
}

func limitListener(l net.Listener, c *connections) *limitedListener { return &limitedListener{l, c} }

// Accept waits for a connection that may be.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, is := c.(*net.TCPConn)
		if !is {
			return c, nil // it was listened on TCP
		}
		if counted, ok := l.enter(tcp); ok {
			return counted, nil
		}
		_ = c.Close()
	}
}

// peer is the network whose connections count together.
func peer(c net.Conn) (netip.Addr, netip.Prefix) {
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}, netip.Prefix{}
	}
	a := ap.Addr().Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return a, p
}

func (n *connections) enter(c *net.TCPConn) (net.Conn, bool) {
	addr, from := peer(c)
	exempt := n.exempt(addr)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open >= n.all || !exempt && n.count[from] >= n.each {
		return nil, false
	}
	n.open++
	if !exempt {
		n.count[from]++
	}
	return &countedConn{TCPConn: c, leave: sync.OnceFunc(func() { n.leave(from, exempt) })}, true
}

func (n *connections) leave(from netip.Prefix, exempt bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open--
	if exempt {
		return
	}
	if n.count[from]--; n.count[from] == 0 {
		delete(n.count, from)
	}
}

// countedConn keeps all that a TCP connection can: half of one is closed when
// an answer goes out before its request has come in whole.
type countedConn struct {
	*net.TCPConn
	leave func()
}

// Close closes the connection.
func (c *countedConn) Close() error {
	defer c.leave()
	return c.TCPConn.Close()
}
