package fsys

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	directPiece = 1 << 20 // large, because each one waits for the disk
	directAlign = 4 << 10 // of lengths, offsets and memory: what every disk takes
)

// directBuffer allocates memory that direct I/O can use. free gives it back at once.
func directBuffer() (buf []byte, free func(), err error) {
	// Mapped memory begins at a page.
	buf, err = unix.Mmap(-1, 0, directPiece, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	return buf, func() { _ = unix.Munmap(buf) }, err
}

// mode switches a file to direct I/O, which goes past the page cache, and back.
type mode struct {
	f      *os.File
	direct bool
	never  bool // the file system has none
}

// set does nothing where there is no direct I/O.
func (m *mode) set(direct bool) error {
	if direct == m.direct || direct && m.never {
		return nil
	}
	raw, err := m.f.SyscallConn()
	if err != nil {
		return err
	}
	var refused error
	err = raw.Control(func(fd uintptr) { refused = setDirect(fd, direct) })
	switch {
	case err == nil && refused == nil:
		m.direct = direct
	case direct:
		m.never = true
		return nil
	}
	return errors.Join(err, refused)
}

func setDirect(fd uintptr, direct bool) error {
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	flags &^= unix.O_DIRECT
	if direct {
		flags |= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(fd, unix.F_SETFL, flags)
	return err
}
