package commandline_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/daemon/commandline"
	"github.com/aetherium/aetherium/services/core/pkg/scrape"
	"github.com/aetherium/aetherium/services/core/pkg/settings"
)

// What a server logs goes where its settings say, to its end.
func TestLinesGoWhereTheyAreToGo(t *testing.T) {
	var mu sync.Mutex
	var sent, shown string
	loki := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		sent, shown = sent+string(body), r.Header.Get("Authorization")
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(loki.Close)
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("user:S3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := settings.DefaultCommon()
	s.DataDir = filepath.Join(dir, "data")
	s.Log.File, s.Log.Loki, s.Log.Key = filepath.Join(dir, "log"), loki.URL, key
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	p := commandline.Program{Name: "aetherium-test", Stderr: &stderr}
	log, release, err := p.Begin(s)
	if err != nil {
		t.Fatal(err)
	}
	log.With("vm", "x").Info("hello", "password", "hunter2")
	log.Debug("not this")
	release()
	file, err := os.ReadFile(s.Log.File)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for name, text := range map[string]string{"stderr": stderr.String(), "the file": string(file), "Loki": strings.ReplaceAll(sent, `\"`, `"`)} {
		if strings.Count(text, `"msg":"hello"`) != 1 || !strings.Contains(text, `"vm":"x"`) || strings.Contains(text, "hunter2") || strings.Contains(text, "not this") {
			t.Errorf("%s: %s", name, text)
		}
	}
	if !strings.Contains(sent, `"service":"aetherium-test"`) || !strings.HasPrefix(shown, "Basic ") {
		t.Errorf("%s, %s", sent, shown)
	}
	// What comes after the end is lost, and counted.
	log.Info("too late")
	want := `
# HELP aetherium_log_lines_lost_total Lines of the log that were lost, by where they were to go.
# TYPE aetherium_log_lines_lost_total counter
aetherium_log_lines_lost_total{to="file"} 1
aetherium_log_lines_lost_total{to="loki"} 1
`
	registry, err := scrape.Registry(p.Collectors()...)
	if err != nil {
		t.Fatal(err)
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "aetherium_log_lines_lost_total"); err != nil {
		t.Error(err)
	}
}

func TestBadSinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	if err := os.WriteFile(open, []byte("S3cret"), 0o644); err != nil { //nolint:gosec // that is what is refused
		t.Fatal(err)
	}
	for field, change := range map[string]func(*settings.Log){
		"log.file":          func(l *settings.Log) { l.File = filepath.Join(dir, "absent", "log") },
		"log.file_size":     func(l *settings.Log) { l.FileSize = 1 },
		"log.file_keep":     func(l *settings.Log) { l.FileKeep = -1 },
		"log.loki":          func(l *settings.Log) { l.Loki = "loki:3100" },
		"log.loki_tenant":   func(l *settings.Log) { l.Loki, l.Tenant = "http://loki", "a b" },
		"log.loki_key_file": func(l *settings.Log) { l.Loki, l.Key = "http://loki", open },
	} {
		s := settings.DefaultCommon()
		s.DataDir = filepath.Join(dir, field)
		change(&s.Log)
		err := s.Check()
		if err == nil {
			p := commandline.Program{Name: "aetherium-test", Stderr: io.Discard}
			_, _, err = p.Begin(s)
		}
		var e *errors.Error
		if !errors.As(err, &e) || e.Code != errors.InvalidArgument || e.Field != field || strings.Contains(err.Error(), "S3cret") {
			t.Errorf("%s: %v", field, err)
		}
	}
}
