package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRuntimeDirIsInMemoryAndGoes(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	mounted := func(dir string) bool {
		raw, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(raw), " "+dir+" tmpfs ")
	}
	// A disk's file system, as the test's directories are; where they are in
	// memory already nothing is mounted.
	parent := t.TempDir()
	dir := filepath.Join(parent, "run")
	for range 2 { // opening twice mounts once
		if err := openRuntimeDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	wasMounted := mounted(dir)
	if err := openRuntimeDir(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
		t.Errorf("opening it again hides what is there: %v", err)
	}
	for range 2 {
		if err := removeRuntimeDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) || mounted(dir) {
		t.Errorf("it is still there: %v, mounted %v (was %v)", err, mounted(dir), wasMounted)
	}
	// What is in use, on whatever, is not hidden by a mount.
	used := filepath.Join(parent, "used")
	if err := os.MkdirAll(filepath.Join(used, "net"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := openRuntimeDir(used); err != nil || mounted(used) {
		t.Errorf("%v, mounted %v", err, mounted(used))
	}
}
