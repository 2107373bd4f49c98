package gateway

import (
	"net"
	"net/netip"
	"sync"
)

// limitedListener closes connections of an address, or all of them together,
// that are more than there may be: each takes memory and a descriptor for as
// long as its client likes.
type limitedListener struct {
	net.Listener
	each, all int
	exempt    func(netip.Addr) bool // from each: who stands for many

	mu    sync.Mutex
	open  int
	count map[netip.Prefix]int
}

func limitListener(l net.Listener, each, all int, exempt func(netip.Addr) bool) *limitedListener {
	return &limitedListener{Listener: l, each: each, all: all, exempt: exempt, count: map[netip.Prefix]int{}}
}

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

func (l *limitedListener) enter(c *net.TCPConn) (net.Conn, bool) {
	addr, from := peer(c)
	exempt := l.exempt(addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.all || !exempt && l.count[from] >= l.each {
		return nil, false
	}
	l.open++
	if !exempt {
		l.count[from]++
	}
	return &countedConn{TCPConn: c, leave: sync.OnceFunc(func() { l.leave(from, exempt) })}, true
}

func (l *limitedListener) leave(from netip.Prefix, exempt bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if exempt {
		return
	}
	if l.count[from]--; l.count[from] == 0 {
		delete(l.count, from)
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
