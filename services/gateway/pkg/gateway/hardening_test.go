package gateway_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	ae "github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
	"github.com/aetherium/aetherium/services/gateway/pkg/limit"
)

const consoleOrigin = "https://console.example"

func withConsole(c *gateway.Config, _ *gateway.Deps) { c.Origins = []string{consoleOrigin} }

// corsHeaders are those that give a page rights.
func corsHeaders(h http.Header) (out []string) {
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			out = append(out, name)
		}
	}
	return out
}

func TestCORS(t *testing.T) {
	t.Parallel()
	l := newLab(t, withConsole)
	ask := map[string]string{"Origin": consoleOrigin, "Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "authorization,idempotency-key"}
	resp, _ := l.want(204, req{method: "OPTIONS", path: "/vms/web", key: "none", header: ask})
	h := resp.Header
	if h.Get("Access-Control-Allow-Origin") != consoleOrigin || !strings.Contains(h.Get("Access-Control-Allow-Methods"), "DELETE") ||
		!strings.Contains(h.Get("Access-Control-Allow-Headers"), "Idempotency-Key") || !strings.Contains(strings.Join(h.Values("Vary"), ","), "Origin") {
		t.Errorf("%v", h)
	}
	resp, _ = l.want(200, req{method: "GET", path: "/vms", header: map[string]string{"Origin": consoleOrigin}})
	if resp.Header.Get("Access-Control-Allow-Origin") != consoleOrigin || !strings.Contains(resp.Header.Get("Access-Control-Expose-Headers"), "Retry-After") {
		t.Errorf("%v", resp.Header)
	}
	// Errors are told to the page as well; cookies never count.
	resp, _ = l.want(401, req{method: "GET", path: "/vms", key: "none", header: map[string]string{"Origin": consoleOrigin}})
	if resp.Header.Get("Access-Control-Allow-Origin") != consoleOrigin || resp.Header.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("%v", resp.Header)
	}
	for _, origin := range []string{
		"https://evil.example", "https://console.example.evil.example", "https://console.example:444", "http://console.example", "null", "*", "",
		consoleOrigin + "/", consoleOrigin + "," + consoleOrigin, "https://user@console.example",
	} {
		ask["Origin"] = origin
		resp, body := l.do(req{method: "OPTIONS", path: "/vms", key: "none", header: ask})
		if resp.StatusCode != http.StatusForbidden || len(corsHeaders(resp.Header)) != 0 {
			t.Errorf("preflight of %q: %d %v %s", origin, resp.StatusCode, resp.Header, body)
		}
		resp, _ = l.want(200, req{method: "GET", path: "/vms", header: map[string]string{"Origin": origin}})
		if len(corsHeaders(resp.Header)) != 0 || !strings.Contains(strings.Join(resp.Header.Values("Vary"), ","), "Origin") {
			t.Errorf("%q: %v", origin, resp.Header)
		}
	}
	// Without a list nobody is told anything, and a preflight is a method like any other.
	plain := newLab(t)
	ask["Origin"] = consoleOrigin
	resp, _ = plain.do(req{method: "OPTIONS", path: "/vms", header: ask})
	if resp.StatusCode != http.StatusMethodNotAllowed || len(corsHeaders(resp.Header)) != 0 {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	for _, bad := range []string{"*", "https://*", "https://*.example", "null", "console.example", "https://a/b", "https://a?b", "https://u@a", "ftp://a", ""} {
		if _, err := gateway.New(gateway.Config{Origins: []string{bad}}, plain.deps); !ae.HasCode(err, ae.InvalidArgument) {
			t.Errorf("the origin %q: %v", bad, err)
		}
	}
}

// A guest's own CORS does not count on the API's origin.
func TestGuestsGiveNoRightsOnTheAPI(t *testing.T) {
	t.Parallel()
	l := newLab(t, withConsole)
	g := newGuest(t, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		w.Header().Set("Content-Security-Policy", "default-src *")
		w.Header().Set("Cross-Origin-Resource-Policy", "cross-origin")
		w.Header().Set("X-Frame-Options", "ALLOWALL")
		w.Header().Set("Referrer-Policy", "unsafe-url")
	}))
	resp, _ := l.want(200, req{method: "GET", path: "/vms/" + g.id + "/ports/8080/", header: map[string]string{"Origin": "https://evil.example"}})
	if got := corsHeaders(resp.Header); len(got) != 0 {
		t.Errorf("%v", got)
	}
	for name, want := range map[string]string{
		"Content-Security-Policy": "sandbox", "Cross-Origin-Resource-Policy": "same-origin", "X-Frame-Options": "DENY",
		"Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
	} {
		if got := resp.Header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestSecurityHeaders(t *testing.T) {
	t.Parallel()
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	t.Cleanup(cert.Close)
	plain := newLab(t)
	safe := newLab(t, func(c *gateway.Config, _ *gateway.Deps) {
		c.TLS = &tls.Config{Certificates: cert.TLS.Certificates, MinVersion: tls.VersionTLS12}
	})
	overTLS := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // the certificate is the test's own
	t.Cleanup(overTLS.CloseIdleConnections)
	for _, path := range []string{"/health", "/docs", "/docs/page.js", "/", "/api/v1/vms", "/api/v1/openapi.json", "/nowhere", "/api/v1/nowhere", "/api/v1/vms/absent"} {
		resp, _ := plain.do(req{method: "GET", path: "http://" + plain.addr + path})
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+safe.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+safe.admin)
		secure, err := overTLS.Transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = secure.Body.Close()
		if resp.Header.Get("Strict-Transport-Security") != "" || !strings.HasPrefix(secure.Header.Get("Strict-Transport-Security"), "max-age=") {
			t.Errorf("%s: HSTS is over TLS and nowhere else: %q, %q", path, resp.Header.Get("Strict-Transport-Security"), secure.Header.Get("Strict-Transport-Security"))
		}
		for _, h := range []http.Header{resp.Header, secure.Header} {
			policy := h.Get("Content-Security-Policy")
			if !strings.HasPrefix(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") || strings.Contains(policy, "unsafe") {
				t.Errorf("%s: policy %q", path, policy)
			}
			for name, want := range map[string]string{
				"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin", "X-Frame-Options": "DENY",
			} {
				if got := h.Values(name); len(got) != 1 || got[0] != want {
					t.Errorf("%s: %s %q", path, name, got)
				}
			}
		}
	}
}

