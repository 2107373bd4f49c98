package network_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// socks is a SOCKS5 proxy in the lab's internet, for one user.
type socks struct {
	user, password string
	mu             sync.Mutex
	asked          []string
}

const socksPort = 1080

func (w *web) socks(at netip.Addr) *socks {
	w.t.Helper()
	s := &socks{user: "u", password: secretValue}
	w.in(w.inet, func(int) error {
		l, err := net.Listen("tcp4", netip.AddrPortFrom(at, socksPort).String())
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { defer func() { _ = c.Close() }(); s.serve(w, c) }()
			}
		}()
		return nil
	})
	return s
}

// serve speaks RFC 1928 and 1929, as far as it is needed.
func (s *socks) serve(w *web, c net.Conn) {
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(c, b); err != nil {
			return make([]byte, n)
		}
		return b
	}
	read(int(read(2)[1]))
	_, _ = c.Write([]byte{5, 2})
	user := string(read(int(read(2)[1])))
	password := string(read(int(read(1)[0])))
	if user != s.user || password != s.password {
		_, _ = c.Write([]byte{1, 1})
		return
	}
	_, _ = c.Write([]byte{1, 0})
	if head := read(4); head[1] != 1 || head[3] != 1 {
		return // no address: it would be a name
	}
	ip, _ := netip.AddrFromSlice(read(4))
	to := netip.AddrPortFrom(ip, binary.BigEndian.Uint16(read(2))).String()
	s.mu.Lock()
	s.asked = append(s.asked, to)
	s.mu.Unlock()
	var up net.Conn
	var err error
	w.in(w.inet, func(int) error { up, err = net.Dial("tcp4", to); return nil })
	if err != nil {
		return
	}
	defer func() { _ = up.Close() }()
	_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	go func() { _, _ = io.Copy(up, c); _ = up.(*net.TCPConn).CloseWrite() }()
	_, _ = io.Copy(c, up)
}

func (s *socks) took() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.asked
	s.asked = nil
	return out
}

// TCP connections go through a machine's own proxy once they are decided, and
// not at all without it.
func TestAMachinesOwnProxy(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	s := w.socks(secondIP)
	cfg := w.named(t)
	m := open(t, cfg)
	set := func(address, password string) {
		t.Helper()
		p, err := domain.EgressPolicy{Deny: []string{"denied.test", "203.0.113.99"}, Proxy: &domain.EgressProxy{Address: address, Username: "u", Password: password}}.Normal("egress")
		if err == nil {
			err = m.SetEgress(context.Background(), "a", domain.Egress{Policy: p.WithoutValues(), Proxy: p.Proxy})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	a := acquire(t, m, "a", domain.NetworkNAT)
	c := w.guest(a, w.pool)
	for _, address := range []string{secondIP.String() + ":1080", "second.proxy.test:1080"} {
		set(address, secretValue)
		for url, at := range map[string]string{"https://x.test/": publicIP.String() + ":443", "http://second.x.test/": secondIP.String() + ":80"} {
			c.CloseIdleConnections()
			if status, text, err := fetch(c, url); err != nil || status != 200 || !strings.HasPrefix(text, strings.Split(at, ":")[0]+" ") {
				t.Errorf("%s: %d %q %v", url, status, text, err)
			}
			if took := s.took(); len(took) != 1 || took[0] != at {
				t.Errorf("%s through %v", url, took)
			}
		}
		if _, err := w.dialFrom(a.NetNS, at(publicIP)); err != nil {
			t.Errorf("without a name: %v", err)
		}
		if took := s.took(); len(took) != 1 || took[0] != at(publicIP) {
			t.Errorf("without a name through %v", took)
		}
	}
	// What is denied or refused does not get as far as the proxy.
	for _, url := range []string{"https://denied.test/", "http://metadata.x.test/", "http://private.x.test/", "http://host.x.test/"} {
		c.CloseIdleConnections()
		if status, _, err := fetch(c, url); err == nil && status == 200 {
			t.Errorf("%s got through", url)
		}
	}
	if took := s.took(); len(took) > 0 {
		t.Errorf("the proxy was asked for %v", took)
	}
	// There is no way around a proxy that says no, is not there, or is where
	// nobody may go.
	w.socks(privateIPs[0])
	for address, password := range map[string]string{
		secondIP.String() + ":1080": "wrong", publicIP.String() + ":1080": secretValue, privateIPs[0].String() + ":1080": secretValue,
		metadataIP.String() + ":80": secretValue, hostIP.String() + ":8080": secretValue, "private.x.test:1080": secretValue, "loopback.x.test:9040": secretValue,
	} {
		set(address, password)
		c.CloseIdleConnections()
		if status, text, err := fetch(c, "http://x.test/"); err == nil && status == 200 {
			t.Errorf("through %s: %d %q", address, status, text)
		}
	}
	noSecretsOnDisk(t, cfg.RuntimeDir)
}
