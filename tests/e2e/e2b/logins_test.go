package e2b

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/tests/internal/sdk"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// TestLoginsStayInMemory: what a registry is shown is on no disk, and a build
// that lost it to a crash says so.
func TestLoginsStayInMemory(t *testing.T) {
	driver := wanted(t)
	asked := make(chan struct{}, 64)
	var closed atomic.Bool
	host := images(t, func(r *http.Request) {
		if closed.Load() && strings.HasPrefix(r.URL.Path, "/v2/closed/") {
			asked <- struct{}{}
			<-r.Context().Done() // until whoever asks is gone
		}
	})
	closed.Store(true)
	s := serve(t, driver, registriesEnv+host)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()

	key := strings.TrimSpace(sdk.CLI(t, s, "key", "create", "logins", "--e2b", "--scope", "manage"))
	call := func(method, path string, body, into any) {
		t.Helper()
		text, err := json.Marshal(body)
		must(t, err)
		req, err := http.NewRequestWithContext(ctx, method, s.URL+"/e2b"+path, bytes.NewReader(text))
		must(t, err)
		req.Header.Set("X-API-KEY", key)
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		defer func() { _ = resp.Body.Close() }()
		text, err = io.ReadAll(resp.Body)
		must(t, err)
		if resp.StatusCode >= 300 {
			t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, text)
		}
		if into != nil {
			must(t, json.Unmarshal(text, into))
		}
	}
	var made struct {
		BuildID string `json:"buildID"`
	}
	call("POST", "/v3/templates", map[string]any{"name": "held"}, &made)
	call("POST", "/v2/templates/held/builds/"+made.BuildID, map[string]any{
		"fromImage":         host + "/closed/shell:v1",
		"fromImageRegistry": map[string]any{"type": "registry", "username": registryUser, "password": registryPassword},
		"steps":             []any{},
	}, nil)
	select {
	case <-asked:
	case <-ctx.Done():
		t.Fatal("the registry was not asked")
	}
	must(t, s.Kill())
	if in := holding(t, s, registryPassword); len(in) > 0 {
		t.Errorf("the password is in %v", in)
	}
	must(t, s.Start(ctx))

	c, err := s.Client()
	must(t, err)
	tmpl, err := c.Template(ctx, "held")
	must(t, err)
	must(t, c.FollowBuildLog(ctx, tmpl.Builds[0].ID, io.Discard))
	tmpl, err = c.Template(ctx, "held")
	must(t, err)
	if b := tmpl.Builds[0]; b.State != "error" || !strings.Contains(b.Reason, "credentials") {
		t.Errorf("after the crash the build is %s: %s", b.State, b.Reason)
	}
	if in := holding(t, s, registryPassword); len(in) > 0 {
		t.Errorf("the password is in %v", in)
	}
	sdk.Explain(t, s)
}

// holding lists the files of a server that a text is in: those of its own, and
// not its images, which are others' files, nor the room for machines' disks.
func holding(t *testing.T, s *server.Server, text string) (in []string) {
	t.Helper()
	err := filepath.WalkDir(s.DataDir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case os.IsNotExist(err):
			return nil
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "images" || d.Name() == "vmdata"):
			return fs.SkipDir
		case !d.Type().IsRegular() || d.Name() == "vmdata.img":
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		if bytes.Contains(content, []byte(text)) {
			in = append(in, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(fmt.Errorf("looking through %s: %w", s.DataDir, err))
	}
	return in
}