// What is malformed is refused, and nothing behind it is taken for a request.
func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	head := "Host: localhost\r\nAuthorization: Bearer " + l.admin + "\r\n"
	body := "Content-Type: application/json\r\n"
	// A request that must never be answered as one.
	hidden := "POST /api/v1/vms HTTP/1.1\r\n" + head + body + "Content-Length: 2\r\n\r\n{}"
	for name, tc := range map[string]struct {
		request string
		status  int
	}{
		"two lengths":             {"POST /api/v1/vms HTTP/1.1\r\n" + head + body + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}" + hidden, 400},
		"a list of lengths":       {"POST /api/v1/vms HTTP/1.1\r\n" + head + body + "Content-Length: 2, 3\r\n\r\n{}" + hidden, 400},
		"a negative length":       {"POST /api/v1/vms HTTP/1.1\r\n" + head + body + "Content-Length: -1\r\n\r\n" + hidden, 400},
		"a huge length":           {"POST /api/v1/vms HTTP/1.1\r\n" + head + body + "Content-Length: 99999999999999999999\r\n\r\n" + hidden, 400},
		"an unknown coding":       {"POST /api/v1/vms HTTP/1.1\r\n" + head + body + "Transfer-Encoding: gzip, chunked\r\n\r\n" + hidden, 501},
		"chunked with a tab":      {"POST /api/v1/vms HTTP/1.1\r\n" + head + body + "Transfer-Encoding:\x0bchunked\r\n\r\n" + hidden, 400},
		"a chunk size with sign":  {"POST /api/v1/vms HTTP/1.1\r\n" + head + body + "Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n" + hidden, 499},
		"a chunk size of bare LF": {"POST /api/v1/vms HTTP/1.1\r\n" + head + body + "Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n" + hidden, 499},
		"a chunk that is longer":  {"POST /api/v1/vms HTTP/1.1\r\n" + head + body + "Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n" + hidden, 499},
		"an endless chunk size":   {"POST /api/v1/vms HTTP/1.1\r\n" + head + body + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("0", 10000) + "2\r\n{}\r\n0\r\n\r\n" + hidden, 499},
		"chunk extensions":        {"POST /api/v1/vms HTTP/1.1\r\n" + head + body + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;"+strings.Repeat("x", 4000)+"\r\n \r\n", 40) + hidden, 499},
		"a NUL in a value":        {"GET /api/v1/vms HTTP/1.1\r\n" + head + "X-A: a\x00b\r\n\r\n" + hidden, 400},
		"a bare CR in a value":    {"GET /api/v1/vms HTTP/1.1\r\n" + head + "X-A: a\rTransfer-Encoding: chunked\r\n\r\n" + hidden, 400},
		"a folded first line":     {"GET /api/v1/vms HTTP/1.1\r\n Host: localhost\r\n" + head + "\r\n" + hidden, 400},
		"a name with a space":     {"GET /api/v1/vms HTTP/1.1\r\n" + head + "Content-Length : 2\r\n\r\n" + hidden, 400},
		"no colon":                {"GET /api/v1/vms HTTP/1.1\r\n" + head + "X-A\r\n\r\n" + hidden, 400},
		"a version that is none":  {"GET /api/v1/vms HTTP/9.9\r\n" + head + "\r\n" + hidden, 505},
		"no version":              {"GET /api/v1/vms\r\n" + head + "\r\n" + hidden, 400},
		"a space in the target":   {"GET /api/v1/vms x HTTP/1.1\r\n" + head + "\r\n" + hidden, 400},
		"a long URL":              {"GET /api/v1/vms?name=" + strings.Repeat("x", 20<<10) + " HTTP/1.1\r\n" + head + "Connection: close\r\n\r\n", 414},
		"a header without end":    {"GET /api/v1/vms HTTP/1.1\r\n" + head + "X-A: " + strings.Repeat("x", 100<<10) + "\r\n\r\n", 431},
		"a hundred thousand":      {"GET /api/v1/vms HTTP/1.1\r\n" + head + strings.Repeat("X-A: x\r\n", 100_000) + "\r\n", 431},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			resp, r := l.blast(t, tc.request)
			if resp == nil {
				return // cut off while it wrote
			}
			if resp.StatusCode != tc.status {
				t.Errorf("%s, want %d", resp.Status, tc.status)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			if second, err := http.ReadResponse(r, nil); err == nil {
				t.Errorf("what is behind it is answered: %s", second.Status)
			}
		})
	}
	t.Cleanup(func() {
		if n := l.core.Creates(); n != 0 {
			t.Errorf("%d hidden requests were carried out", n)
		}
	})
}

