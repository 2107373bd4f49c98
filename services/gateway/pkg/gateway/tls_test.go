package gateway_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
	"github.com/aetherium/aetherium/services/gateway/pkg/servercert"
)

// newTLSLab is a lab that serves TLS beside plain HTTP, with a certificate of an
// authority of its own, and what trusts that.
func newTLSLab(t *testing.T, change ...func(*gateway.Config, *gateway.Deps)) (*lab, *tls.Config) {
	t.Helper()
	authority, _, err := servercert.Open(t.TempDir(), gateway.DefaultPreviewDomain, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, append(change, func(c *gateway.Config, _ *gateway.Deps) {
		c.TLS = &tls.Config{GetCertificate: authority.GetCertificate, MinVersion: tls.VersionTLS12}
		if c.TLSAddress == "" {
			c.TLSAddress = "127.0.0.1:0"
		}
	})...)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.PEM())
	return l, &tls.Config{RootCAs: roots}
}

// over is a client that speaks one version of HTTP over TLS; every name leads it to the server.
func over(t *testing.T, l *lab, trust *tls.Config, version int) *http.Client {
	t.Helper()
	var p http.Protocols
	p.SetHTTP1(version == 1)
	p.SetHTTP2(version == 2)
	dialer := &net.Dialer{}
	transport := &http.Transport{
		TLSClientConfig: trust.Clone(), Protocols: &p,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", l.server.TLSAddr().String())
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// ask makes a request of a visitor of the guest's preview.
func (g *guest) ask(method, path string, body io.Reader) *http.Request {
	g.t.Helper()
	_, port, _ := net.SplitHostPort(g.server.TLSAddr().String())
	name, _, _ := strings.Cut(g.host, ":")
	r, err := http.NewRequestWithContext(g.t.Context(), method, "https://"+net.JoinHostPort(name, port)+path, body)
	if err != nil {
		g.t.Fatal(err)
	}
	r.Header.Set(wire.HeaderPreviewToken, g.token)
	return r
}

// What a visitor does with a preview by plain HTTP works by both versions over TLS.
func TestPreviewsOverTLS(t *testing.T) {
	t.Parallel()
	l, trust := newTLSLab(t)
	const size = 16 << 20
	step, left := make(chan struct{}), make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/", echo)
	mux.HandleFunc("GET /large", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.CopyN(w, &pattern{}, size) })
	mux.HandleFunc("PUT /large", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		_, _ = fmt.Fprintf(w, "%d %x %v", n, sum.Sum(nil), err)
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			<-step
		}
		<-r.Context().Done()
		left <- struct{}{}
	})
	g := newGuest(t, l, mux)
	want := sha256.New()
	_, _ = io.CopyN(want, &pattern{}, size)
	for _, version := range []int{1, 2} {
		client := over(t, l, trust, version)
		do := func(r *http.Request) (*http.Response, io.Reader) {
			t.Helper()
			resp, err := client.Do(r)
			if err != nil {
				t.Fatalf("HTTP/%d: %v", version, err)
			}
			t.Cleanup(func() { _ = resp.Body.Close() })
			if resp.ProtoMajor != version || resp.StatusCode != http.StatusOK {
				t.Fatalf("HTTP/%d: %s, %d", version, resp.Proto, resp.StatusCode)
			}
			return resp, resp.Body
		}
		resp, body := do(g.ask("POST", "/a%2Fb?x=1", strings.NewReader("data")))
		got, _ := io.ReadAll(body)
		if !strings.Contains(string(got), "POST /a%2Fb?x=1\n") || !strings.Contains(string(got), "X-Forwarded-Proto: https\r") || resp.Header.Get("Strict-Transport-Security") != "" {
			t.Errorf("HTTP/%d: the guest got %s", version, got)
		}
		_, body = do(g.ask("PUT", "/large", io.LimitReader(&pattern{}, size)))
		if got, _ := io.ReadAll(body); string(got) != fmt.Sprintf("%d %x <nil>", size, want.Sum(nil)) {
			t.Errorf("HTTP/%d: the guest got %s", version, got)
		}
		_, body = do(g.ask("GET", "/large", nil))
		sum := sha256.New()
		if n, err := io.Copy(sum, body); n != size || err != nil || string(sum.Sum(nil)) != string(want.Sum(nil)) {
			t.Errorf("HTTP/%d: %d bytes came, %v", version, n, err)
		}
		// Each event comes when it happens, and the guest learns that its visitor left.
		ctx, leave := context.WithCancel(t.Context())
		_, body = do(g.ask("GET", "/events", nil).WithContext(ctx))
		events := bufio.NewReader(body)
		for i := range 3 {
			if line, err := events.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("HTTP/%d: event %d: %q, %v", version, i, line, err)
			}
			_, _ = events.ReadString('\n')
			step <- struct{}{}
		}
		leave()
		<-left
	}
}

