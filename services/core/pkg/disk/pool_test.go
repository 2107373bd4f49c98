package disk_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// onBackends runs a test on a pool of each kind that this kernel can do.
func onBackends(t *testing.T, test func(t *testing.T, p *disk.Pool)) {
	t.Helper()
	for _, backend := range []string{disk.BackendXFS, disk.BackendBtrfs} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			test(t, openPool(t, disk.Config{Dir: t.TempDir(), Backend: backend, AcceptUnenforced: true}))
		})
	}
}

func openPool(t *testing.T, cfg disk.Config) *disk.Pool {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if cfg.Backend != "" {
		if _, err := exec.LookPath("mkfs." + cfg.Backend); err != nil {
			t.Skipf("no mkfs.%s here", cfg.Backend)
		}
	}
	if cfg.Size == 0 {
		cfg.Size = 1 << 30
	}
	p, err := disk.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Close(), p.Unmount(context.Background())); err != nil {
			t.Error(err)
		}
	})
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

func TestLifeOfAVolume(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, p *disk.Pool) {
		ctx := t.Context()
		must(t, p.Create(ctx, "one", 64*mib))
		write(t, p.Path("one")+"/f", "kept")
		must(t, p.Create(ctx, "one", 32*mib)) // again: the content stays, the limit changes
		if got := read(t, p.Path("one")+"/f"); got != "kept" {
			t.Errorf("content after a second Create: %q", got)
		}
		u, err := p.Usage(ctx, "one")
		must(t, err)
		if u.Limit != 32*mib {
			t.Errorf("limit %d, want %d", u.Limit, 32*mib)
		}
		st, err := os.Stat(p.Path("one"))
		must(t, err)
		if st.Mode().Perm() != 0o700 {
			t.Errorf("volume mode %v, want only root in it", st.Mode())
		}
		must(t, p.Create(ctx, "two", 0))
		ids, err := p.List(ctx)
		must(t, err)
		if !slices.Equal(ids, []string{"one", "two"}) {
			t.Errorf("List: %v", ids)
		}
		must(t, p.Delete(ctx, "one"))
		must(t, p.Delete(ctx, "one"))
		if ids, _ := p.List(ctx); !slices.Equal(ids, []string{"two"}) {
			t.Errorf("List after Delete: %v", ids)
		}
		if _, err := p.Usage(ctx, "one"); !errors.HasCode(err, errors.NotFound) {
			t.Errorf("Usage of a deleted volume: %v", err)
		}
		for _, bad := range []string{"", "..", "a/b", "A", strings.Repeat("a", 81)} {
			if err := p.Create(ctx, bad, 0); !errors.HasCode(err, errors.InvalidArgument) {
				t.Errorf("Create(%q): %v", bad, err)
			}
		}
		if err := p.Clone(ctx, "none", "three", 0); !errors.HasCode(err, errors.NotFound) {
			t.Errorf("Clone of nothing: %v", err)
		}
	})
}

// fill writes zero bytes that do not compress away until it is refused or n are written.
func fill(path string, n int) (int, error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	block := bytes.Repeat([]byte("0123456789abcdef"), mib/16)
	written := 0
	for written < n {
		m, err := f.Write(block)
		written += m
		if err != nil {
			return written, err
		}
	}
	return written, f.Sync()
}

func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func needEnforced(t *testing.T, p *disk.Pool) {
	t.Helper()
	if !p.Enforced() {
		t.Skipf("this kernel has no project quotas on %s (CONFIG_XFS_QUOTA)", p.Backend())
	}
}

