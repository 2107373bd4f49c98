package execution

import (
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// readBytes is what one read of a pipe takes at most: a pipe's usual capacity.
const readBytes = 64 << 10

// buffers are taken only while there is something to read: a command that
// waits costs none.
var buffers = sync.Pool{New: func() any { b := make([]byte, readBytes); return &b }}

// pump hands what is read from f to sink until end of file, or until it has
// taken what was there when the read deadline passed; done is called then. Of
// a file that stays open the rest is thrown away. It closes f.
func pump(f *os.File, sink func([]byte), done func()) {
	defer func() { _ = f.Close() }()
	err := take(f, readBytes, sink)
	for err == nil {
		err = take(f, readBytes, sink)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		done() // io.EOF; EIO from a terminal whose other end is closed
		return
	}
	_ = f.SetReadDeadline(time.Time{})
	for left := pending(f); left > 0 && take(f, left, func(data []byte) { left -= len(data); sink(data) }) == nil; {
	}
	done()
	for take(f, readBytes, func([]byte) {}) == nil {
	}
}

// take waits until f can be read, reads once, at most limit bytes, and hands
// them to sink.
func take(f *os.File, limit int, sink func([]byte)) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var (
		buf     *[]byte
		n       int
		readErr error
	)
	err = raw.Read(func(fd uintptr) bool {
		buf = buffers.Get().(*[]byte)
		for {
			n, readErr = unix.Read(int(fd), (*buf)[:min(limit, readBytes)])
			if !errors.Is(readErr, unix.EINTR) {
				break
			}
		}
		if errors.Is(readErr, unix.EAGAIN) {
			buffers.Put(buf)
			buf = nil
			return false
		}
		return true
	})
	if buf != nil {
		defer buffers.Put(buf)
	}
	switch {
	case err != nil:
		return err
	case readErr != nil:
		return readErr
	case n <= 0:
		return io.EOF
	}
	sink((*buf)[:n])
	return nil
}

// pending is how many bytes can be read at once.
func pending(f *os.File) int {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	var n int
	err = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }) // FIONREAD by its other name
	if err != nil {
		return 0
	}
	return n
}
