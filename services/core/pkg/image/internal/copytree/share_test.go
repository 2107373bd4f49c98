package copytree_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/services/core/pkg/image/internal/copytree"
)

func inode(t *testing.T, name string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// mountOverlay makes a changed tree of a base, as a machine's disk is one.
func mountOverlay(t *testing.T, base string) (merged, upper string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	dir := t.TempDir()
	upper, work, merged := filepath.Join(dir, "upper"), filepath.Join(dir, "work"), filepath.Join(dir, "merged")
	for _, d := range []string{upper, work, merged} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := "lowerdir=" + base + ",upperdir=" + upper + ",workdir=" + work + ",redirect_dir=on,index=off,metacopy=off"
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		t.Skipf("no overlay on this file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(merged, unix.MNT_DETACH) })
	return merged, upper
}

// Files that are the base's own are shared, all others are not, and the copy is
// like the tree in every case.
func TestSharedWithBase(t *testing.T) {
	t.Parallel()
	base := filepath.Join(t.TempDir(), "base")
	big := strings.Repeat("b", 100_000)
	for _, name := range []string{"same", "dir/same", "dir/deep/same", "changed", "owner", "gone", "moved/file", "opaque/file", "swap/file", "swapped/file"} {
		write(t, filepath.Join(base, name), name+big)
	}
	write(t, filepath.Join(base, "small"), "s")
	write(t, filepath.Join(base, "etc/cron.d/job"), big)
	merged, upper := mountOverlay(t, base)
	at := func(name string) string { return filepath.Join(merged, name) }
	for _, err := range []error{
		os.WriteFile(at("changed"), []byte("changed"+strings.Repeat("c", 100_000)), 0o644),
		os.Chown(at("owner"), 7, 7),
		os.Remove(at("gone")),
		os.WriteFile(at("dir/new"), []byte(big), 0o600),
		os.Rename(at("moved"), at("renamed")),
		os.RemoveAll(at("opaque")), os.Mkdir(at("opaque"), 0o755), os.WriteFile(at("opaque/file"), []byte("other"+big), 0o644),
		// Two directories that changed places: each has a file of the other's name.
		os.Rename(at("swap"), at("x")), os.Rename(at("swapped"), at("swap")), os.Rename(at("x"), at("swapped")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	dst := filepath.Join(filepath.Dir(base), "dst")
	if err := os.Mkdir(dst, 0o755); err != nil {
		t.Fatal(err)
	}
	o := options()
	o.Limits.Bytes = 100 << 20
	o.Base = &copytree.Base{Dir: base, Upper: upper}
	if err := copytree.Copy(t.Context(), merged, dst, o); err != nil {
		t.Fatal(err)
	}
	if got, want := digest(t, dst), digest(t, merged); got != want {
		t.Errorf("the copy differs:\n%s\n%s", got, want)
	}
	for name, shared := range map[string]bool{
		"same": true, "dir/same": true, "dir/deep/same": true, "small": true, "etc/cron.d/job": false, "changed": false, "owner": false, "opaque/file": false, "swap/file": false,
	} {
		if got := inode(t, filepath.Join(dst, name)) == inode(t, filepath.Join(base, name)); got != shared {
			t.Errorf("%s: shared %v", name, got)
		}
	}
	if got, err := os.ReadFile(filepath.Join(dst, "swap/file")); err != nil || !strings.HasPrefix(string(got), "swapped/file") {
		t.Errorf("%.20q, %v", got, err)
	}
}

// Without changes the base itself is copied, sharing its files.
func TestBaseAlone(t *testing.T) {
	t.Parallel()
	base, dst := filepath.Join(t.TempDir(), "base"), t.TempDir()
	write(t, filepath.Join(base, "d/file"), strings.Repeat("b", 100_000))
	write(t, filepath.Join(base, "var/spool/cron/job"), "s")
	o := options()
	o.Base = &copytree.Base{Dir: base}
	if err := copytree.Copy(t.Context(), base, dst, o); err != nil {
		t.Fatal(err)
	}
	if digest(t, dst) != digest(t, base) {
		t.Error("the copy differs")
	}
	for name, shared := range map[string]bool{"d/file": true, "var/spool/cron/job": false} {
		if got := inode(t, filepath.Join(dst, name)) == inode(t, filepath.Join(base, name)); got != shared {
			t.Errorf("%s: shared %v", name, got)
		}
	}
}