func TestLimitIsEnforced(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, p *disk.Pool) {
		needEnforced(t, p)
		ctx := t.Context()
		must(t, p.Create(ctx, "small", 24*mib))
		must(t, p.Create(ctx, "other", 100*mib))
		n, err := fill(p.Path("small")+"/big", 64*mib)
		if !full(err) || n > 24*mib || n < 16*mib {
			t.Fatalf("wrote %d MiB of 24: %v", n/mib, err)
		}
		if n, err := fill(p.Path("other")+"/big", 40*mib); err != nil {
			t.Errorf("a neighbour was refused after %d bytes: %v", n, err)
		}
		must(t, os.Remove(p.Path("small")+"/big"))
		if n, err := fill(p.Path("small")+"/again", 16*mib); err != nil {
			t.Errorf("room was not given back: %d bytes, %v", n, err)
		}
		must(t, p.SetLimit(ctx, "small", 64*mib))
		if n, err := fill(p.Path("small")+"/more", 32*mib); err != nil {
			t.Errorf("after raising the limit: %d bytes, %v", n, err)
		}
		u, err := p.Usage(ctx, "small")
		must(t, err)
		if u.Used < 48*mib || u.Used > 64*mib || u.Limit != 64*mib {
			t.Errorf("usage %+v", u)
		}
	})
}

// A volume that is filled is there with all that it was to hold, or not at all.
func TestFill(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, p *disk.Pool) {
		ctx, wrong := t.Context(), errors.New(errors.PreconditionFailed, "wrong")
		half := func(dir string) error { write(t, dir+"/half", "x"); return wrong }
		if err := p.Fill(ctx, "one", 16*mib, half); !errors.Is(err, wrong) {
			t.Errorf("%v", err)
		}
		over := func(dir string) error { _, err := fill(dir+"/f", 6*mib); return err }
		if p.Enforced() {
			if err := p.Fill(ctx, "one", 4*mib, over); !errors.HasCode(err, errors.NoSpace) {
				t.Errorf("over its limit: %v", err)
			}
		}
		if ids, err := p.List(ctx); err != nil || len(ids) > 0 {
			t.Errorf("half of one is there: %v, %v", ids, err)
		}
		must(t, p.Fill(ctx, "one", 16*mib, over))
		must(t, p.Fill(ctx, "one", 16*mib, half)) // it is there
		if names, err := os.ReadDir(p.Path("one")); err != nil || len(names) != 1 {
			t.Errorf("%v, %v", names, err)
		}
		if u, err := p.Usage(ctx, "one"); err != nil || u.Used < 6*mib || u.Limit != 0 {
			t.Errorf("%+v, %v", u, err)
		}
		must(t, p.Clone(ctx, "one", "two", 16*mib))
		if err := p.Fill(ctx, "../one", 0, half); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%v", err)
		}
	})
}

func TestClone(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, p *disk.Pool) {
		ctx := t.Context()
		must(t, p.Create(ctx, "src", 200*mib))
		src, dst := p.Path("src"), p.Path("dst")
		plantTree(t, src)
		_, err := fill(src+"/upper/big", 64*mib)
		must(t, err)
		must(t, p.Sync())
		before := freeBytes(t, src)
		must(t, p.Clone(ctx, "src", "dst", 100*mib))
		must(t, p.Clone(ctx, "src", "dst", 100*mib))
		if used := before - freeBytes(t, src); used > 16*mib {
			t.Errorf("the clone of 64 MiB took %d MiB: blocks are not shared", used/mib)
		}
		if a, b := listing(t, src), listing(t, dst); a != b {
			t.Errorf("the clone differs:\n%s\n%s", a, b)
		}
		// What changes in one is not seen in the other.
		write(t, dst+"/upper/dir/file", "changed")
		if got := read(t, src+"/upper/dir/file"); got != "content" {
			t.Errorf("the source changed: %q", got)
		}
		var a, b unix.Stat_t
		must(t, unix.Stat(src+"/upper/link", &a))
		must(t, unix.Stat(dst+"/upper/link", &b))
		if a.Nlink != 2 || b.Nlink != 2 {
			t.Errorf("hard links join layers: %d and %d names", a.Nlink, b.Nlink)
		}
		if got := read(t, dst+"/upper/link"); got != "changed" {
			t.Errorf("a hard link broke in the clone: %q", got)
		}
		must(t, p.Delete(ctx, "src"))
		must(t, p.Close())
		if got := read(t, dst+"/upper/dir/file"); got != "changed" {
			t.Errorf("the clone lost its content with its source: %q", got)
		}
	})
}

