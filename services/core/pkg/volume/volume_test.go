package volume_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/volume"
)

const limit = 32 << 20

// bed is a volume on a pool of its own, as a guest has it: dir is the directory.
type bed struct {
	*testing.T
	store *volume.Store
	id    domain.ID
	dir   string
	files vmm.VolumeFiles
	ctx   context.Context
	full  bool // the kernel here refuses more than the limit
}

func newBed(t *testing.T) *bed {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := exec.LookPath("mkfs.btrfs"); err != nil {
		t.Skip("no mkfs.btrfs here")
	}
	pool, err := disk.Open(t.Context(), disk.Config{Dir: t.TempDir(), Size: 512 << 20, Backend: disk.BackendBtrfs})
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(pool.Close(), pool.Unmount(context.Background())); err != nil {
			t.Error(err)
		}
	})
	b := &bed{T: t, store: volume.New(pool), id: domain.NewID(), ctx: t.Context(), full: pool.Enforced()}
	b.dir, err = b.store.Make(b.ctx, b.id, limit)
	b.must(err)
	b.files, err = b.store.Open(b.id)
	b.must(err)
	t.Cleanup(func() { _ = b.files.Close() })
	return b
}

func (b *bed) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bed) refused(code errors.Code, err error) {
	b.Helper()
	if errors.CodeOf(err) != code {
		b.Errorf("%v, want %s", err, code)
	}
}

func (b *bed) write(path, text string) vmm.VolumeEntry {
	b.Helper()
	e, err := b.files.Write(b.ctx, path, strings.NewReader(text), vmm.VolumeAttr{}, false)
	b.must(err)
	return e
}

func (b *bed) read(path string) string {
	b.Helper()
	_, r, err := b.files.Read(b.ctx, path)
	b.must(err)
	defer func() { _ = r.Close() }()
	text, err := io.ReadAll(r)
	b.must(err)
	return string(text)
}

func ptr(v uint32) *uint32 { return &v }

