package tree_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/tree"
)

// plain leaves owners alone, so that tests need no root.
func plain(mode uint32) tree.Attr { return tree.Attr{Mode: mode, UID: -1, GID: -1} }

// fixture makes a tree beside a directory that nothing may touch.
func fixture(t *testing.T) (*tree.Tree, string, string) {
	t.Helper()
	base := t.TempDir()
	root, outside := filepath.Join(base, "root"), filepath.Join(base, "outside")
	for _, d := range []string{root, outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("host"), 0o600); err != nil {
		t.Fatal(err)
	}
	tr, err := tree.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr, root, outside
}

func TestClean(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ in, want string }{
		{"a/b", "a/b"}, {"./a//b/", "a/b"}, {"/etc/passwd", "etc/passwd"}, {"a/../b", "b"}, {".", ""}, {"/", ""}, {"a/..", ""},
		{"..a/.b..", "..a/.b.."},
	} {
		got, err := tree.Clean(tc.in)
		if err != nil || got != tc.want {
			t.Errorf("Clean(%q) = %q, %v; want %q", tc.in, got, err, tc.want)
		}
	}
	for _, in := range []string{"", "..", "../a", "a/../../b", "/../etc", "a\x00b", strings.Repeat("x", 256), strings.Repeat("a/", tree.MaxPath)} {
		if got, err := tree.Clean(in); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("Clean(%.20q) = %.20q, %v; want InvalidArgument", in, got, err)
		}
	}
}

func TestLinksStayInside(t *testing.T) {
	t.Parallel()
	tr, root, outside := fixture(t)
	for name, target := range map[string]string{
		"abs": outside, "up": "../../../../../../../../" + outside, "parent": "..", "top": "/", "loop": "loop", "proc": "/proc/self/root",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	// The same path inside the tree is where such links lead.
	if err := os.MkdirAll(filepath.Join(root, outside), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{"abs", "up"} {
		if err := tr.WriteFile(link+"/secret", []byte("guest"), plain(0o644)); err != nil {
			t.Errorf("%s: %v", link, err)
		}
		got, err := os.ReadFile(filepath.Join(root, outside, "secret"))
		if err != nil || string(got) != "guest" {
			t.Errorf("%s: inside is %q, %v", link, got, err)
		}
		if _, err := tr.ReadFile(link+"/secret", 100); err != nil {
			t.Errorf("%s: %v", link, err)
		}
	}
	for _, name := range []string{"parent/outside/secret", "top/../outside/secret", "proc" + outside + "/secret"} {
		if b, err := tr.ReadFile(name, 100); err == nil {
			t.Errorf("%s was read: %q", name, b)
		}
	}
	if _, err := tr.ReadFile("loop", 100); err == nil {
		t.Error("a link to itself was read")
	}
	if got, _ := os.ReadFile(filepath.Join(outside, "secret")); string(got) != "host" {
		t.Errorf("the outside was changed: %q", got)
	}
}

func TestDotDotIsNoEntry(t *testing.T) {
	t.Parallel()
	tr, _, outside := fixture(t)
	before, err := os.Stat(filepath.Dir(outside))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"..", "a/..", ".", "../outside/new"} {
		if err := tr.EnsureDir(name, plain(0o777)); name != "../outside/new" && !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("EnsureDir(%q): %v", name, err)
		}
		if err := tr.WriteFile(name, nil, plain(0o777)); name != "../outside/new" && !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("WriteFile(%q): %v", name, err)
		}
		d, err := tr.Dir("")
		if err != nil {
			t.Fatal(err)
		}
		if name == "." || name == ".." {
			if err := tr.Remove(d, name); !errors.HasCode(err, errors.InvalidArgument) {
				t.Errorf("Remove(%q): %v", name, err)
			}
		}
	}
	after, err := os.Stat(filepath.Dir(outside))
	if err != nil || before.Mode() != after.Mode() {
		t.Errorf("the directory above changed: %v, %v", after.Mode(), err)
	}
	if names, _ := os.ReadDir(outside); len(names) != 1 {
		t.Errorf("the outside has %v", names)
	}
}

func TestRemoveFollowsNoLink(t *testing.T) {
	t.Parallel()
	tr, root, outside := fixture(t)
	if err := os.MkdirAll(filepath.Join(root, "d/e"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"l", "d/l", "d/e/l"} {
		if err := os.Symlink(outside, filepath.Join(root, at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tr.Empty(""); err != nil {
		t.Fatal(err)
	}
	if names, _ := os.ReadDir(root); len(names) != 0 {
		t.Errorf("left: %v", names)
	}
	if _, err := os.Stat(filepath.Join(outside, "secret")); err != nil {
		t.Error("the outside was removed:", err)
	}
}

func TestFilesAndDirs(t *testing.T) {
	t.Parallel()
	tr, root, _ := fixture(t)
	if err := tr.WriteFile("a/b/c", []byte("1"), plain(0o640)); err != nil {
		t.Fatal(err)
	}
	if err := tr.WriteFile("a/b/c", []byte("2"), plain(0o4755)); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(root, "a/b/c"))
	if err != nil || st.Mode() != 0o755|fs.ModeSetuid {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := tr.ReadFile("a/b/c", 0); !errors.HasCode(err, errors.TooLarge) {
		t.Errorf("an overlong file: %v", err)
	}
	if _, err := tr.ReadFile("a/b", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory was read as a file: %v", err)
	}
	// A file in the way of a directory makes room; what the path means changes at once.
	if err := tr.EnsureDir("a/b/c", plain(0o1777)); err != nil {
		t.Fatal(err)
	}
	if err := tr.WriteFile("a/b/c/d", nil, plain(0o644)); err != nil {
		t.Fatal(err)
	}
	if err := tr.ReplaceSymlink("nowhere", "a/b/c", -1, -1); err != nil {
		t.Fatal(err)
	}
	if err := tr.WriteFile("a/b/c/d", nil, plain(0o644)); err == nil {
		t.Error("wrote through a dangling link")
	}
	names, err := tr.Names("a/b")
	if err != nil || !slices.Equal(names, []string{"c"}) {
		t.Errorf("names %v, %v", names, err)
	}
	if st, err := tr.Lstat("a/b/c"); err != nil || st.Mode&0o170000 != 0o120000 {
		t.Errorf("lstat: %v", err)
	}
	if _, err := tr.Stat("a/b/c"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat: %v", err)
	}
}

func TestOpenRefusesLink(t *testing.T) {
	t.Parallel()
	_, root, _ := fixture(t)
	link := filepath.Join(filepath.Dir(root), "link")
	if err := os.Symlink(root, link); err != nil {
		t.Fatal(err)
	}
	if tr, err := tree.Open(link); err == nil {
		_ = tr.Close()
		t.Error("a link was opened as a tree")
	}
}
