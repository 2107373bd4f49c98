package manifest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/image/internal/manifest"
)

// A tree that shares files with a known one has the manifest that it would
// have otherwise, without their being read.
func TestKnown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	known, tree, file := filepath.Join(dir, "known"), filepath.Join(dir, "tree"), filepath.Join(dir, "manifest")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(known, "d \"x\"\n"), 0o755), os.MkdirAll(filepath.Join(tree, "d \"x\"\n"), 0o755),
		os.WriteFile(filepath.Join(known, "d \"x\"\n/a b"), []byte("shared"), 0o644),
		os.Link(filepath.Join(known, "d \"x\"\n/a b"), filepath.Join(known, "hard")),
		os.Link(filepath.Join(known, "hard"), filepath.Join(tree, "d \"x\"\n/a b")),
		os.Link(filepath.Join(known, "hard"), filepath.Join(tree, "hard")),
		os.WriteFile(filepath.Join(known, "same"), []byte("one"), 0o644), os.WriteFile(filepath.Join(tree, "same"), []byte("two"), 0o644),
		os.Symlink("x", filepath.Join(known, "link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Write(t.Context(), known, f); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	var plain, quick strings.Builder
	want, err := manifest.Write(t.Context(), tree, &plain)
	if err != nil {
		t.Fatal(err)
	}
	got, err := manifest.Write(t.Context(), tree, &quick, manifest.Known{Root: known, File: file})
	if err != nil || got != want || quick.String() != plain.String() {
		t.Errorf("%+v, want %+v; %v\n%s\n%s", got, want, err, quick.String(), plain.String())
	}
	// It really comes from the manifest: a wrong one shows.
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(text), "\nf 0644")
	wrong := strings.Replace(string(text), string(text[at:at+60]), strings.Replace(string(text[at:at+60]), "\"", "\"ff", 1), 1)
	if err := os.WriteFile(file, []byte(wrong), 0o600); err != nil {
		t.Fatal(err)
	}
	if other, err := manifest.Write(t.Context(), tree, &strings.Builder{}, manifest.Known{Root: known, File: file}); err != nil || other.Digest == want.Digest {
		t.Errorf("the known manifest is not used: %v", err)
	}
	if err := os.WriteFile(file, []byte("f 0644\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Write(t.Context(), tree, &strings.Builder{}, manifest.Known{Root: known, File: file}); err == nil {
		t.Error("a damaged manifest is taken")
	}
}
