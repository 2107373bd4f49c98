package fsys

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Reader reads an open file. Of one that is longer than cachedBytes it takes
// from the page cache what is there, and brings nothing more into it.
type Reader struct {
	mode mode
	at   int64
	pages
}

// NewReader makes a reader of a file that stands at its start. Close the
// reader before the file.
func NewReader(f *os.File, size int64) *Reader {
	r := &Reader{mode: mode{f: f}}
	if size > cachedBytes {
		r.pages = pagesOf(f, size)
	}
	return r
}

// Close leaves the file open.
func (r *Reader) Close() { r.unmap() }

// Seek implements io.Seeker.
func (r *Reader) Seek(offset int64, whence int) (at int64, err error) {
	r.at, err = r.mode.f.Seek(offset, whence)
	return r.at, err
}

func (r *Reader) Read(p []byte) (n int, err error) {
	defer func() { r.at += int64(n) }()
	if err := r.mode.set(r.fits(p) && r.away(r.at, len(p))); err != nil {
		return 0, err
	}
	n, err = r.mode.f.Read(p)
	if r.mode.direct && errors.Is(err, unix.EINVAL) {
		r.mode.never = true
		if err := r.mode.set(false); err != nil {
			return 0, err
		}
		return r.mode.f.Read(p)
	}
	return n, err
}

// fits reports whether direct I/O could read into p.
func (r *Reader) fits(p []byte) bool {
	return len(p) > 0 && len(p)%directAlign == 0 && r.at%directAlign == 0 && uintptr(unsafe.Pointer(&p[0]))%directAlign == 0
}

// pages tells which parts of a file are in the page cache. The mapping is never
// read from: cachestat(2) would do without, but knows nothing of what an
// overlay's files have below.
type pages struct{ mapped []byte }

func pagesOf(f *os.File, size int64) pages {
	raw, err := f.SyscallConn()
	if err != nil {
		return pages{}
	}
	var p pages
	_ = raw.Control(func(fd uintptr) {
		if m, err := unix.Mmap(int(fd), 0, int(size), unix.PROT_READ, unix.MAP_SHARED); err == nil {
			p.mapped = m
		}
	})
	return p
}

func (p *pages) unmap() {
	if p.mapped != nil {
		_ = unix.Munmap(p.mapped)
		p.mapped = nil
	}
}

// away reports whether most of a range, at most a piece, is not in the page
// cache. What is not known is said to be there.
func (p *pages) away(at int64, n int) bool {
	if n > directPiece || at+int64(n) > int64(len(p.mapped)) {
		return false
	}
	var there [directPiece / directAlign]byte // by page; there are none smaller
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&p.mapped[at])), uintptr(n), uintptr(unsafe.Pointer(&there)))
	if errno != 0 {
		return false
	}
	size := os.Getpagesize()
	count, all := 0, (n+size-1)/size
	for _, b := range there[:all] {
		count += int(b & 1)
	}
	return count < all/2
}