// blast writes bytes, however the server takes them, and reads the answer, if any.
func (l *lab) blast(t *testing.T, text string) (*http.Response, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	go func() { _, _ = io.WriteString(c, text) }() // the server may close before it has all
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		if isTimeout(err) {
			t.Fatal(err)
		}
		return nil, r
	}
	return resp, r
}

// Line folding and a length beside chunks are read in one way only: what
// follows is a request of its own, or nothing.
func TestAmbiguousRequestsHaveOneMeaning(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	head := "Host: localhost\r\nAuthorization: Bearer " + l.admin + "\r\nContent-Type: application/json\r\n"
	for name, request := range map[string]string{
		"length and chunks":   "POST /api/v1/vms HTTP/1.1\r\n" + head + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"a folded value":      "POST /api/v1/vms HTTP/1.1\r\n" + head + "X-A: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
		"lines of LF":         strings.ReplaceAll("POST /api/v1/vms HTTP/1.1\r\n"+head+"Content-Length: 2\r\n\r\n", "\r\n", "\n") + "{}",
		"a method of its own": "POST /api/v1/vms HTTP/1.1\r\n" + head + "X-HTTP-Method-Override: DELETE\r\nContent-Length: 2\r\n\r\n{}",
	} {
		before := l.core.Creates()
		resp, _ := l.blast(t, request)
		if resp == nil || resp.StatusCode != http.StatusCreated || l.core.Creates() != before+1 {
			t.Errorf("%s: %v, %d creations", name, resp, l.core.Creates()-before)
		}
	}
}

