package gateway_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Code is run for who knows a sandbox's token, by whichever way; what else a
// code interpreter serves is as public as the sandbox's ports.
func TestE2BCode(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	srv := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(srv.Close)
	_, port, _ := net.SplitHostPort(l.addr)
	s := l.sandbox(`{"templateID":"base"}`)
	for _, at := range []uint16{49999, 8080} {
		l.core.Expose(domain.ID(s.SandboxID), at, srv.Listener.Addr().String())
	}
	named := fmt.Sprintf("http://49999-%s.aeth.localhost:%s", s.SandboxID, port)
	other := fmt.Sprintf("http://8080-%s.aeth.localhost:%s", s.SandboxID, port)
	byHeader := map[string]string{"E2b-Sandbox-Id": s.SandboxID, "E2b-Sandbox-Port": "49999"}
	for _, tc := range []struct {
		method, url, token string
		header             map[string]string
		want               int
	}{
		{"POST", named + "/execute", "", nil, 401},
		{"POST", named + "/execute", "wrong", nil, 401},
		{"POST", named + "/execute", s.EnvdAccessToken, nil, 200},
		{"POST", "http://" + l.addr + "/execute", "", byHeader, 401},
		{"POST", "http://" + l.addr + "/execute", s.EnvdAccessToken, byHeader, 200},
		{"GET", named + "/execute", "", nil, 401},
		{"POST", named + "/contexts", "", nil, 200},
		{"OPTIONS", named + "/execute", "", nil, 200},
		{"POST", other + "/execute", "", nil, 200},
	} {
		header := map[string]string{}
		for k, v := range tc.header {
			header[k] = v
		}
		if tc.token != "" {
			header["X-Access-Token"] = tc.token
		}
		if resp, body := l.do(req{method: tc.method, path: tc.url, key: "none", header: header}); resp.StatusCode != tc.want {
			t.Errorf("%s %s with %q: %d, want %d: %s", tc.method, tc.url, tc.token, resp.StatusCode, tc.want, body)
		}
	}
}
