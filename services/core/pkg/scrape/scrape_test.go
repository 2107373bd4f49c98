package scrape_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/scrape"
)

// Metrics are for whoever has the token, where one is set; health for anybody.
func TestAccess(t *testing.T) {
	registry, err := scrape.Registry()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	token, err := scrape.Token(file)
	if err != nil {
		t.Fatal(err)
	}
	none, err := scrape.Token("")
	if err != nil {
		t.Fatal(err)
	}
	var ill error
	well := func(context.Context) error { return ill }
	open, closed := scrape.Server(scrape.Handler(registry), none, well).Handler, scrape.Server(scrape.Handler(registry), token, well).Handler
	for _, c := range []struct {
		name           string
		at             http.Handler
		path, shown    string
		ill            error
		status         int
		holds, without string
	}{
		{"without a token", open, "/metrics", "", nil, 200, "go_goroutines", ""},
		{"with the token", closed, "/metrics", "Bearer 0123456789abcdef", nil, 200, "process_open_fds", ""},
		{"nothing shown", closed, "/metrics", "", nil, 401, "metrics.token_file", "go_goroutines"},
		{"another token", closed, "/metrics", "Bearer 0123456789abcdeg", nil, 401, "", "go_goroutines"},
		{"a part of it", closed, "/metrics", "Bearer ", nil, 401, "", "go_goroutines"},
		{"health", closed, "/healthz", "", nil, 200, "ok", ""},
		{"ill", closed, "/healthz", "", errors.New(errors.Unavailable, "at db.example:5432"), 503, "does not answer", "db.example"},
		{"nothing else", open, "/debug/pprof/", "", nil, 404, "", "goroutine"},
	} {
		ill = c.ill
		r := httptest.NewRequest(http.MethodGet, c.path, nil)
		if c.shown != "" {
			r.Header.Set("Authorization", c.shown)
		}
		w := httptest.NewRecorder()
		c.at.ServeHTTP(w, r)
		body, _ := io.ReadAll(w.Body)
		if w.Code != c.status || !strings.Contains(string(body), c.holds) || c.without != "" && strings.Contains(string(body), c.without) {
			t.Errorf("%s: %d, %.200s", c.name, w.Code, body)
		}
	}
	if err := os.WriteFile(file, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := scrape.Token(file); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("a short token: %v", err)
	}
	if _, err := scrape.Token(file + ".none"); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("no file: %v", err)
	}
}