// A client that sends its header or its body without end, at whatever pace, or
// stops, is cut off; one that is merely slow is served.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	// Each limit is short where it is to end something, and nowhere else.
	headers := newLab(t, func(c *gateway.Config, _ *gateway.Deps) { c.HeaderTimeout = 200 * time.Millisecond })
	bodies := newLab(t, func(c *gateway.Config, _ *gateway.Deps) { c.BodyTimeout = 200 * time.Millisecond })
	head := func(l *lab, line string) string {
		return line + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + l.admin + "\r\n"
	}
	// drip writes pieces until the connection breaks, and reports how it ended.
	drip := func(t *testing.T, l *lab, first, piece string) *http.Response {
		t.Helper()
		c, err := net.Dial("tcp", l.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(c, first); err != nil {
			t.Fatal(err)
		}
		go func() {
			pace := time.NewTicker(20 * time.Millisecond)
			defer pace.Stop()
			for range pace.C {
				if _, err := io.WriteString(c, piece); err != nil {
					return
				}
			}
		}()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			if isTimeout(err) {
				t.Fatalf("it was not cut off: %v", err)
			}
			return nil
		}
		return resp
	}
	t.Run("header", func(t *testing.T) {
		t.Parallel()
		if resp := drip(t, headers, head(headers, "GET /api/v1/vms"), "X-A: a\r\n"); resp != nil && resp.StatusCode != http.StatusRequestTimeout {
			t.Errorf("%s", resp.Status)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		if resp := drip(t, headers, "", ""); resp != nil && resp.StatusCode != http.StatusRequestTimeout {
			t.Errorf("%s", resp.Status)
		}
	})
	t.Run("body", func(t *testing.T) {
		t.Parallel()
		resp := drip(t, bodies, head(bodies, "POST /api/v1/vms")+"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{", " ")
		if resp == nil || resp.StatusCode != http.StatusGatewayTimeout {
			t.Errorf("%v", resp)
		}
	})
	t.Run("chunks", func(t *testing.T) {
		t.Parallel()
		resp := drip(t, bodies, head(bodies, "POST /api/v1/vms")+"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", "1\r\n \r\n")
		if resp == nil || resp.StatusCode != http.StatusGatewayTimeout {
			t.Errorf("%v", resp)
		}
	})
	// A file may come as slowly as it likes, so long as it comes. A request for
	// its VM may not, so that is made without one.
	vm, err := bodies.core.CreateVM(t.Context(), vmm.Caller{ProjectID: bodies.project}, vmm.CreateVM{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // once the parallel tests have ended
		if n := bodies.core.Creates(); n != 1 {
			t.Errorf("half a request was carried out: there are %d VMs", n)
		}
	})
	slow, w := io.Pipe()
	go func() {
		pace := time.NewTicker(20 * time.Millisecond)
		defer pace.Stop()
		for range 25 {
			<-pace.C
			_, _ = w.Write([]byte("x"))
		}
		_ = w.Close()
	}()
	bodies.want(200, req{method: "PUT", path: "/vms/" + vm.ID.String() + "/files?path=/slow", body: io.Reader(slow)})
}

