package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

// guest is a VM with a server in it.
type guest struct {
	*lab
	id    string
	token string
	host  string // of its preview on port 8080
}

// newGuest makes a VM whose port 8080 is served by a handler.
func newGuest(t *testing.T, l *lab, h http.Handler) *guest {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	vm := l.vm()
	l.core.Expose(domain.ID(vm.ID), 8080, srv.Listener.Addr().String())
	_, port, _ := net.SplitHostPort(l.addr)
	return &guest{l, vm.ID, l.core.Token(domain.ID(vm.ID)), fmt.Sprintf("8080-%s.aeth.localhost:%s", vm.ID, port)}
}

// visit is a request to the preview with the VM's token.
func (g *guest) visit(q req) (*http.Response, []byte) {
	g.t.Helper()
	q.path = "http://" + g.host + q.path
	q.key = "none"
	h := map[string]string{wire.HeaderPreviewToken: g.token}
	for k, v := range q.header {
		h[k] = v
	}
	q.header = h
	return g.do(q)
}

// echo answers with the request as it arrived.
func echo(w http.ResponseWriter, r *http.Request) {
	_, _ = fmt.Fprintf(w, "%s %s\nHost: %s\n", r.Method, r.URL.RequestURI(), r.Host)
	_ = r.Header.Write(w)
}

// nearAndFar runs a test with VMs of this host, and with those of others.
func nearAndFar(t *testing.T, test func(t *testing.T, l *lab)) {
	t.Helper()
	for name, far := range map[string]bool{"near": false, "far": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.core.Elsewhere = far
			test(t, l)
		})
	}
}

func TestPreviewPassesRequestsOn(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newGuest(t, l, http.HandlerFunc(echo))
	resp, body := g.visit(req{method: "POST", path: "/a%2Fb//c/../d?x=1&y=%20z", body: "data", header: map[string]string{
		"Authorization": "Basic dXNlcjpwYXNz", "Cookie": "mine=1; aeth_preview=forged; other=2", "E2b-Traffic-Access-Token": g.token,
		"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil", "Forwarded": "for=6.6.6.6", "X-Api-Key": l.admin, "Connection": "X-Aetherium-Token, X-Drop", "X-Drop": "1",
	}})
	got := string(body)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, got)
	}
	for _, want := range []string{
		"POST /a%2Fb//c/../d?x=1&y=%20z\n", "Host: " + g.host + "\n", "Authorization: Basic dXNlcjpwYXNz", "Cookie: mine=1; other=2\r",
		"X-Forwarded-For: 127.0.0.1\r", "X-Forwarded-Host: " + g.host, "X-Forwarded-Proto: http\r",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the guest did not get %q in\n%s", want, got)
		}
	}
	for _, never := range []string{g.token, l.admin, "6.6.6.6", "evil", "forged", "X-Drop", "X-Api-Key"} {
		if strings.Contains(got, never) {
			t.Errorf("the guest got %q in\n%s", never, got)
		}
	}
	if resp.Header.Get("Content-Security-Policy") != "" {
		t.Errorf("a preview's policy is its own: %v", resp.Header)
	}
}