// plantTree makes what an overlay's upper directory can hold.
func plantTree(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir+"/upper/dir", 0o755))
	write(t, dir+"/upper/dir/file", "content")
	must(t, os.Link(dir+"/upper/dir/file", dir+"/upper/link"))
	must(t, os.Symlink("/etc/shadow", dir+"/upper/symlink"))
	must(t, unix.Mknod(dir+"/upper/whiteout", unix.S_IFCHR, 0))
	must(t, unix.Mkfifo(dir+"/upper/pipe", 0o620))
	write(t, dir+"/upper/tool", "#!/bin/sh")
	must(t, os.Chown(dir+"/upper/tool", 1000, 1001))
	must(t, os.Chmod(dir+"/upper/tool", 0o755|os.ModeSetuid))
	must(t, unix.Setxattr(dir+"/upper/dir", "trusted.overlay.opaque", []byte("y"), 0))
	must(t, unix.Setxattr(dir+"/upper/dir/file", "user.note", bytes.Repeat([]byte("x"), 1000), 0))
	must(t, os.Lchown(dir+"/upper/symlink", 7, 8))
	must(t, os.Truncate(dir+"/upper/tool", 100*mib)) // a hole
	times := []unix.Timespec{{Sec: 1e9, Nsec: 5}, {Sec: 1e9 + 1, Nsec: 7}}
	for _, name := range []string{"symlink", "whiteout", "tool", "dir"} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/upper/"+name, times, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// listing is everything about a tree that a copy must keep.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		rel, _ := filepath.Rel(dir, path)
		target, _ := os.Readlink(path)
		nlink := st.Nlink
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			nlink = 0
		}
		var attrs []string
		for _, name := range []string{"trusted.overlay.opaque", "user.note"} {
			buf := make([]byte, 2000)
			if n, err := unix.Lgetxattr(path, name, buf); err == nil {
				attrs = append(attrs, name+"="+string(buf[:n]))
			}
		}
		size := st.Size
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			size = 0
		}
		fmt.Fprintln(&b, rel, st.Mode, st.Uid, st.Gid, st.Rdev, nlink, size, st.Mtim, target, attrs)
		return nil
	}))
	return b.String()
}

func freeBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	return int64(st.Bfree) * st.Bsize
}

// A clone must not take room from its source while it lives.
func TestCloneLeavesItsSourceRoom(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, p *disk.Pool) {
		needEnforced(t, p)
		ctx := t.Context()
		must(t, p.Create(ctx, "src", 40*mib))
		_, err := fill(p.Path("src")+"/big", 30*mib)
		must(t, err)
		must(t, p.Clone(ctx, "src", "snap", 0))
		must(t, p.Clone(ctx, "snap", "fork", 40*mib))
		must(t, p.Delete(ctx, "snap"))
		must(t, p.Close())
		must(t, os.Remove(p.Path("src")+"/big"))
		if n, err := fill(p.Path("src")+"/new", 30*mib); err != nil {
			t.Errorf("the source could write only %d MiB anew: %v", n/mib, err)
		}
		must(t, os.Remove(p.Path("fork")+"/big"))
		if n, err := fill(p.Path("fork")+"/new", 30*mib); err != nil {
			t.Errorf("the fork could write only %d MiB: %v", n/mib, err)
		}
		if n, err := fill(p.Path("fork")+"/more", 30*mib); !full(err) {
			t.Errorf("the fork wrote %d MiB beyond its limit: %v", n/mib, err)
		}
		must(t, p.Delete(ctx, "fork"))
		must(t, p.Close())
		must(t, p.Sync())
		if n, err := fill(p.Path("src")+"/more", 60*mib); !full(err) {
			t.Errorf("with its clones gone, the source wrote %d MiB beyond its limit: %v", n/mib, err)
		}
		u, err := p.Usage(ctx, "src")
		must(t, err)
		if u.Limit != 40*mib {
			t.Errorf("limit %d", u.Limit)
		}
	})
}