// A client that takes nothing of a long answer is cut off and holds nothing.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *gateway.Config, _ *gateway.Deps) { c.Stall = 200 * time.Millisecond })
	// Not by requests, whose bodies would stall on a host that is slow.
	by := vmm.Caller{ProjectID: l.project}
	vm, err := l.core.CreateVM(t.Context(), by, vmm.CreateVM{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.core.WriteFile(t.Context(), by, vm.ID, "/big", bytes.NewReader(bytes.Repeat([]byte("x"), 32<<20)), vmm.FileOptions{}); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.(*net.TCPConn).SetReadBuffer(4096)
	if _, err := fmt.Fprintf(c, "GET /api/v1/vms/%s/files?path=/big HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", vm.ID, l.admin); err != nil {
		t.Fatal(err)
	}
	if err := l.log.await(t.Context(), `"route":"/vms/{vm}/files","status":200`); err != nil {
		t.Fatal("the request never ended")
	}
	l.want(200, req{method: "GET", path: "/vms/" + vm.ID.String()})
}

// Bodies beyond their bounds are refused, as soon as they say so or get there.
func TestOversizedBodies(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *gateway.Config, _ *gateway.Deps) { c.MaxFileBytes, c.MaxUploadBytes = 1<<20, 1<<20 })
	vm := l.vm().ID
	x := l.start(vm, "cat")
	before := l.core.Creates()
	for _, q := range []req{
		{method: "POST", path: "/vms"},
		{method: "PUT", path: "/projects/" + l.project.String() + "/quota"},
		{method: "PUT", path: "/secrets/A"},
		{method: "PATCH", path: "/vms/" + vm},
		{method: "POST", path: "/keys"},
		{method: "PUT", path: "/vms/" + vm + "/files?path=/a"},
		{method: "PUT", path: "/vms/" + vm + "/files/tar?path=/a"},
		{method: "PUT", path: "/uploads"},
		{method: "POST", path: "/vms/" + vm + "/execute"},
		{method: "POST", path: "/executions/" + x.ID + "/stdin"},
	} {
		// It says how long it is: refused before any of it came.
		resp, _ := l.blast(t, fmt.Sprintf("%s /api/v1%s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n", q.method, q.path, l.admin))
		if resp == nil || resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s %s announced: %v", q.method, q.path, resp)
		}
		// It does not: refused when it gets there.
		if q.path == "/vms/"+vm+"/execute" || strings.HasSuffix(q.path, "/stdin") || strings.Contains(q.path, "/tar") {
			continue // bounds that take long to get to, and what is no tar
		}
		q.body = io.LimitReader(endless{}, 2<<20)
		r := l.request(q)
		r.Header.Set("Content-Type", "application/json")
		answer, err := l.client.Do(r)
		if err != nil {
			var broken *net.OpError
			if !errors.As(err, &broken) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s %s: %v", q.method, q.path, err)
			}
			continue // the server closed while the rest was written
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s %s: %s", q.method, q.path, answer.Status)
		}
	}
	// What needs no body leaves it where it is.
	for _, path := range []string{"/health", "/api/v1/vms", "/docs"} {
		resp, _ := l.blast(t, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "+l.admin+"\r\nContent-Length: 1000000000\r\n\r\n")
		if resp == nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %v", path, resp)
		}
	}
	if n := l.core.Creates() - before; n != 0 {
		t.Errorf("%d VMs were made", n)
	}
}

// endless is a body of spaces, which JSON may begin with.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// h2 opens a connection that speaks HTTP/2 in frames.
func (l *lab) h2(t *testing.T) (net.Conn, *http2.Framer) {
	t.Helper()
	c, err := net.Dial("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(c, c)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c, f
}

func (l *lab) h2Headers(method, path string, more ...[2]string) []byte {
	return h2Block(append([][2]string{{":method", method}, {":scheme", "http"}, {":authority", "localhost"}, {":path", path}, {"authorization", "Bearer " + l.admin}}, more...))
}

func h2Block(fields [][2]string) []byte {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range fields {
		_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1], Sensitive: true}) // not indexed: each block stands for itself
	}
	return block.Bytes()
}

