package etc_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/guest/etc"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A file that is as we write it stays the same file; anything else that has its
// name makes way, and nothing that it leads to is touched.
func TestUpdate(t *testing.T) {
	t.Parallel()
	const long, short = "a name that is longer\n", "a name\n"
	outside := filepath.Join(t.TempDir(), "outside")
	for name, tc := range map[string]struct {
		before func(path string) error
		same   bool
	}{
		"a longer file":   {func(p string) error { return os.WriteFile(p, []byte(long), 0o644) }, true},
		"a shorter file":  {func(p string) error { return os.WriteFile(p, nil, 0o644) }, true},
		"a secret file":   {func(p string) error { return os.WriteFile(p, []byte(long), 0o600) }, false},
		"nothing":         {func(string) error { return nil }, false},
		"a symbolic link": {func(p string) error { return os.Symlink(outside, p) }, false},
		"a hard link":     {func(p string) error { return os.Link(outside, p) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			must(t, os.WriteFile(outside, []byte("not to be touched"), 0o644))
			file := filepath.Join(path, "hostname")
			must(t, tc.before(file))
			dir, err := os.Open(path)
			must(t, err)
			defer func() { _ = dir.Close() }()
			before, _ := os.Lstat(file)
			must(t, etc.Update(dir, map[string]string{"hostname": short}, func(*os.File) error { return nil }))
			after, err := os.Lstat(file)
			must(t, err)
			if before != nil && os.SameFile(before, after) != tc.same {
				t.Errorf("the same file: %v", !tc.same)
			}
			text, err := os.ReadFile(file)
			must(t, err)
			if string(text) != short || after.Mode() != 0o644 {
				t.Errorf("%v with %q", after.Mode(), text)
			}
			if other, _ := os.ReadFile(outside); !strings.HasPrefix(string(other), "not") {
				t.Errorf("what a link led to was written: %q", other)
			}
			if entries, err := os.ReadDir(path); err != nil || len(entries) != 1 {
				t.Errorf("%v is left (%v)", entries, err)
			}
		})
	}
}