func TestOpenAgain(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, p *disk.Pool) {
		ctx := t.Context()
		dir := filepath.Dir(filepath.Dir(filepath.Dir(p.Path("x"))))
		must(t, p.Create(ctx, "kept", 10*mib))
		write(t, p.Path("kept")+"/f", "kept")
		// Left by a process that died: a clone half made, a removal half done.
		must(t, os.MkdirAll(filepath.Join(dir, "vmdata/staging/1.999999999-1.x/upper"), 0o700))
		// Its parent need not have looked yet.
		must(t, os.MkdirAll(filepath.Join(dir, "vmdata/staging/2."+zombie(t)+".y"), 0o700))
		must(t, os.Rename(p.Path("kept"), filepath.Join(dir, "vmdata/trash/1.2.3")))
		must(t, p.Create(ctx, "kept", 10*mib))
		write(t, p.Path("kept")+"/f", "second")

		cfg := disk.Config{Dir: dir, Backend: p.Backend(), AcceptUnenforced: true, Size: 2 << 30} // grows, too
		again, err := disk.Open(ctx, cfg)
		must(t, err)
		must(t, again.Close())
		for _, left := range []string{"staging", "trash"} {
			if entries, _ := os.ReadDir(filepath.Join(dir, "vmdata", left)); len(entries) != 0 {
				t.Errorf("%s still holds %v", left, entries)
			}
		}
		if got := read(t, again.Path("kept")+"/f"); got != "second" {
			t.Errorf("content: %q", got)
		}
		if size := freeBytes(t, dir+"/vmdata"); size < 3<<29 {
			t.Errorf("after growing to 2 GiB %d MiB are free", size/mib)
		}
		must(t, again.Unmount(ctx))
		must(t, again.Unmount(ctx))
		if _, err := os.Stat(again.Path("kept")); !os.IsNotExist(err) {
			t.Errorf("still mounted: %v", err)
		}
		third, err := disk.Open(ctx, cfg)
		must(t, err)
		defer third.Close()
		if third.Backend() != p.Backend() || read(t, third.Path("kept")+"/f") != "second" {
			t.Error("the volumes did not come back after an unmount")
		}
	})
}

// What is unmounted here may be held elsewhere. Through a second loop device
// two file systems would write to one file.
func TestOpenWhileAnotherNamespaceHoldsIt(t *testing.T) {
	t.Parallel()
	cfg := disk.Config{Dir: t.TempDir(), Backend: disk.BackendBtrfs, Size: 1 << 30}
	p := openPool(t, cfg)
	must(t, p.Create(t.Context(), "kept", 0))
	write(t, p.Path("kept")+"/f", "kept")
	holder := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 600")
	held, err := holder.StdoutPipe()
	must(t, err)
	must(t, holder.Start())
	defer func() { _, _ = holder.Process.Kill(), holder.Wait() }()
	_, err = held.Read(make([]byte, 1))
	must(t, err)

	must(t, p.Unmount(t.Context()))
	again := openPool(t, cfg)
	if got := read(t, again.Path("kept")+"/f"); got != "kept" {
		t.Errorf("content: %q", got)
	}
	out, err := exec.CommandContext(t.Context(), "losetup", "--associated", cfg.Dir+"/vmdata.img").Output()
	if n := bytes.Count(out, []byte("\n")); err != nil || n != 1 {
		t.Errorf("%d loop devices: %v\n%s", n, err, out)
	}
}