func TestFiles(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	if e := b.write("a.txt", "one"); e.Path != "/a.txt" || e.Name != "a.txt" || e.Type != vmm.VolumeFile || e.Size != 3 || e.Mode != 0o644 || e.UID != 1000 || e.GID != 1000 {
		t.Errorf("%+v", e)
	}
	// What a guest says of its file stays when it is written from outside.
	b.must(os.Chown(filepath.Join(b.dir, "a.txt"), 7, 8))
	b.must(os.Chmod(filepath.Join(b.dir, "a.txt"), 0o600))
	if e := b.write("/x/../a.txt", "three"); e.Size != 5 || e.Mode != 0o600 || e.UID != 7 || e.GID != 8 || b.read("//a.txt") != "three" {
		t.Errorf("%+v", e)
	}
	e, err := b.files.Set(b.ctx, "a.txt", vmm.VolumeAttr{Mode: ptr(0o640), UID: ptr(1001)})
	if err != nil || e.Mode != 0o640 || e.UID != 1001 || e.GID != 8 {
		t.Errorf("%+v, %v", e, err)
	}
	for _, a := range []vmm.VolumeAttr{{Mode: ptr(0o10000)}, {UID: ptr(65536)}, {GID: ptr(1 << 31)}} {
		_, err := b.files.Set(b.ctx, "a.txt", a)
		b.refused(errors.InvalidArgument, err)
	}

	_, err = b.files.MakeDir(b.ctx, "d/e/f", vmm.VolumeAttr{}, false)
	b.refused(errors.NotFound, err)
	if e, err := b.files.MakeDir(b.ctx, "d/e/f", vmm.VolumeAttr{Mode: ptr(0o700)}, true); err != nil || e.Type != vmm.VolumeDirectory || e.Mode != 0o700 {
		t.Errorf("%+v, %v", e, err)
	}
	_, err = b.files.MakeDir(b.ctx, "d/e", vmm.VolumeAttr{}, false)
	b.refused(errors.AlreadyExists, err)
	_, err = b.files.MakeDir(b.ctx, "d/e", vmm.VolumeAttr{}, true)
	b.must(err)
	_, err = b.files.MakeDir(b.ctx, "a.txt", vmm.VolumeAttr{}, true)
	b.refused(errors.AlreadyExists, err)
	_, err = b.files.Write(b.ctx, "n/e/w", strings.NewReader("x"), vmm.VolumeAttr{}, false)
	b.refused(errors.NotFound, err)
	_, err = b.files.Write(b.ctx, "n/e/w", strings.NewReader("x"), vmm.VolumeAttr{}, true)
	b.must(err)
	_, err = b.files.Write(b.ctx, "d", strings.NewReader("x"), vmm.VolumeAttr{}, false)
	b.refused(errors.InvalidArgument, err)

	list := func(path string, depth int) (paths []string) {
		t.Helper()
		all, err := b.files.List(b.ctx, path, depth)
		b.must(err)
		for _, e := range all {
			paths = append(paths, e.Path)
		}
		return paths
	}
	if got := list("/", 1); !slices.Equal(got, []string{"/a.txt", "/d", "/n"}) {
		t.Error(got)
	}
	if got := list("", 3); !slices.Equal(got, []string{"/a.txt", "/d", "/d/e", "/d/e/f", "/n", "/n/e", "/n/e/w"}) {
		t.Error(got)
	}
	_, err = b.files.List(b.ctx, "a.txt", 1)
	b.refused(errors.NotFound, err)
	_, err = b.files.List(b.ctx, "/", 0)
	b.refused(errors.InvalidArgument, err)

	b.must(b.files.Remove(b.ctx, "n"))
	b.refused(errors.NotFound, b.files.Remove(b.ctx, "n"))
	b.refused(errors.InvalidArgument, b.files.Remove(b.ctx, "/d/.."))
	for _, path := range []string{"a\x00b", strings.Repeat("a", 300), strings.Repeat("a/", 3000)} {
		_, err := b.files.Stat(b.ctx, path)
		b.refused(errors.InvalidArgument, err)
	}
	// A write that is cut short leaves what was there, and nothing beside it.
	_, err = b.files.Write(b.ctx, "a.txt", io.MultiReader(strings.NewReader("half"), broken{}), vmm.VolumeAttr{}, false)
	if err == nil || b.read("a.txt") != "three" || len(list("/", 1)) != 2 {
		t.Errorf("%v, %v", err, list("/", 1))
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New(errors.Canceled, "it ended early") }

// Nothing that a guest puts into a volume leads out of it.
func TestNothingLeadsOut(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	outside := t.TempDir()
	b.must(os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
	b.must(os.Symlink(outside, filepath.Join(b.dir, "abs")))
	b.must(os.Symlink("../..", filepath.Join(b.dir, "up")))
	b.must(os.Symlink(filepath.Join(outside, "secret"), filepath.Join(b.dir, "file")))
	b.must(unix.Mkfifo(filepath.Join(b.dir, "pipe"), 0o666))
	b.must(unix.Mknod(filepath.Join(b.dir, "socket"), unix.S_IFSOCK|0o666, 0))

	if e, err := b.files.Stat(b.ctx, "file"); err != nil || e.Type != vmm.VolumeSymlink || e.Target != filepath.Join(outside, "secret") {
		t.Errorf("%+v, %v", e, err)
	}
	for _, path := range []string{"abs/secret", "up/x", "file", "pipe", "socket", "/"} {
		_, _, err := b.files.Read(b.ctx, path)
		b.refused(errors.InvalidArgument, err)
		_, err = b.files.Write(b.ctx, path, strings.NewReader("x"), vmm.VolumeAttr{}, false)
		b.refused(errors.InvalidArgument, err)
	}
	_, err := b.files.Write(b.ctx, "abs/new/file", strings.NewReader("x"), vmm.VolumeAttr{}, true)
	b.refused(errors.InvalidArgument, err)
	_, err = b.files.MakeDir(b.ctx, "abs/new", vmm.VolumeAttr{}, true)
	b.refused(errors.InvalidArgument, err)
	_, err = b.files.List(b.ctx, "abs", 1)
	if err == nil {
		t.Error("a directory outside is listed")
	}
	for _, path := range []string{"file", "abs", "pipe"} {
		_, err = b.files.Set(b.ctx, path, vmm.VolumeAttr{Mode: ptr(0o777)})
		b.refused(errors.InvalidArgument, err)
	}
	b.refused(errors.InvalidArgument, b.files.Remove(b.ctx, "abs/secret"))
	if _, err := b.files.Stat(b.ctx, "../../../etc/passwd"); !errors.HasCode(err, errors.NotFound) {
		t.Error(err)
	}
	for _, path := range []string{"abs", "up", "file", "pipe", "socket"} {
		b.must(b.files.Remove(b.ctx, path))
	}
	if text, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(text) != "secret" {
		t.Errorf("%q, %v", text, err)
	}
}

// A guest that swaps a directory for a link while files are written through it
// gets nothing written elsewhere.
func TestSwappedForALink(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	outside := t.TempDir()
	at, link := filepath.Join(b.dir, "d"), filepath.Join(b.dir, "link")
	b.must(os.Mkdir(at, 0o777))
	b.must(os.Symlink(outside, link))
	stop := make(chan struct{})
	var guest sync.WaitGroup
	guest.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = unix.Renameat2(unix.AT_FDCWD, at, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
		}
	})
	for range 300 {
		_, _ = b.files.Write(b.ctx, "d/f", strings.NewReader("x"), vmm.VolumeAttr{}, false)
		_, _ = b.files.Set(b.ctx, "d", vmm.VolumeAttr{Mode: ptr(0o755)})
		_ = b.files.Remove(b.ctx, "d/f")
	}
	close(stop)
	guest.Wait()
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	if !b.full {
		t.Skip("no quotas are enforced here")
	}
	_, err := b.files.Write(b.ctx, "big", io.LimitReader(zeros{}, 2*limit), vmm.VolumeAttr{}, false)
	b.refused(errors.NoSpace, err)
	if all, err := b.files.List(b.ctx, "/", 1); err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
	// Deeper than what is removed or listed from outside.
	deep := b.dir
	for range 100 {
		deep = filepath.Join(deep, "d")
	}
	b.must(os.MkdirAll(deep, 0o755))
	b.refused(errors.TooLarge, b.files.Remove(b.ctx, "d"))
	_, err = b.files.List(b.ctx, "/", 1000)
	b.refused(errors.InvalidArgument, err)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	copy(p, bytes.Repeat([]byte{1, 2, 3, 4}, len(p)/4+1))
	return len(p), nil
}

func TestStore(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.write("kept", "x")
	again, err := b.store.Make(b.ctx, b.id, limit)
	if err != nil || again != b.dir || b.read("kept") != "x" {
		t.Errorf("%s, %v", again, err)
	}
	// Whoever is a user of the host gets no further than to what is around it.
	if info, err := os.Stat(filepath.Dir(b.dir)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if ids, err := b.store.List(b.ctx); err != nil || !slices.Equal(ids, []domain.ID{b.id}) {
		t.Errorf("%v, %v", ids, err)
	}
	b.must(b.store.Delete(b.ctx, b.id))
	b.must(b.store.Delete(b.ctx, b.id))
	if _, err := b.store.Open(b.id); !errors.HasCode(err, errors.NotFound) {
		t.Error(err)
	}
	if ids, err := b.store.List(b.ctx); err != nil || len(ids) > 0 {
		t.Errorf("%v, %v", ids, err)
	}
}