// Behind a trusted proxy that ends TLS, what clients are told and what guests hear is of
// how the clients asked. From anybody else the headers change nothing.
func TestSchemeBehindAProxy(t *testing.T) {
	t.Parallel()
	for scheme, trusted := range map[string]string{"https": "127.0.0.1/32", "http": "192.0.2.0/24"} {
		l := newLab(t, func(c *gateway.Config, _ *gateway.Deps) {
			c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix(trusted)}
		})
		g := newGuest(t, l, http.HandlerFunc(echo))
		as := func(q req) req {
			if q.header == nil {
				q.header = map[string]string{}
			}
			q.header["X-Forwarded-Proto"], q.header["X-Forwarded-For"] = "HTTPS, http", "203.0.113.7"
			return q
		}
		link := get[wire.Link](l, 201, as(req{method: "POST", path: "/vms/" + g.id + "/ports/8080/links"}))
		if !strings.HasPrefix(link.URL, scheme+"://") {
			t.Errorf("%s: the link is %s", scheme, link.URL)
		}
		resp, _ := l.do(as(req{method: "GET", path: strings.Replace(link.URL, "https:", "http:", 1), key: "none"}))
		if cookies := resp.Cookies(); len(cookies) != 1 || cookies[0].Secure != (scheme == "https") {
			t.Errorf("%s: %d, cookies %v", scheme, resp.StatusCode, cookies)
		}
		client := "127.0.0.1"
		if scheme == "https" {
			client = "203.0.113.7, 127.0.0.1"
		}
		_, body := g.visit(as(req{method: "GET", path: "/"}))
		for _, want := range []string{"X-Forwarded-Proto: " + scheme + "\r", "X-Forwarded-For: " + client + "\r"} {
			if !strings.Contains(string(body), want) {
				t.Errorf("%s: the guest did not get %q in\n%s", scheme, want, body)
			}
		}
		files := get[filesAnswer](l, 201, as(req{method: "GET", path: l.e2b("/templates/mine/files/abc123"), key: l.user}))
		if !strings.HasPrefix(files.URL, scheme+"://") {
			t.Errorf("%s: files are sent to %s", scheme, files.URL)
		}
	}
}

// A connection serves the next request also when nobody wanted the body of one before.
func TestConnectionsOutliveUnwantedBodies(t *testing.T) {
	t.Parallel()
	nearAndFar(t, func(t *testing.T, l *lab) {
		g := newGuest(t, l, http.HandlerFunc(echo))
		conn, err := net.Dial("tcp", l.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		in := bufio.NewReader(conn)
		for i := range 20 {
			closed := strings.Replace(g.host, "8080-", "8081-", 1)
			if _, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\n%s: %s\r\nContent-Length: 2\r\n\r\n{}", closed, wire.HeaderPreviewToken, g.token); err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusBadGateway || resp.Close {
				t.Fatalf("request %d: %d, %v, it is the last: %t", i, resp.StatusCode, err, resp.Close)
			}
		}
	})
}

func TestPreviewKeepsCredentialsOfOurs(t *testing.T) {
	t.Parallel()
	nearAndFar(t, func(t *testing.T, l *lab) {
		g := newGuest(t, l, http.HandlerFunc(echo))
		_, body := g.visit(req{method: "GET", path: "/", header: map[string]string{"Authorization": "Bearer " + l.admin, "Sec-WebSocket-Protocol": "chat, bearer." + l.admin + ", aetherium.v1"}})
		if strings.Contains(string(body), l.admin) || !strings.Contains(string(body), "Sec-Websocket-Protocol: chat\r") {
			t.Fatalf("the guest got\n%s", body)
		}
	})
}

func TestPreviewAccess(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newGuest(t, l, http.HandlerFunc(echo))
	other := newGuest(t, l, http.HandlerFunc(echo))
	url := "http://" + g.host + "/"
	if p := l.problem(401, errors.Unauthenticated, req{method: "GET", path: url, key: "none"}); !strings.Contains(p.Hint, "aetherium port "+g.id+" 8080") || !strings.Contains(p.Hint, "--token") {
		t.Errorf("the hint is %q", p.Hint)
	}
	l.problem(401, errors.Unauthenticated, req{method: "GET", path: url, key: l.admin}) // keys are for the API
	l.problem(403, errors.PermissionDenied, req{method: "GET", path: url, key: "none", header: map[string]string{wire.HeaderPreviewToken: other.token}})
	l.problem(403, errors.PermissionDenied, req{method: "GET", path: url, key: "none", header: map[string]string{wire.HeaderE2BToken: g.token + "x"}})
	l.want(200, req{method: "GET", path: url, key: "none", header: map[string]string{wire.HeaderE2BToken: g.token}})

	port := get[wire.Port](l, 200, req{method: "GET", path: "/vms/" + g.id + "/ports/8080"})
	if port.URL != url || port.Token != g.token {
		t.Fatalf("port %+v, want %s", port, url)
	}
	l.problem(404, errors.NotFound, req{method: "GET", path: "/vms/" + g.id + "/ports/8080", key: l.other})
}

