package network_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/proxy"
)

// web is servers on every address of the lab's internet: HTTP on port 80, HTTPS
// on 443, both telling what they were asked, and one that speaks first on 2222.
type web struct {
	*lab
	roots []byte // PEM, of who signs for every name
	pool  *x509.CertPool

	mu   sync.Mutex
	seen []http.Header
}

const speaksFirst = 2222

func newWeb(t testing.TB) *web {
	t.Helper()
	w := &web{lab: newLab(t)}
	ca, err := egress.NewCA("the internet", time.Now())
	w.must(err)
	w.roots, w.pool = ca.Certificate, x509.NewCertPool()
	w.pool.AppendCertsFromPEM(ca.Certificate)
	minter, err := proxy.NewMinter(*ca)
	w.must(err)
	w.in(w.inet, func(int) error {
		for _, ip := range append([]netip.Addr{publicIP, secondIP, metadataIP}, privateIPs...) {
			tell := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.tell(rw, r, ip) })
			quiet := log.New(io.Discard, "", 0)
			plain, err := net.Listen("tcp4", netip.AddrPortFrom(ip, 80).String())
			if err != nil {
				return err
			}
			secure, err := tls.Listen("tcp4", netip.AddrPortFrom(ip, 443).String(), &tls.Config{
				NextProtos:     []string{"h2", "http/1.1"},
				GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return minter.Leaf(h.ServerName) },
			})
			if err != nil {
				return err
			}
			first, err := net.Listen("tcp4", netip.AddrPortFrom(ip, speaksFirst).String())
			if err != nil {
				return err
			}
			for _, l := range []net.Listener{plain, secure} {
				s := &http.Server{Handler: tell, ErrorLog: quiet, ReadHeaderTimeout: 10 * time.Second}
				go func() { _ = s.Serve(l) }()
				t.Cleanup(func() { _ = s.Close() })
			}
			go greet(first)
			t.Cleanup(func() { _ = first.Close() })
		}
		return nil
	})
	return w
}

func greet(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.WriteString(c, "hello\n")
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}()
	}
}

// tell answers with where the request arrived, for whom it was and what it carried.
func (w *web) tell(rw http.ResponseWriter, r *http.Request, at netip.Addr) {
	w.mu.Lock()
	w.seen = append(w.seen, r.Header.Clone())
	w.mu.Unlock()
	name := ""
	if r.TLS != nil {
		name = r.TLS.ServerName
	}
	_, _ = fmt.Fprintf(rw, "%s %s sni=%s auth=%s\n", at, r.Host, name, r.Header.Get("Authorization"))
}