// zombie is the mark of a process that was killed and whose parent, this test,
// does not look before its end.
func zombie(t *testing.T) string {
	cmd := exec.Command("sleep", "600")
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Wait() })
	must(t, cmd.Process.Kill())
	for {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		must(t, err)
		fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
		if fields[0] == "Z" {
			return fmt.Sprintf("%d-%s", cmd.Process.Pid, fields[19])
		}
		time.Sleep(time.Millisecond)
	}
}

// A pool whose room is reserved goes on when the disk around it is full.
func TestReservedRoom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := disk.Config{Dir: dir, Backend: disk.BackendBtrfs, Size: 512 * mib, Reserve: true}
	p, err := disk.Open(t.Context(), cfg)
	must(t, err)
	must(t, p.Create(t.Context(), "v", 0))
	write(t, p.Path("v")+"/f", strings.Repeat("x", 64*mib))
	must(t, p.Sync())
	must(t, p.Delete(t.Context(), "v"))
	must(t, p.Unmount(t.Context()))
	cfg.Size = 600 * mib
	p, err = disk.Open(t.Context(), cfg)
	must(t, err)
	info, err := os.Stat(filepath.Join(dir, "vmdata.img"))
	must(t, err)
	if got := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() != 600*mib || got < info.Size() {
		t.Errorf("of %d MiB %d are reserved", info.Size()/mib, got/mib)
	}
	must(t, p.Unmount(t.Context()))
}

// More than the disk has is refused, and is not taken from others meanwhile.
func TestReservedMoreThanThereIs(t *testing.T) {
	t.Parallel()
	around := mounted(t, "truncate", "-s", "128G") // of which nothing is ever written
	cfg := disk.Config{Dir: around + "/data", Backend: disk.BackendBtrfs, Size: 8 << 40, Reserve: true}
	before := freeBytes(t, around)
	least := before
	var look sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	look.Go(func() {
		for ctx.Err() == nil {
			least = min(least, freeBytes(t, around))
		}
	})
	if _, err := disk.Open(t.Context(), cfg); !errors.HasCode(err, errors.NoSpace) {
		t.Errorf("more than there is: %v", err)
	}
	stop()
	look.Wait()
	if took := before - least; took > 64*mib {
		t.Errorf("%d of %d MiB were taken from the disk", took/mib, before/mib)
	}
}

func TestOpenConcurrently(t *testing.T) {
	t.Parallel()
	first := openPool(t, disk.Config{Dir: t.TempDir(), Backend: disk.BackendBtrfs})
	dir := filepath.Dir(filepath.Dir(filepath.Dir(first.Path("x"))))
	must(t, first.Unmount(t.Context()))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			p, err := disk.Open(t.Context(), disk.Config{Dir: dir})
			if err != nil {
				t.Error(err)
				return
			}
			if err := p.Create(t.Context(), fmt.Sprintf("v%d", i), mib); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if ids, err := first.List(t.Context()); err != nil || len(ids) != 4 {
		t.Errorf("volumes %v, %v: not all processes share one mount", ids, err)
	}
}

func TestVolumesConcurrently(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, p *disk.Pool) {
		ctx := t.Context()
		must(t, p.Create(ctx, "base", 0))
		write(t, p.Path("base")+"/f", "shared")
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				id := fmt.Sprintf("c%d", i)
				err := p.Clone(ctx, "base", id, 10*mib)
				if err == nil {
					err = os.WriteFile(p.Path(id)+"/f", []byte(id), 0o600)
				}
				if err == nil && i%2 == 1 {
					err = p.Delete(ctx, id)
				}
				if err != nil {
					t.Error(id, err)
				}
			})
		}
		wg.Wait()
		ids, err := p.List(ctx)
		must(t, err)
		if len(ids) != 9 {
			t.Errorf("%d volumes, want base and 8 clones: %v", len(ids), ids)
		}
		if got := read(t, p.Path("base")+"/f"); got != "shared" {
			t.Errorf("base: %q", got)
		}
	})
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	if _, err := disk.Open(t.Context(), disk.Config{Dir: "relative"}); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("relative directory: %v", err)
	}
	if _, err := disk.Open(t.Context(), disk.Config{Dir: t.TempDir(), Backend: "zfs"}); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("unknown backend: %v", err)
	}
	dir := t.TempDir()
	write(t, dir+"/vmdata.img", "not a file system")
	if _, err := disk.Open(t.Context(), disk.Config{Dir: dir}); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("foreign file: %v", err)
	}
	if got := read(t, dir+"/vmdata.img"); got != "not a file system" {
		t.Error("a foreign file was overwritten")
	}
	if _, err := disk.Open(t.Context(), disk.Config{Dir: t.TempDir(), Backend: disk.BackendBtrfs, Size: mib}); !errors.HasCode(err, errors.NoSpace) {
		t.Errorf("too small: %v", err)
	}
}

