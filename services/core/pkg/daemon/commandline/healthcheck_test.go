package commandline_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/daemon/commandline"
)

// The exit code tells whether the server can work; it is found where it listens.
func TestHealthcheck(t *testing.T) {
	well := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ready" {
			http.NotFound(w, r)
			return
		}
		if !well {
			http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	at := server.Listener.Addr().String()
	_, port, err := net.SplitHostPort(at)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, address, path string
		well                bool
		says                string // empty: it succeeds
	}{
		{"at its address", at, "/ready", true, ""},
		{"at every address", "0.0.0.0:" + port, "/ready", true, ""},
		{"at a port", ":" + port, "/ready", true, ""},
		{"it cannot work", at, "/ready", false, "the database does not answer"},
		{"something else is there", at, "/healthz", true, "404"},
		{"it listens nowhere", "", "/ready", true, "cannot be asked"},
		{"nobody knows where", "127.0.0.1:0", "/ready", true, "cannot be asked"},
		{"it does not run", "127.0.0.1:1", "/ready", true, "does not answer"},
	} {
		well = c.well
		var stderr strings.Builder
		p := &commandline.Program{Name: "aetherium-test", Stdout: io.Discard, Stderr: &stderr}
		code := p.Run(context.Background(), []string{"healthcheck"}, "A test", p.Healthcheck(func() (string, string, error) { return c.address, c.path, nil }))
		if c.says == "" && code != 0 || c.says != "" && (code == 0 || !strings.Contains(stderr.String(), c.says)) {
			t.Errorf("%s: %d, %s", c.name, code, stderr.String())
		}
	}
}
