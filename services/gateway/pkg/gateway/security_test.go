package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

func TestHostsAreKeptApart(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *gateway.Config, _ *gateway.Deps) { c.Hosts = []string{"api.example.com"} })
	guests := 0
	g := newGuest(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		guests++
		_, _ = fmt.Fprint(w, "the guest")
	}))
	preview, _, _ := net.SplitHostPort(g.host)
	for _, tc := range []struct {
		host   string
		status int
		what   string // "api", or a problem's code
	}{
		{"localhost", 200, "api"},
		{"LOCALHOST.:1234", 200, "api"},
		{"127.0.0.1", 200, "api"},
		{"[::1]:7300", 200, "api"},
		{"192.0.2.7:80", 200, "api"}, // whoever says so has reached us by it
		{"api.example.com", 200, "api"},
		{"evil.example", 403, "permission_denied"},
		{"api.example.com.evil.example", 403, "permission_denied"},
		{"localhost.evil.example", 403, "permission_denied"},
		{"127.0.0.1.evil.example", 403, "permission_denied"},
		{"aeth.localhost", 403, "permission_denied"},
		{"api.aeth.localhost", 404, "not_found"},
		{"x." + preview, 404, "not_found"},
		{"08080-" + g.id + ".aeth.localhost", 404, "not_found"},
		{"+8080-" + g.id + ".aeth.localhost", 404, "not_found"},
		{"99999-" + g.id + ".aeth.localhost", 404, "not_found"},
		{"8080-" + g.id + "x.aeth.localhost", 404, "not_found"},
		{preview, 401, "unauthenticated"}, // the guest's, even for the API's path and key
		{strings.ToUpper(preview) + ".", 401, "unauthenticated"},
		{"user@" + preview, 403, "permission_denied"},
	} {
		resp, body := l.do(req{method: "GET", path: "/drivers", host: tc.host})
		switch {
		case resp.StatusCode != tc.status:
			t.Errorf("%s: %d, want %d: %s", tc.host, resp.StatusCode, tc.status, body)
		case tc.what == "api" && !strings.Contains(string(body), `"items"`):
			t.Errorf("%s: %s", tc.host, body)
		case tc.what != "api" && !strings.Contains(string(body), tc.what):
			t.Errorf("%s: %s, want %s", tc.host, body, tc.what)
		}
	}
	// With the preview's token, the API's path leads to the guest, not to the API.
	if _, body := g.visit(req{method: "GET", path: wire.BasePath + "/drivers"}); string(body) != "the guest" || guests != 1 {
		t.Errorf("%s", body)
	}
	if _, body := g.visit(req{method: "GET", path: "/health"}); string(body) != "the guest" {
		t.Errorf("%s", body)
	}
}

// raw sends bytes and returns the first answer and what is left of the connection.
func (l *lab) raw(text string) (*http.Response, *bufio.Reader, net.Conn) {
	l.t.Helper()
	c, err := net.Dial("tcp", l.addr)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		l.t.Fatal(err)
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		l.t.Fatalf("%q: %v", text, err)
	}
	return resp, r, c
}

