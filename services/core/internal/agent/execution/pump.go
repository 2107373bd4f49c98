package execution

import (
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	// readBytes is what one read of a pipe takes at most: a pipe's usual capacity.
	readBytes = 64 << 10
	// bulkBytes is the same once a command has filled its pipe.
	bulkBytes = 256 << 10
	// pipeBytes is the capacity that such a pipe is given: the command writes on
	// while what it wrote is on its way.
	pipeBytes = 1 << 20
)

// Buffers are taken only while there is something to read: a command that
// waits costs none.
var (
	buffers     = sync.Pool{New: func() any { b := make([]byte, readBytes); return &b }}
	bulkBuffers = sync.Pool{New: func() any { b := make([]byte, bulkBytes); return &b }}
)

// pump hands what is read from f to sink until end of file, or until it has
// taken what was there when the read deadline passed; done is called then. Of
// a file that stays open the rest is thrown away. It closes f.
func pump(f *os.File, sink func([]byte), done func()) {
	defer func() { _ = f.Close() }()
	limit, pool := readBytes, &buffers
	full := false
	var err error
	for err == nil {
		err = take(f, pool, limit, func(data []byte) { full = len(data) == limit; sink(data) })
		if full && limit < bulkBytes {
			widen(f)
			limit, pool = bulkBytes, &bulkBuffers
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		done() // io.EOF; EIO from a terminal whose other end is closed
		return
	}
	_ = f.SetReadDeadline(time.Time{})
	for left := pending(f); left > 0 && take(f, &buffers, min(left, readBytes), func(data []byte) { left -= len(data); sink(data) }) == nil; {
	}
	done()
	for take(f, &buffers, readBytes, func([]byte) {}) == nil {
	}
}

// widen gives a pipe more room. A terminal has none to give, and the system may
// refuse: then it stays as it is.
func widen(f *os.File) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) })
	}
}

// take waits until f can be read, reads once, at most limit bytes, into a
// buffer of the pool, and hands them to sink.
func take(f *os.File, pool *sync.Pool, limit int, sink func([]byte)) error {
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
		buf = pool.Get().(*[]byte)
		for {
			n, readErr = unix.Read(int(fd), (*buf)[:limit])
			if !errors.Is(readErr, unix.EINTR) {
				break
			}
		}
		if errors.Is(readErr, unix.EAGAIN) {
			pool.Put(buf)
			buf = nil
			return false
		}
		return true
	})
	if buf != nil {
		defer pool.Put(buf)
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
