package unpack_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/services/core/internal/cli/unpack"
)

// Whatever a VM sends as a tar stream, nothing is written outside of the
// target, and no link in it leads outside.
func FuzzExtract(f *testing.F) {
	tb := &testing.T{}
	for _, entries := range [][]entry{
		{{kind: '0', name: "a", body: "x", mode: 0o644}, {kind: '5', name: "d", mode: 0o755}, {kind: '0', name: "d/b", body: "y", mode: 0o600}},
		{{kind: '2', name: "l", link: "../outside"}, {kind: '0', name: "l/x", body: "x", mode: 0o644}},
		{{kind: '2', name: "l", link: "."}, {kind: '1', name: "h", link: "l/../../outside/secret"}},
		{{kind: '0', name: "../x", body: "x", mode: 0o4755}},
		{{kind: '2', name: "a", link: "b"}, {kind: '2', name: "b", link: "a"}, {kind: '0', name: "a", body: "x", mode: 0o644}},
		{{kind: '5', name: "d", mode: 0}, {kind: '2', name: "d", link: "/"}, {kind: '0', name: "d/etc/x", body: "x", mode: 0o644}},
	} {
		f.Add(archive(tb, entries...), 0)
		f.Add(archive(tb, entries...), 1)
	}
	f.Fuzz(func(t *testing.T, stream []byte, strip int) {
		if strip < 0 || strip > 8 || len(stream) > 64<<10 {
			return
		}
		base := t.TempDir()
		if err := os.Mkdir(filepath.Join(base, "outside"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(base, "outside", "secret"), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(base, "target")
		if err := os.Mkdir(target, 0o700); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(target)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_, _ = unpack.Extract(context.Background(), root, bytes.NewReader(stream), unpack.Options{Strip: strip})
		unharmed(t, base, target)
	})
}

// unharmed looks whether anything has changed outside of the target, and where
// its links lead.
func unharmed(t *testing.T, base, target string) {
	t.Helper()
	if got, err := os.ReadFile(filepath.Join(base, "outside", "secret")); err != nil || string(got) != "secret" {
		t.Errorf("the file outside is %q, %v", got, err)
	}
	for dir, want := range map[string]int{base: 2, filepath.Join(base, "outside"): 1} {
		if all, err := os.ReadDir(dir); err != nil || len(all) != want {
			t.Errorf("%s has %v, %v", dir, all, err)
		}
	}
	_ = filepath.WalkDir(target, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink == 0 {
			return nil //nolint:nilerr // a directory that may not be read
		}
		to, err := filepath.EvalSymlinks(name)
		if err == nil && to != target && !strings.HasPrefix(to, target+string(filepath.Separator)) {
			t.Errorf("the link %s leads to %s", name, to)
		}
		return nil
	})
}
