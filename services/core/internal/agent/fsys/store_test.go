package fsys

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
)

// stream yields n bytes that depend on a seed.
func stream(seed uint64, n int64) io.Reader {
	var key [32]byte
	key[0] = byte(seed)
	return io.LimitReader(rand.NewChaCha8(key), n)
}

// equal compares two streams.
func equal(t *testing.T, got, want io.Reader) {
	t.Helper()
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); ; {
		n, err := io.ReadFull(got, a)
		m, werr := io.ReadFull(want, b)
		if !bytes.Equal(a[:n], b[:m]) {
			t.Fatalf("the bytes differ after %d", at)
		}
		if at += int64(n); err != nil || werr != nil {
			if !errors.Is(werr, err) {
				t.Fatalf("after %d bytes: %v, want %v", at, err, werr)
			}
			return
		}
	}
}

// directories are one on a file system that is in memory, and the usual one.
func directories(t *testing.T) map[string]string {
	t.Helper()
	dirs := map[string]string{"disk": t.TempDir()}
	if dir, err := os.MkdirTemp("/dev/shm", "fsys"); err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		dirs["memory"] = dir
	}
	return dirs
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestStoreAndSend(t *testing.T) {
	t.Parallel()
	for where, dir := range directories(t) {
		for seed, n := range []int64{0, 1, cachedBytes, cachedBytes + 1, cachedBytes + paceBytes + 3<<20 + 4097} {
			f := create(t, filepath.Join(dir, "f"))
			if err := Store(f, iotest.HalfReader(stream(uint64(seed), n))); err != nil {
				t.Fatalf("%s, %d bytes: %v", where, n, err)
			}
			if info, err := f.Stat(); err != nil || info.Size() != n {
				t.Fatalf("%s: %d bytes of %d, %v", where, info.Size(), n, err)
			}
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			equal(t, f, stream(uint64(seed), n))
			for _, start := range []int64{0, 3} {
				if start > n {
					continue
				}
				r := NewReader(f, n)
				if _, err := r.Seek(start, io.SeekStart); err != nil {
					t.Fatal(err)
				}
				pr, pw := io.Pipe()
				go func() {
					sent, err := Send(pw, r, n)
					if err == nil && sent != n-start {
						err = errors.Plain("the count is wrong")
					}
					_ = pw.CloseWithError(err)
				}()
				want := stream(uint64(seed), n)
				if _, err := io.CopyN(io.Discard, want, start); err != nil {
					t.Fatal(err)
				}
				equal(t, pr, want)
				r.Close()
			}
			_ = f.Close()
		}
	}
}

// What came before the break is there; the break is told.
func TestStoreOfAStreamThatBreaks(t *testing.T) {
	t.Parallel()
	const n = cachedBytes + 5<<20 + 100
	f := create(t, filepath.Join(t.TempDir(), "f"))
	broken := io.MultiReader(stream(1, n), iotest.ErrReader(io.ErrUnexpectedEOF))
	if err := Store(f, broken); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != n {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
}

func TestDirectWritingEndsWhenItIsSlower(t *testing.T) {
	t.Parallel()
	f := create(t, filepath.Join(t.TempDir(), "f"))
	buf, free, err := directBuffer()
	if err != nil {
		t.Fatal(err)
	}
	defer free()
	d := &direct{mode: mode{f: f}} // the cache takes no time at all
	for range paceBytes/directPiece + 1 {
		if _, err := d.Write(buf); err != nil {
			t.Fatal(err)
		}
	}
	if d.mode.direct || !d.ended && !d.mode.never {
		t.Errorf("it goes on: %+v", d)
	}
	d = &direct{mode: mode{f: f}, par: time.Hour}
	for range paceBytes/directPiece + 1 {
		if _, err := d.Write(buf); err != nil {
			t.Fatal(err)
		}
	}
	if d.ended {
		t.Errorf("it ended: %+v", d)
	}
}

// A connection that is gone ends the reading of the file, before the file is closed.
func TestSendToNobody(t *testing.T) {
	t.Parallel()
	f := create(t, filepath.Join(t.TempDir(), "f"))
	const n = cachedBytes + 8<<20
	if err := f.Truncate(n); err != nil {
		t.Fatal(err)
	}
	r := NewReader(f, n)
	defer r.Close()
	gone := errors.Plain("gone")
	if _, err := Send(failing{gone}, r, n); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (w failing) Write([]byte) (int, error) { return 0, w.err }

// A long file that is read leaves the page cache as it is.
func TestReaderKnowsWhatIsInMemory(t *testing.T) {
	t.Parallel()
	f := create(t, filepath.Join(t.TempDir(), "f"))
	const n = cachedBytes + 8<<20
	if err := f.Truncate(n); err != nil { // a hole: no page of it is in memory
		t.Fatal(err)
	}
	r := NewReader(f, n)
	defer r.Close()
	if !r.away(0, directPiece) {
		t.Skip("this file system tells nothing of its pages")
	}
	if _, err := f.ReadAt(make([]byte, directPiece), 1<<20); err != nil {
		t.Fatal(err)
	}
	if r.away(1<<20, directPiece) {
		t.Error("what was just read is said to be away")
	}
	if r.away(n, directAlign) || r.away(0, 2*directPiece) {
		t.Error("more than is known is said to be away")
	}
}

// What there is no room for leaves the file that is there as it was, also where
// there is room for one of the two.
func TestWriteWithoutRoom(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	root, err := osuser.NewDB("/etc").Lookup("root")
	if err != nil {
		t.Fatal(err)
	}
	fs, path := new(FS), filepath.Join(dir, "file")
	write := func(seed uint64, n int64) error { return fs.Write(root, path, nil, stream(seed, n)) }
	if err := write(1, 10_000); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{600_000, 2 << 20} {
		if err := write(2, n); !errors.HasCode(err, errors.NoSpace) {
			t.Errorf("%d bytes: %v", n, err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, f, stream(1, 10_000))
		_ = f.Close()
	}
	for _, n := range []int64{400_000, 5_000, 0, 10_000} { // larger, smaller, nothing
		if err := write(uint64(n), n); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, f, stream(uint64(n), n))
		_ = f.Close()
	}
}