// A client that would speak HTTP/2 gets its WebSocket by HTTP/1.1.
func TestWebSocketOverTLS(t *testing.T) {
	t.Parallel()
	l, trust := newTLSLab(t)
	g := newGuest(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		c.SetReadLimit(-1)
		for {
			kind, p, err := c.Read(context.Background())
			if err != nil || c.Write(context.Background(), kind, p) != nil {
				return
			}
		}
	}))
	both := over(t, l, trust, 2)
	both.Transport.(*http.Transport).Protocols.SetHTTP1(true)
	if resp, err := both.Do(g.ask("GET", "/", nil)); err != nil || resp.ProtoMajor != 2 {
		t.Fatalf("%v", err)
	} else {
		_ = resp.Body.Close()
	}
	r := g.ask("GET", "/", nil)
	c, _, err := websocket.Dial(t.Context(), r.URL.String(), &websocket.DialOptions{HTTPClient: over(t, l, trust, 1), HTTPHeader: r.Header})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(-1)
	for _, text := range []string{"hi", strings.Repeat("long ", 1<<18)} {
		if err := c.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, p, err := c.Read(t.Context()); err != nil || string(p) != text {
			t.Fatalf("%d bytes, %v", len(p), err)
		}
	}
	_ = c.Close(websocket.StatusNormalClosure, "")
}

func TestTLSBesidePlain(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	l, trust := newTLSLab(t, func(c *gateway.Config, _ *gateway.Deps) {
		c.TLSAddress, c.TLSElsewhere = taken.Addr().String(), true
	})
	if l.server.TLSAddr().String() == taken.Addr().String() || l.server.URL() != "http://"+l.addr {
		t.Errorf("TLS at %s, plain at %s", l.server.TLSAddr(), l.server.URL())
	}
	for name, client := range map[string]*http.Client{"http": l.client, "https": over(t, l, trust, 1)} {
		resp, err := client.Get(name + "://localhost/health")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		// Under the same names something is served without TLS.
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Strict-Transport-Security") != "" {
			t.Errorf("%s: %d %v", name, resp.StatusCode, resp.Header)
		}
	}
	if e := get[wire.Endpoints](l, http.StatusOK, req{method: "GET", path: "/endpoints", key: l.ring.mint(l.project, "reader", "read")}); e != (wire.Endpoints{
		URL: "http://" + l.addr, TLSURL: "https://" + l.server.TLSAddr().String(), PreviewDomain: "aeth.localhost",
	}) {
		t.Errorf("%+v", e)
	}
	// SNI may be missing, as it is for addresses; old versions are refused.
	conn, err := tls.Dial("tcp", l.server.TLSAddr().String(), &tls.Config{RootCAs: trust.RootCAs, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != "h2" {
		t.Errorf("ALPN %q", got)
	}
	_ = conn.Close()
	if conn, err := tls.Dial("tcp", l.server.TLSAddr().String(), &tls.Config{RootCAs: trust.RootCAs, MaxVersion: tls.VersionTLS11}); err == nil { //nolint:gosec // that is the point
		_ = conn.Close()
		t.Error("TLS 1.1 is served")
	}
	// An address that was asked for is not given up for another.
	g, err := gateway.New(gateway.Config{Address: "127.0.0.1:0", TLSAddress: taken.Addr().String(), TLS: &tls.Config{MinVersion: tls.VersionTLS12}}, l.deps)
	if err != nil {
		t.Fatal(err)
	}
	other := gateway.NewServer(g)
	if err := other.Start(t.Context()); err == nil {
		t.Error("it has started elsewhere")
	}
	if other.Addr() != nil || other.TLSAddr() != nil {
		t.Errorf("it listens at %v and %v", other.Addr(), other.TLSAddr())
	}
	if err := other.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// All connections count together, whichever way they come.
func TestConnectionsAreCountedTogether(t *testing.T) {
	t.Parallel()
	l, trust := newTLSLab(t, func(c *gateway.Config, _ *gateway.Deps) { c.MaxConns = 2 })
	for range 2 {
		c, err := tls.Dial("tcp", l.server.TLSAddr().String(), trust.Clone())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	c, err := net.Dial("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a third connection is kept")
	}
}