// Streams that are opened and reset as fast as they can be neither pile up nor
// keep others from being answered; the rate limit counts them.
func TestRapidReset(t *testing.T) {
	t.Parallel()
	l := newLab(t, limited(limit.Config{Key: limit.Rate{PerSecond: never, Burst: 500}}))
	c, f := l.h2(t)
	var goAway atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			if _, is := frame.(*http2.GoAwayFrame); is {
				goAway.Store(true)
			}
		}
	}()
	block := l.h2Headers("GET", "/api/v1/vms")
	for id := uint32(1); id < 20_000; id += 2 {
		err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: true})
		if err == nil {
			err = f.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		if err != nil {
			break // cut off, which is an answer, too
		}
	}
	_ = c.Close()
	<-done
	l.want(200, req{method: "GET", path: "/vms", key: l.user})
	t.Logf("the server said goodbye: %t", goAway.Load())
}

// Frames that HTTP/2 floods are made of end the connection, or are taken
// without memory for each.
func TestHTTP2Floods(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for name, flood := range map[string]func(*http2.Framer) error{
		"pings": func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) },
		"settings": func(f *http2.Framer) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
		},
		"continuations": func(f *http2.Framer) error {
			return f.WriteContinuation(1, false, bytes.Repeat([]byte("\x00\x01x\x01y"), 1000))
		},
		"empty data": func(f *http2.Framer) error { return f.WriteData(1, false, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, f := l.h2(t)
			go func() {
				begin := http2.HeadersFrameParam{StreamID: 1, BlockFragment: l.h2Headers("POST", "/api/v1/vms"), EndHeaders: name != "continuations"}
				if f.WriteHeaders(begin) != nil {
					return
				}
				for range 20_000 {
					if flood(f) != nil {
						return
					}
				}
				_ = f.WriteRSTStream(3, http2.ErrCodeCancel) // of no stream: the server ends what is left
			}()
			for {
				if _, err := f.ReadFrame(); err != nil {
					if isTimeout(err) {
						t.Errorf("the connection stays: %v", err)
					}
					break
				}
			}
			l.want(200, req{method: "GET", path: "/vms"})
		})
	}
}

// Header fields that HTTP/2 forbids, because they mean something to HTTP/1
// behind it, are refused.
func TestHTTP2Smuggling(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for name, field := range map[string][2]string{
		"transfer-encoding":  {"transfer-encoding", "chunked"},
		"connection":         {"connection", "x"},
		"upper case":         {"X-Upper", "x"},
		"line end in value":  {"x-a", "a\r\nx-b: c"},
		"a late pseudo":      {":path", "/api/v1/other"},
		"a length that lies": {"content-length", "5"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, f := l.h2(t)
			var more bytes.Buffer
			_ = hpack.NewEncoder(&more).WriteField(hpack.HeaderField{Name: field[0], Value: field[1], Sensitive: true})
			block := append(l.h2Headers("POST", "/api/v1/vms"), more.Bytes()...)
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true}); err != nil {
				t.Fatal(err)
			}
			_ = f.WriteData(1, true, []byte("{}"))
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					if isTimeout(err) {
						t.Fatal(err)
					}
					return // the connection is over
				}
				switch fr := frame.(type) {
				case *http2.RSTStreamFrame, *http2.GoAwayFrame:
					return
				case *http2.HeadersFrame:
					fields, err := hpack.NewDecoder(4096, nil).DecodeFull(fr.HeaderBlockFragment())
					if err != nil {
						t.Fatal(err)
					}
					if status := fields[0].Value; status < "400" {
						t.Errorf("answered with %s", status)
					}
					return
				}
			}
		})
	}
	t.Cleanup(func() {
		if n := l.core.Creates(); n != 0 {
			t.Errorf("%d requests were carried out", n)
		}
	})
}

// Connections beyond those that may be open are closed at once; there is room
// again when others end.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *gateway.Config, _ *gateway.Deps) { c.MaxConns = 3 })
	get := "GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
	var held []net.Conn
	for range 3 {
		resp, _, c := l.raw(get)
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
		held = append(held, c)
	}
	if resp, _ := l.blast(t, get); resp != nil {
		t.Errorf("a fourth is answered: %s", resp.Status)
	}
	_ = held[0].Close()
	for { // until the server has noticed
		if resp, _ := l.blast(t, get); resp != nil {
			return
		}
		if t.Context().Err() != nil {
			t.Fatal("no room again")
		}
	}
}