func TestRequestSmuggling(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var seen []string
	g := newGuest(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen = append(seen, fmt.Sprintf("%s %s %q %d %v", r.Method, r.URL.Path, body, r.ContentLength, r.TransferEncoding))
	}))
	head := "Host: " + g.host + "\r\n" + wire.HeaderPreviewToken + ": " + g.token + "\r\n"
	for _, tc := range []struct {
		name, request string
		status        int
	}{
		{"two lengths", "POST / HTTP/1.1\r\n" + head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400},
		{"bad length", "POST / HTTP/1.1\r\n" + head + "Content-Length: +5\r\n\r\nhello", 400},
		{"odd coding", "POST / HTTP/1.1\r\n" + head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501},
		{"two codings", "POST / HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 501},
		{"two hosts", "GET / HTTP/1.1\r\n" + head + "Host: localhost\r\n\r\n", 400},
		{"no host", "GET / HTTP/1.1\r\n\r\n", 400},
		{"space before the colon", "GET / HTTP/1.1\r\n" + head + "X-A : 1\r\n\r\n", 400},
		{"line feed in a path", "GET /\n HTTP/1.1\r\n" + head + "\r\n", 400},
		{"another host in the target", "GET http://evil.example/api/v1/vms HTTP/1.1\r\nHost: localhost\r\n\r\n", 403},
		{"a preview in the target", "GET http://" + g.host + "/api/v1/drivers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + l.admin + "\r\n\r\n", 401},
		{"CONNECT", "CONNECT " + g.host + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 401},
	} {
		if resp, _, _ := l.raw(tc.request); resp.StatusCode != tc.status {
			t.Errorf("%s: %s, want %d", tc.name, resp.Status, tc.status)
		}
	}
	if len(seen) != 0 {
		t.Fatalf("the guest saw %q", seen)
	}
	// Length and chunks together: one of them counts, and the guest sees one
	// request, framed anew; what is smuggled after it is a request of its own,
	// refused for want of a token.
	resp, r, _ := l.raw("POST /one HTTP/1.1\r\n" + head + "Content-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /two HTTP/1.1\r\nHost: " + g.host + "\r\n\r\n")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s", resp.Status)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	if second, err := http.ReadResponse(r, nil); err == nil && second.StatusCode == http.StatusOK {
		t.Fatal("the smuggled request was answered")
	}
	if len(seen) != 1 || !strings.HasPrefix(seen[0], `POST /one ""`) {
		t.Fatalf("the guest saw %q", seen)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, path := range []string{"/vms", "/openapi.json", "/openapi.yaml", "/metrics", "/status", "/events", "/tasks", "/templates", "/drivers", "/workers", "/snapshots", "/uploads"} {
		resp, _ := l.do(req{method: "GET", path: path, key: "none"})
		if path != "/uploads" && (resp.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer")) {
			t.Errorf("%s without a key: %d", path, resp.StatusCode)
		}
	}
	for name, header := range map[string]map[string]string{
		"unknown key":     {"X-Api-Key": "aeth_" + strings.Repeat("0", 40)},
		"not a key":       {"X-Api-Key": "x"},
		"basic":           {"Authorization": "Basic " + l.admin},
		"key in a cookie": {"Cookie": "key=" + l.admin},
		"empty bearer":    {"Authorization": "Bearer "},
		"upper case":      {"X-Api-Key": strings.ToUpper(l.admin)},
	} {
		if resp, body := l.do(req{method: "GET", path: "/vms", key: "none", header: header}); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
	}
	l.problem(401, errors.Unauthenticated, req{method: "GET", path: "/vms?key=" + l.admin, key: "none"})
	l.problem(400, errors.InvalidArgument, req{method: "GET", path: "/vms", key: l.user, header: map[string]string{"Authorization": "Bearer " + l.admin}})
	l.problem(403, errors.PermissionDenied, req{method: "GET", path: "/status", key: l.user})
	l.problem(403, errors.PermissionDenied, req{method: "GET", path: "/workers", key: l.user})
	l.problem(403, errors.PermissionDenied, req{method: "GET", path: "/metrics", key: l.user})
	status := get[wire.Status](l, 200, req{method: "GET", path: "/status"})
	if status.PID != 42 || status.PreviewDomain != "aeth.localhost" || status.Version != "1.2.3-test" {
		t.Errorf("status %+v", status)
	}
	for _, path := range []string{"/health", "/ready"} {
		if h := get[wire.Health](l, 200, req{method: "GET", path: path, key: "none"}); h.Status != "ok" {
			t.Errorf("%s: %+v", path, h)
		}
		l.want(200, req{method: "GET", path: "http://" + l.addr + path, key: "none"})
	}
	if _, body := l.want(200, req{method: "GET", path: "/metrics"}); !strings.Contains(string(body), `aetherium_http_requests_total{method="GET",route="/status",status="200"} 1`) {
		t.Error("the metrics do not count by route")
	}
}

func TestProjectsDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := get[wire.VM](l, 201, req{method: "POST", path: "/vms", body: wire.CreateVM{Name: "mine"}})
	x := l.start(vm.ID, "wait")
	for _, q := range []req{
		{method: "GET", path: "/vms/" + vm.ID}, {method: "GET", path: "/vms/mine"}, {method: "DELETE", path: "/vms/" + vm.ID},
		{method: "POST", path: "/vms/" + vm.ID + "/execute", body: `{"args":["true"]}`}, {method: "GET", path: "/executions/" + x.ID},
		{method: "POST", path: "/executions/" + x.ID + "/signal", body: `{"signal":"9"}`}, {method: "POST", path: "/executions/" + x.ID + "/stdin", body: []byte("x")},
		{method: "GET", path: "/vms/" + vm.ID + "/files?path=/etc"}, {method: "GET", path: "/vms/" + vm.ID + "/ports/22/"},
	} {
		q.key = l.other
		l.problem(404, errors.NotFound, q)
	}
	if list := get[wire.EventList](l, 200, req{method: "GET", path: "/events", key: l.other}); len(list.Items) != 0 {
		t.Errorf("events %+v", list)
	}
	if again := get[wire.VM](l, 201, req{method: "POST", path: "/vms", key: l.other, body: wire.CreateVM{Name: "mine"}}); again.ID == vm.ID {
		t.Error("one name in two projects is one VM")
	}
}

