package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/host"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

// What is said of names is what the host's own resolver says.
func TestExamineNames(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	says := func(script string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "getent"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	ask := func(domain string) host.Finding {
		t.Helper()
		s, err := settings.Load("", []string{"AETHERIUM_LISTEN_PREVIEW_DOMAIN=" + domain})
		if err != nil {
			t.Fatal(err)
		}
		return examineNames(t.Context(), s)
	}
	says(`[ "$1" = ahosts ] && echo "::1 STREAM $2"; echo "::1 DGRAM"; echo "127.0.0.1 STREAM"`)
	if f := ask("aeth.localhost"); !f.OK || f.Detail != "resolve to ::1, 127.0.0.1" || f.What != "names below aeth.localhost" {
		t.Errorf("%+v", f)
	}
	says("exit 2")
	if f := ask("aeth.localhost"); f.OK || !strings.Contains(f.Hint, "libnss-myhostname") {
		t.Errorf("%+v", f)
	}
	if f := ask("vm.example"); f.OK || !strings.Contains(f.Hint, "names.address") || strings.Contains(f.Hint, "myhostname") {
		t.Errorf("%+v", f)
	}
}