// The quota groups of removed volumes must not stay in the kernel's books.
func TestQuotaGroupsGo(t *testing.T) {
	t.Parallel()
	p := openPool(t, disk.Config{Dir: t.TempDir(), Backend: disk.BackendBtrfs})
	for i := range 8 {
		must(t, p.Create(t.Context(), fmt.Sprintf("v%d", i), mib))
	}
	for i := range 8 {
		must(t, p.Delete(t.Context(), fmt.Sprintf("v%d", i)))
	}
	must(t, p.Close())
	// The kernel drops subvolumes in its own time; a sync wakes it.
	root := filepath.Dir(filepath.Dir(p.Path("x")))
	for _, what := range []string{"filesystem", "subvolume"} {
		if out, err := exec.Command("btrfs", what, "sync", root).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	must(t, p.Create(t.Context(), "last", mib))
	must(t, p.Delete(t.Context(), "last"))
	must(t, p.Close())
	out, err := exec.Command("btrfs", "qgroup", "show", "--raw", root).CombinedOutput()
	must(t, err)
	if n := strings.Count(string(out), "\n0/"); n > 2 { // the top level's, and the last volume's while the kernel drops it
		t.Errorf("%d quota groups are left:\n%s", n, out)
	}
}

func BenchmarkVolumes(b *testing.B) {
	for _, backend := range []string{disk.BackendXFS, disk.BackendBtrfs} {
		p, err := disk.Open(b.Context(), disk.Config{Dir: b.TempDir(), Backend: backend, AcceptUnenforced: true, Size: 4 << 30})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = errors.Join(p.Close(), p.Unmount(context.Background())) })
		if err := p.Create(b.Context(), "src", 0); err != nil {
			b.Fatal(err)
		}
		for i := range 200 {
			if err := os.WriteFile(fmt.Sprintf("%s/f%d", p.Path("src"), i), make([]byte, 64<<10), 0o600); err != nil {
				b.Fatal(err)
			}
		}
		if err := p.Sync(); err != nil {
			b.Fatal(err)
		}
		step := func(name string, f func(id string) error) {
			b.Run(backend+"/"+name, func(b *testing.B) {
				for i := 0; b.Loop(); i++ {
					if err := f(fmt.Sprintf("%s%d", name, i)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		step("create", func(id string) error { return p.Create(b.Context(), id, 1<<30) })
		step("clone200files", func(id string) error { return p.Clone(b.Context(), "src", id, 1<<30) })
		step("usage", func(string) error { _, err := p.Usage(b.Context(), "src"); return err })
		step("create+delete", func(id string) error {
			return errors.Join(p.Create(b.Context(), "cd"+id[13:], 1<<30), p.Delete(b.Context(), "cd"+id[13:]))
		})
	}
}

// With checksums btrfs would turn direct I/O into cached writes that wait for the disk.
func TestBtrfsKeepsNoChecksumsOfData(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openPool(t, disk.Config{Dir: dir, Backend: disk.BackendBtrfs, AcceptUnenforced: true})
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " "+dir+"/") {
			if !strings.Contains(line, "nodatasum") {
				t.Errorf("mounted as %s", line)
			}
			return
		}
	}
	t.Error("no mount was found")
}
