package nspair_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
)

// What the kernel or the host lacks is told in the words of who found out.
func TestRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces with IDs of others need root")
	}
	dir, programs := t.TempDir(), t.TempDir()
	script := "#!/bin/sh\necho unshare: no room for another one >&2\nexit 1\n"
	if err := os.WriteFile(filepath.Join(programs, "unshare"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{programs, filepath.Dir(programs)} { // whose ID it is may go there
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", programs+":"+os.Getenv("PATH"))
	_, err := nspair.Make(t.Context(), dir, 1<<30, 1<<16)
	if !errors.HasCode(err, errors.Unavailable) || !strings.Contains(err.Error(), "no room for another one") {
		t.Errorf("refused: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("pins of nothing: %v, %v", left, err)
	}
}
