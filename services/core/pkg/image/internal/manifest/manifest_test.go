package manifest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/manifest"
)

func sample(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(root, "d"), 0o755))
	must(os.WriteFile(filepath.Join(root, "d/a"), []byte("one"), 0o644))
	must(os.WriteFile(filepath.Join(root, "d/new\nline"), []byte("two"), 0o600))
	must(os.Link(filepath.Join(root, "d/a"), filepath.Join(root, "z")))
	must(os.Symlink("d/a", filepath.Join(root, "l")))
	must(unix.Mkfifo(filepath.Join(root, "p"), 0o600))
	must(os.Chmod(root, 0o755))
	return root
}

func write(t *testing.T, root string) (manifest.Summary, string) {
	t.Helper()
	var b bytes.Buffer
	s, err := manifest.Write(t.Context(), root, &b)
	if err != nil {
		t.Fatal(err)
	}
	return s, b.String()
}

func TestWrite(t *testing.T) {
	t.Parallel()
	s, text := write(t, sample(t))
	sum := sha256.Sum256([]byte(text))
	if s.Digest != "sha256:"+hex.EncodeToString(sum[:]) || s.Bytes != 6 || s.Entries != 7 {
		t.Errorf("%+v", s)
	}
	if !strings.Contains(text, `"d/new\nline"`) || !strings.Contains(text, ` "d/a" - "z"`) {
		t.Error(text)
	}
	other, _ := write(t, sample(t))
	if other.Digest != s.Digest {
		t.Error("the same content has two digests")
	}
}

func TestEveryChangeShows(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(root string) error{
		"content": func(r string) error { return os.WriteFile(filepath.Join(r, "d/a"), []byte("eno"), 0o644) },
		"mode":    func(r string) error { return unix.Chmod(filepath.Join(r, "d/a"), 0o4644) },
		"top":     func(r string) error { return os.Chmod(r, 0o700) },
		"name":    func(r string) error { return os.Rename(filepath.Join(r, "z"), filepath.Join(r, "y")) },
		"target": func(r string) error {
			_ = os.Remove(filepath.Join(r, "l"))
			return os.Symlink("d/b", filepath.Join(r, "l"))
		},
		"new": func(r string) error { return os.Mkdir(filepath.Join(r, "n"), 0o755) },
		"unlinked": func(r string) error {
			_ = os.Remove(filepath.Join(r, "z"))
			return os.WriteFile(filepath.Join(r, "z"), []byte("one"), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := sample(t)
			before, a := write(t, root)
			if err := change(root); err != nil {
				t.Fatal(err)
			}
			after, b := write(t, root)
			if before.Digest == after.Digest {
				t.Fatal("the digest is the same")
			}
			dir := t.TempDir()
			for n, text := range map[string]string{"a": a, "b": b} {
				if err := os.WriteFile(filepath.Join(dir, n), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			where, err := manifest.FirstDifference(filepath.Join(dir, "a"), filepath.Join(dir, "b"))
			if err != nil || where == "" {
				t.Error(where, err)
			}
		})
	}
	root := sample(t)
	before, _ := write(t, root)
	if err := os.Chtimes(filepath.Join(root, "d/a"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if after, _ := write(t, root); after.Digest != before.Digest {
		t.Error("times are part of the digest")
	}
}

func TestWriteEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := manifest.Write(ctx, sample(t), &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := manifest.Write(t.Context(), filepath.Join(t.TempDir(), "none"), &bytes.Buffer{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
