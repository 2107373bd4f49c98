package inmemory_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/inmemory"
)

// A program in memory runs, and cannot be changed.
func TestProgram(t *testing.T) {
	t.Parallel()
	src, err := os.Open("/bin/echo")
	if err != nil {
		t.Skip(err)
	}
	defer func() { _ = src.Close() }()
	f, err := inmemory.Program("echo", src)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	out, err := exec.CommandContext(t.Context(), f.Name(), "hi").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "hi" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("it was changed")
	}
	if err := f.Truncate(0); err == nil {
		t.Error("it was emptied")
	}
}
