package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/proxy"
)

// guest is a machine on loopback.
type guest struct {
	rules atomic.Pointer[egress.Rules]
	notes chan domain.EgressEntry
}

func (g *guest) Rules() *egress.Rules { return g.rules.Load() }

func (g *guest) Note(e domain.EgressEntry) {
	select {
	case g.notes <- e:
	default:
	}
}

func (g *guest) may(t *testing.T, p domain.EgressPolicy) {
	t.Helper()
	normal, err := p.Normal("egress")
	if err != nil {
		t.Fatal(err)
	}
	g.rules.Store(egress.New(normal, nil))
}

var (
	loopback = netip.MustParseAddr("127.0.0.1")
	chosen   = netip.MustParseAddr("127.0.0.2") // where clients want to go; nobody listens there
)

// rig is a proxy whose clients all want to reach one server on loopback, and
// whose names all lead there.
type rig struct {
	*guest
	t       *testing.T
	proxy   *proxy.Proxy
	at      string
	resolve func(name string) // is called before a name is resolved
}

func newRig(t *testing.T, server *httptest.Server, change ...func(*proxy.Config)) *rig {
	t.Helper()
	r := &rig{guest: &guest{notes: make(chan domain.EgressEntry, 1024)}, t: t, resolve: func(string) {}}
	to := netip.MustParseAddrPort(server.Listener.Addr().String())
	cfg := proxy.Config{
		Machine: func(a netip.Addr) (proxy.Machine, bool) { return r.guest, a == loopback },
		Resolve: func(_ context.Context, _ *egress.Rules, name string) ([]netip.Addr, error) {
			r.resolve(name)
			return []netip.Addr{to.Addr()}, nil
		},
		Refused:  func(netip.Addr) bool { return false },
		Original: func(*net.TCPConn) (netip.AddrPort, error) { return netip.AddrPortFrom(chosen, to.Port()), nil },
	}
	for _, c := range change {
		c(&cfg)
	}
	r.proxy = proxy.New(cfg)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.at = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- r.proxy.Serve(l.(*net.TCPListener)) }()
	t.Cleanup(func() {
		_ = l.Close()
		_ = r.proxy.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) dial() net.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp4", r.at)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

// request sends one over a connection and gives the answer's status.
func (r *rig) request(c net.Conn, br *bufio.Reader, host string, header ...string) (int, string) {
	r.t.Helper()
	_, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n%s\r\n", host, strings.Join(append(header, ""), "\r\n"))
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		r.t.Fatalf("%s: %v", host, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func only(names ...string) domain.EgressPolicy {
	return domain.EgressPolicy{Allow: names, Deny: []string{"*"}}
}

// Rules that change between a decision and the connection that follows from it
// are in force for that connection.
func TestRulesThatChangeWhileAConnectionIsMade(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			var arrived atomic.Int64
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			if scheme == "https" {
				server.StartTLS()
			} else {
				server.Start()
			}
			defer server.Close()
			r := newRig(t, server)
			r.may(t, only("a.test"))
			r.resolve = func(string) { // the name was allowed, and nothing is connected yet
				r.may(t, only("other.test"))
				r.proxy.Recheck(loopback)
			}
			c := r.dial()
			if scheme == "http" {
				if status, text := r.request(c, bufio.NewReader(c), "a.test"); status != http.StatusForbidden {
					t.Errorf("%d %q", status, text)
				}
			} else if err := tls.Client(c, &tls.Config{InsecureSkipVerify: true, ServerName: "a.test"}).Handshake(); !errors.Is(err, unix.ECONNRESET) { //nolint:gosec // it must not come that far
				t.Errorf("%v", err)
			}
			if arrived.Load() > 0 {
				t.Error("a request arrived")
			}
		})
	}
}

// A connection that waits to be used again is no way around rules that have
// changed, whatever was asked for since; what they still allow goes on.
func TestKeptConnectionsAreJudgedAnew(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) }))
	defer server.Close()
	r := newRig(t, server)
	r.may(t, only("a.test", "b.test"))
	c := r.dial()
	br := bufio.NewReader(c)
	for _, host := range []string{"a.test", "b.test", "a.test", "b.test"} {
		if status, text := r.request(c, br, host); status != 200 || text != host {
			t.Fatalf("%s: %d %q", host, status, text)
		}
	}
	for _, host := range []string{"a.test", "b.test", "a.test", "b.test"} {
		e := <-r.notes
		if e.Verdict != domain.EgressAllow || e.Name != host {
			t.Errorf("%+v for a request to %s", e, host)
		}
	}
	// Nothing names a.test any more, and the address it leads to is refused.
	r.may(t, domain.EgressPolicy{Allow: []string{"b.test"}, Deny: []string{"127.0.0.1"}})
	r.proxy.Recheck(loopback)
	if status, text := r.request(c, br, "b.test"); status != 200 {
		t.Errorf("what is allowed was cut: %d %q", status, text)
	}
	if status, text := r.request(c, br, "a.test"); status != http.StatusForbidden {
		t.Errorf("a kept connection was used: %d %q", status, text)
	}
}

// A server may answer before it has all that it is sent, and be sent more for it.
func TestAnswersBeforeTheRequestEnds(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if err := errors.Join(control.EnableFullDuplex(), control.Flush()); err != nil {
			t.Error(err)
		}
		_, _ = io.Copy(w, r.Body)
	}))
	t.Cleanup(server.Close)
	r := newRig(t, server)
	r.may(t, only("a.test"))
	c := r.dial()
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.WriteString(c, "5\r\nafter\r\n0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "after" {
		t.Errorf("%q, %v", got, err)
	}
}

// An upgrade to a protocol in which every request names its host is not asked for.
func TestRequestsStayInSight(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Header.Get("Upgrade"), r.Header.Get("Http2-Settings"))
	}))
	defer server.Close()
	r := newRig(t, server)
	r.may(t, only("a.test"))
	c := r.dial()
	status, text := r.request(c, bufio.NewReader(c), "a.test", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
	if status != 200 || text != "" {
		t.Errorf("%d %q", status, text)
	}
}

// A Host that is neither a name nor an address gets nowhere, though nothing refuses it.
func TestHostsThatAreNone(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%q arrived", r.Host) }))
	defer server.Close()
	r := newRig(t, server)
	r.may(t, domain.EgressPolicy{Deny: []string{"refused.test", chosen.String()}})
	for _, host := range []string{"refused.test..", "refused.test:80:80", "a..test", "refused.test%00"} {
		c := r.dial()
		if status, text := r.request(c, bufio.NewReader(c), host); status != http.StatusBadRequest {
			t.Errorf("%s: %d %q", host, status, text)
		}
	}
}

// Who begins and does not go on is sent away, at whatever point that is.
func TestSlowClientsAreSentAway(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request arrived") }))
	defer server.Close()
	r := newRig(t, server)
	r.may(t, only("a.test"))
	var all sync.WaitGroup
	for _, said := range []string{"", "GE", "GET / HT", "GET / HTTP/1.1\r\nHost: a.te", "\x16", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"} {
		c := r.dial()
		all.Go(func() {
			if _, err := io.WriteString(c, said); err != nil {
				t.Error(err)
			}
			_, err := io.Copy(io.Discard, c)
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				t.Errorf("%q is waited for still", said)
			}
		})
	}
	all.Wait()
}
