package copytree_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/copytree"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/manifest"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/unpack"
)

func options() copytree.Options {
	return copytree.Options{Limits: unpack.Limits{Bytes: 1 << 20, Entries: 100}, KeepOwner: os.Geteuid() == 0, Note: func(string) {}}
}

func source(t *testing.T) string {
	t.Helper()
	src := filepath.Join(t.TempDir(), "src")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(src, "a/b"), 0o755),
		os.WriteFile(filepath.Join(src, "a/b/file"), []byte(strings.Repeat("x", 100_000)), 0o600),
		unix.Chmod(filepath.Join(src, "a/b/file"), 0o4711),
		os.Link(filepath.Join(src, "a/b/file"), filepath.Join(src, "hard")),
		os.Symlink("/etc/passwd", filepath.Join(src, "abs")),
		os.Symlink("../../..", filepath.Join(src, "up")),
		unix.Mkfifo(filepath.Join(src, "fifo"), 0o620),
		os.Mkdir(filepath.Join(src, "shut"), 0o700),
		unix.Chmod(src, 0o1755),
		os.Chtimes(filepath.Join(src, "a"), time.Unix(5, 0), time.Unix(5, 0)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return src
}

func digest(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	if _, err := manifest.Write(t.Context(), root, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestCopyIsTheSame(t *testing.T) {
	t.Parallel()
	src, dst := source(t), t.TempDir()
	if err := copytree.Copy(t.Context(), src, dst, options()); err != nil {
		t.Fatal(err)
	}
	if a, b := digest(t, src), digest(t, dst); a != b {
		t.Errorf("copied\n%s\nas\n%s", a, b)
	}
	if st, err := os.Stat(filepath.Join(dst, "a")); err != nil || !st.ModTime().Equal(time.Unix(5, 0)) {
		t.Error("a directory's time was lost:", st.ModTime(), err)
	}
}

func TestLeftOut(t *testing.T) {
	t.Parallel()
	src, dst := source(t), t.TempDir()
	l, err := net.Listen("unix", filepath.Join(src, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var skip unix.Stat_t
	if err := unix.Stat(filepath.Join(src, "a"), &skip); err != nil {
		t.Fatal(err)
	}
	o := options()
	var notes []string
	o.Note = func(s string) { notes = append(notes, s) }
	o.Skip = func(st *unix.Stat_t) bool { return st.Ino == skip.Ino && st.Dev == skip.Dev }
	if err := copytree.Copy(t.Context(), src, dst, o); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dst, "s")); !os.IsNotExist(err) {
		t.Error("a socket was copied:", err)
	}
	if names, err := os.ReadDir(filepath.Join(dst, "a")); err != nil || len(names) != 0 {
		t.Errorf("the skipped directory has %v, %v", names, err)
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "/s") {
		t.Errorf("notes %q", notes)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	src := source(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(src, link); err != nil {
		t.Fatal(err)
	}
	few, small := options(), options()
	few.Limits.Entries = 3
	small.Limits.Bytes = 99_999
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tc := range []struct {
		name string
		ctx  context.Context
		src  string
		o    copytree.Options
		code errors.Code
	}{
		{"a link at the top", t.Context(), link, options(), errors.InvalidArgument},
		{"a file", t.Context(), filepath.Join(src, "hard"), options(), errors.InvalidArgument},
		{"nothing", t.Context(), filepath.Join(src, "none"), options(), errors.NotFound},
		{"too many entries", t.Context(), src, few, errors.TooLarge},
		{"too many bytes", t.Context(), src, small, errors.TooLarge},
		{"canceled", ended, src, options(), errors.Canceled},
	} {
		if err := copytree.Copy(tc.ctx, tc.src, t.TempDir(), tc.o); !errors.HasCode(err, tc.code) {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.code)
		}
	}
}

func TestDeepDirectories(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	if err := os.MkdirAll(filepath.Join(src, strings.Repeat("d/", 300)), 0o755); err != nil {
		t.Fatal(err)
	}
	o := options()
	o.Limits.Entries = 1000
	if err := copytree.Copy(t.Context(), src, t.TempDir(), o); !errors.HasCode(err, errors.InvalidArgument) {
		t.Error(err)
	}
}

func TestOwners(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: files are given to other users")
	}
	src, dst := source(t), t.TempDir()
	for name, id := range map[string]int{"a/b": 33, "fifo": 70000, "abs": 12} {
		if err := os.Lchown(filepath.Join(src, name), id, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := copytree.Copy(t.Context(), src, dst, options()); err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]uint32{"a/b": 33, "fifo": 65534, "abs": 12} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dst, name), &st); err != nil || st.Uid != id || st.Gid != id {
			t.Errorf("%s belongs to %d:%d, %v", name, st.Uid, st.Gid, err)
		}
	}
}
