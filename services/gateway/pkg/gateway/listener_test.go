package gateway

import (
	"net"
	"net/netip"
	"testing"
)

// Each address has its own share, but for those that stand for many.
func TestConnectionsOfAnAddress(t *testing.T) {
	t.Parallel()
	for name, exempt := range map[string]bool{"anybody": false, "a proxy": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inner, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			l := limitListener(inner, countConnections(2, 4, func(netip.Addr) bool { return exempt }))
			t.Cleanup(func() { _ = l.Close() })
			accepted := make(chan net.Conn)
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					accepted <- c
				}
			}()
			// dial reports whether the server keeps the connection, and its end of it.
			dial := func(from string) (net.Conn, bool) {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
				c, err := d.DialContext(t.Context(), "tcp", inner.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close() })
				closed := make(chan error, 1)
				go func() { _, err := c.Read(make([]byte, 1)); closed <- err }()
				select {
				case s := <-accepted:
					return s, true
				case <-closed:
					return nil, false
				}
			}
			first, _ := dial("127.0.0.1")
			if _, ok := dial("127.0.0.1"); !ok {
				t.Fatal("the second is refused")
			}
			if _, ok := dial("127.0.0.1"); ok != exempt {
				t.Errorf("a third: %t", ok)
			}
			if _, ok := dial("127.0.0.2"); !ok {
				t.Error("another address is refused")
			}
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			_ = first.Close() // twice counts once
			if _, ok := dial("127.0.0.1"); !ok {
				t.Error("no room after one has ended")
			}
		})
	}
}