func TestOneTimeLink(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newGuest(t, l, http.HandlerFunc(echo))
	second := newGuest(t, l, http.HandlerFunc(echo))
	link := get[wire.Link](l, 201, req{method: "POST", path: "/vms/" + g.id + "/ports/8080/links", body: `{"ttl_ms":60000}`})
	if until := time.Until(link.ExpiresAt); until > time.Minute || until < 50*time.Second {
		t.Fatalf("link %+v", link)
	}
	u, _ := url.Parse(link.URL)
	// HEAD, as link scanners send it, uses nothing up.
	l.do(req{method: "HEAD", path: link.URL, key: "none"})
	resp, _ := l.want(303, req{method: "GET", path: "http://" + u.Host + "//evil.example/x?a=1&" + u.RawQuery + "&b=%2F", key: "none"})
	if to := resp.Header.Get("Location"); to != "/evil.example/x?a=1&b=%2F" {
		t.Fatalf("sent on to %q", to)
	}
	cookies := resp.Cookies()
	if len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteLaxMode || cookies[0].Domain != "" || cookies[0].Path != "/" || strings.Contains(cookies[0].Value, g.token) {
		t.Fatalf("cookies %+v", cookies)
	}
	cookie := cookies[0].Name + "=" + cookies[0].Value
	l.problem(401, errors.Unauthenticated, req{method: "GET", path: link.URL, key: "none"}) // used
	_, body := l.want(200, req{method: "GET", path: "http://" + g.host + "/", key: "none", header: map[string]string{"Cookie": "aeth_preview=planted; " + cookie + "; mine=1"}})
	if strings.Contains(string(body), "aeth_preview") || !strings.Contains(string(body), "Cookie: mine=1") {
		t.Fatalf("the guest got\n%s", body)
	}
	// It is for this VM and this port.
	l.problem(401, errors.Unauthenticated, req{method: "GET", path: "http://" + second.host + "/", key: "none", header: map[string]string{"Cookie": cookie}})
	l.problem(401, errors.Unauthenticated, req{method: "GET", path: "http://" + strings.Replace(g.host, "8080-", "8081-", 1) + "/", key: "none", header: map[string]string{"Cookie": cookie}})
	forged := strings.Replace(cookie, "=1", "=9", 1)
	l.problem(401, errors.Unauthenticated, req{method: "GET", path: "http://" + g.host + "/", key: "none", header: map[string]string{"Cookie": forged}})
	// A link for one preview opens no other, and is gone then.
	link = get[wire.Link](l, 201, req{method: "POST", path: "/vms/" + g.id + "/ports/8080/links"})
	l.problem(401, errors.Unauthenticated, req{method: "GET", path: strings.Replace(link.URL, g.id, second.id, 1), key: "none"})
	l.problem(404, errors.NotFound, req{method: "POST", path: "/vms/" + g.id + "/ports/8080/links", key: l.other})

	// With the cookie alone, only the preview's own pages may act.
	for _, tc := range []struct {
		name   string
		method string
		header map[string]string
		status int
	}{
		{"typed or linked", "GET", map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200},
		{"own page", "POST", map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": "http://" + g.host}, 200},
		{"sibling's fetch", "GET", map[string]string{"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 403},
		{"sibling's form", "POST", map[string]string{"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Origin": "http://" + second.host}, 403},
		{"sibling's frame", "GET", map[string]string{"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403},
		{"old browser's form", "POST", map[string]string{"Origin": "http://" + second.host}, 403},
		{"sandboxed form", "POST", map[string]string{"Origin": "null"}, 403},
	} {
		tc.header["Cookie"] = cookie
		if resp, body := l.do(req{method: tc.method, path: "http://" + g.host + "/", key: "none", header: tc.header}); resp.StatusCode != tc.status {
			t.Errorf("%s: %d %s", tc.name, resp.StatusCode, body)
		}
	}
}

func TestPreviewAnswersAreConfined(t *testing.T) {
	t.Parallel()
	nearAndFar(t, func(t *testing.T, l *lab) {
		g := newGuest(t, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h.Add("Set-Cookie", "a=1; Domain=aeth.localhost; Path=/; HttpOnly")
			h.Add("Set-Cookie", "b=2;domain=.aeth.localhost")
			h.Add("Set-Cookie", "aeth_preview=stolen; Path=/")
			h.Set("Clear-Site-Data", `"cookies"`)
			h.Set("Alt-Svc", `h3="evil:443"`)
			h.Set("Strict-Transport-Security", "max-age=9; includeSubDomains")
			h.Set("X-Request-Id", "forged")
			h.Set("Content-Security-Policy", "default-src 'self'")
			h.Set("Access-Control-Allow-Origin", "*")
			h.Set("Service-Worker-Allowed", "/")
			w.WriteHeader(http.StatusTeapot)
		}))
		resp, _ := g.visit(req{method: "GET", path: "/"})
		h := resp.Header
		if got := strings.Join(h.Values("Set-Cookie"), "|"); got != "a=1; Path=/; HttpOnly|b=2" {
			t.Errorf("cookies %q", got)
		}
		for _, name := range []string{"Clear-Site-Data", "Alt-Svc", "Strict-Transport-Security"} {
			if h.Get(name) != "" {
				t.Errorf("%s passed", name)
			}
		}
		if h.Get("X-Request-Id") == "forged" || len(h.Values("X-Request-Id")) != 1 || resp.StatusCode != http.StatusTeapot || h.Get("Content-Security-Policy") != "default-src 'self'" {
			t.Errorf("%d %v", resp.StatusCode, h)
		}

		// The path form shares the API's origin: there is less to pass.
		resp, _ = l.want(418, req{method: "GET", path: "/vms/" + g.id + "/ports/8080/x"})
		h = resp.Header
		for _, name := range []string{"Set-Cookie", "Clear-Site-Data", "Alt-Svc", "Strict-Transport-Security", "Access-Control-Allow-Origin", "Service-Worker-Allowed"} {
			if h.Get(name) != "" {
				t.Errorf("path form: %s passed", name)
			}
		}
		if strings.Join(h.Values("Content-Security-Policy"), "|") != "sandbox" || strings.Join(h.Values("X-Content-Type-Options"), "|") != "nosniff" {
			t.Errorf("path form: %v", h)
		}
	})
}

func TestPathForm(t *testing.T) {
	t.Parallel()
	nearAndFar(t, func(t *testing.T, l *lab) {
		g := newGuest(t, l, http.HandlerFunc(echo))
		path := "/vms/" + g.id + "/ports/8080"
		for _, method := range []string{"GET", "POST", "DELETE", "PATCH"} {
			_, body := l.want(200, req{method: method, path: path + "/a%2Fb/../c?x=%20", header: map[string]string{"Cookie": "session=1", "Origin": "http://" + l.addr, "X-Custom": "yes"}})
			got := string(body)
			for _, want := range []string{method + " /a%2Fb/../c?x=%20\n", "Host: localhost:8080\n", "X-Custom: yes", "X-Forwarded-Prefix: " + wire.BasePath + path + "\r"} {
				if !strings.Contains(got, want) {
					t.Errorf("%s: the guest did not get %q in\n%s", method, want, got)
				}
			}
			for _, never := range []string{l.admin, "session=1", "Authorization", "Origin:"} {
				if strings.Contains(got, never) {
					t.Errorf("%s: the guest got %q in\n%s", method, never, got)
				}
			}
		}
		l.problem(401, errors.Unauthenticated, req{method: "GET", path: path + "/", key: "none"})
		l.problem(401, errors.Unauthenticated, req{method: "GET", path: path + "/", key: "none", header: map[string]string{wire.HeaderPreviewToken: g.token}})
		l.problem(404, errors.NotFound, req{method: "GET", path: path + "/", key: l.other})
		_, body := l.want(200, req{method: "GET", path: path + "/", header: map[string]string{"Authorization": "Basic x:y"}, key: l.admin})
		if strings.Contains(string(body), "Basic") {
			t.Errorf("a credential passed:\n%s", body)
		}
	})
}