func TestStall(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *gateway.Config, _ *gateway.Deps) { c.Stall = 100 * time.Millisecond })
	vm := l.vm().ID
	auth := "Host: localhost\r\nAuthorization: Bearer " + l.admin + "\r\n"
	resp, _, _ := l.raw("PUT /api/v1/vms/" + vm + "/files?path=/a HTTP/1.1\r\n" + auth + "Content-Length: 100\r\n\r\nhalf")
	if resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("a stalled upload: %s", resp.Status)
	}
	if resp, _, _ = l.raw("POST /api/v1/vms HTTP/1.1\r\n" + auth + "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"); resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("a stalled request: %s", resp.Status)
	}
	l.problem(404, errors.NotFound, req{method: "GET", path: "/vms/" + vm + "/files?path=/a"})
	// A request that merely takes long is not one that stalls.
	l.core.Hold()
	done := make(chan wire.Accepted, 1)
	go func() { done <- get[wire.Accepted](l, 202, req{method: "POST", path: "/vms?wait_ms=400", body: "{}"}) }()
	if a := <-done; a.Task.ID == "" {
		t.Errorf("accepted %+v", a)
	}
	l.core.Release()
}

func TestServer(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	if err := l.server.Start(t.Context()); err != nil {
		t.Fatalf("second start: %v", err)
	}
	if !strings.HasPrefix(l.server.URL(), "http://127.0.0.1:") {
		t.Fatalf("url %s", l.server.URL())
	}
	// HTTP/2 in clear text.
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	h2 := &http.Client{Transport: &http.Transport{Protocols: &p}}
	resp, err := h2.Do(l.request(req{method: "GET", path: "/vms"}))
	if err != nil || resp.ProtoMajor != 2 || resp.StatusCode != http.StatusOK {
		t.Fatalf("h2c: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	h2.CloseIdleConnections()
	// An address that is taken.
	g, err := gateway.New(gateway.Config{Address: l.addr}, l.deps)
	if err != nil {
		t.Fatal(err)
	}
	if err := gateway.NewServer(g).Start(t.Context()); !errors.HasCode(err, errors.Unavailable) {
		t.Fatalf("start on a taken address: %v", err)
	}
	// Without a host it is loopback.
	g, err = gateway.New(gateway.Config{Address: ":0"}, l.deps)
	if err != nil {
		t.Fatal(err)
	}
	s := gateway.NewServer(g)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if host, _, _ := net.SplitHostPort(s.Addr().String()); host != "127.0.0.1" {
		t.Fatalf("listens on %s", s.Addr())
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if s.Err() != nil || !errors.HasCode(s.Start(t.Context()), errors.Conflict) {
		t.Fatalf("after stop: %v", s.Err())
	}
	if _, err := gateway.New(gateway.Config{Address: "nonsense"}, l.deps); !errors.HasCode(err, errors.InvalidArgument) {
		t.Fatalf("a bad address: %v", err)
	}
	if _, err := gateway.New(gateway.Config{}, gateway.Deps{}); err == nil {
		t.Fatal("a gateway over nothing was made")
	}
}

// Before it stops a server answers as ever, and tells who sends requests here.
func TestLeaving(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.want(200, req{method: "GET", path: "/ready"})
	l.server.Leave(0)
	if p := l.problem(503, errors.Unavailable, req{method: "GET", path: "/ready"}); p.Detail != "the server is stopping" {
		t.Errorf("%+v", p)
	}
	l.want(200, req{method: "GET", path: "/health"})
	l.vm()
}

func TestStopEndsWhatOutlastsTheGrace(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *gateway.Config, _ *gateway.Deps) { c.StopGrace = 50 * time.Millisecond })
	l.core.Hold()
	answered := make(chan wire.Problem, 1)
	go func() {
		answered <- l.problem(http.StatusServiceUnavailable, errors.Unavailable, req{method: "POST", path: "/vms", body: `{"name":"late"}`})
	}()
	if err := l.core.AwaitCreates(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := l.server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := <-answered; p.Detail != "the server is stopping" {
		t.Fatalf("%+v", p)
	}
}