// guest is a client inside a machine, whose names are resolved as a guest's are.
func (w *web) guest(a network.Attachment, roots *x509.CertPool) *http.Client {
	dial := func(_ context.Context, _, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if _, perr := netip.ParseAddr(host); perr != nil {
			ip, err := w.lookup(a, host)
			if err != nil {
				return nil, err
			}
			host = ip.String()
		}
		var c net.Conn
		w.in(a.NetNS, func(int) error {
			c, err = net.DialTimeout("tcp4", net.JoinHostPort(host, port), 10*time.Second)
			return nil
		})
		return c, err
	}
	tr := &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func (w *web) lookup(a network.Attachment, name string) (netip.Addr, error) {
	answer, err := w.ask(a.NetNS, a.DNS[0], "udp", name+".", 1)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, rr := range answer.Answer {
		fields := strings.Fields(rr.String())
		if ip, err := netip.ParseAddr(fields[len(fields)-1]); err == nil {
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s: %w", name, errNoAddress)
}

var errNoAddress = fmt.Errorf("no address")

// fetch gives an answer's text, or why there is none.
func fetch(c *http.Client, url string, header ...string) (int, string, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// named is a configuration for machines with names in their policies.
func (w *web) named(t testing.TB) network.Config {
	cfg := config(t, "one")
	cfg.EgressRoots = w.roots
	ca, err := egress.NewCA("one", time.Now())
	w.must(err)
	cfg.EgressCA = ca
	return cfg
}

var onlyAllowed = domain.EgressPolicy{Allow: []string{"allowed.test", "*.below.test"}, Deny: []string{"*"}}

func TestNamesDecide(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	m := open(t, w.named(t))
	setEgress(t, m, "a", onlyAllowed)
	a := acquire(t, m, "a", domain.NetworkNAT)
	c := w.guest(a, w.pool)
	for url, want := range map[string]string{
		"http://allowed.test/":         "203.0.113.10 allowed.test sni= auth=\n",
		"https://allowed.test/":        "203.0.113.10 allowed.test sni=allowed.test auth=\n", // untouched: its own certificate
		"https://second.below.test/":   "203.0.113.11 second.below.test sni=second.below.test auth=\n",
		"http://second.below.test:80/": "203.0.113.11 second.below.test:80 sni= auth=\n",
	} {
		if status, text, err := fetch(c, url); err != nil || status != 200 || text != want {
			t.Errorf("%s: %d %q %v", url, status, text, err)
		}
	}
	// Refused names have no address; that they are asked for does not get out.
	if _, _, err := fetch(c, "https://refused.test/"); err == nil || !strings.Contains(err.Error(), "no address") {
		t.Errorf("a refused name: %v", err)
	}
	// By its address a name is refused by what the connection tells.
	for _, url := range []string{"http://203.0.113.10/", "https://203.0.113.10/", "http://203.0.113.11/"} {
		if status, _, err := fetch(c, url, "Host", "refused.test"); err == nil && status != 403 {
			t.Errorf("%s for refused.test: %d", url, status)
		}
	}
	// The address that the machine chose is ignored.
	if status, text, err := fetch(c, "http://203.0.113.11/", "Host", "allowed.test"); err != nil || status != 200 || !strings.HasPrefix(text, "203.0.113.10 ") {
		t.Errorf("an allowed name at another's address: %d %q %v", status, text, err)
	}
	w.lab.mu.Lock()
	for _, q := range w.asked {
		if strings.HasPrefix(q, "refused.test.") {
			t.Error("a question for a refused name got out:", q)
		}
	}
	w.lab.mu.Unlock()
}

// Whatever is allowed, a name is no way to what the operator refuses.
func TestNamesThatLeadInward(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	m := open(t, w.named(t))
	setEgress(t, m, "a", domain.EgressPolicy{Allow: []string{"*.rebound.test", "*"}})
	setEgress(t, m, "b", domain.EgressPolicy{Deny: []string{"other.test"}})
	for _, machine := range []string{"a", "b"} {
		a := acquire(t, m, machine, domain.NetworkNAT)
		c := w.guest(a, w.pool)
		for _, name := range []string{"private", "metadata", "host", "loopback"} {
			if ip, err := w.lookup(a, name+".rebound.test"); err == nil {
				t.Errorf("%s: the answer for %s names %s", machine, name, ip)
			}
			if status, text, err := fetch(c, "http://203.0.113.10/", "Host", name+".rebound.test"); err != nil || status != 403 {
				t.Errorf("%s: HTTP to %s: %d %q %v", machine, name, status, text, err)
			}
			if err := w.hello(a, publicIP, 443, name+".rebound.test"); err == nil {
				t.Errorf("%s: TLS to %s", machine, name)
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.seen) > 0 {
		t.Errorf("%d requests arrived", len(w.seen))
	}
}

// hello makes a TLS connection to an address for a name.
func (w *web) hello(a network.Attachment, to netip.Addr, port uint16, name string) error {
	var err error
	w.in(a.NetNS, func(int) error {
		var c net.Conn
		if c, err = net.DialTimeout("tcp4", netip.AddrPortFrom(to, port).String(), 10*time.Second); err != nil {
			return nil
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		err = tls.Client(c, &tls.Config{RootCAs: w.pool, ServerName: name}).Handshake()
		return nil
	})
	return err
}

func TestProtocolsThatTellNoName(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	m := open(t, w.named(t))
	setEgress(t, m, "a", domain.EgressPolicy{Allow: []string{"allowed.test", publicIP.String()}, Deny: []string{"*"}})
	a := acquire(t, m, "a", domain.NetworkNAT)
	// The server speaks first, at an address that is allowed as one.
	said := func(to netip.Addr) (line string, err error) {
		w.in(a.NetNS, func(int) error {
			var c net.Conn
			if c, err = net.DialTimeout("tcp4", netip.AddrPortFrom(to, speaksFirst).String(), 10*time.Second); err != nil {
				return nil
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			r := bufio.NewReader(c)
			if line, err = r.ReadString('\n'); err != nil {
				return nil
			}
			if _, err = io.WriteString(c, "echo\n"); err == nil {
				var back string
				back, err = r.ReadString('\n')
				line += back
			}
			return nil
		})
		return line, err
	}
	if line, err := said(publicIP); err != nil || line != "hello\necho\n" {
		t.Errorf("%q %v", line, err)
	}
	if line, err := said(secondIP); err == nil {
		t.Errorf("an address that is not allowed said %q", line)
	}
	// An address in the place of a name is none.
	if err := w.hello(a, secondIP, 443, "203.0.113.10"); err == nil {
		t.Error("TLS without a name reached an address that is not allowed")
	}
	// Datagrams are decided by their address.
	if err := w.datagram(a.NetNS, publicIP, "allowed", true); err != nil {
		t.Error("a datagram to an allowed address:", err)
	}
	refused(t, "a datagram to another", w.datagram(a.NetNS, secondIP, "forbidden", true))
}
