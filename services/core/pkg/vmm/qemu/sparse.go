package qemu

import (
	"bytes"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// reserve gives a file its length, and the space for it, so that a full disk is
// told of before a guest waits for it.
func reserve(f *os.File, length int64) error {
	if err := f.Truncate(length); err != nil {
		return err
	}
	err := unix.Fallocate(int(f.Fd()), 0, 0, length)
	if err == unix.EOPNOTSUPP {
		return nil
	}
	return os.NewSyscallError("fallocate", err)
}

// punch gives the space back that a file needs for nothing but zeros. Pieces that
// are smaller are left as they are: a file of many pieces is slow to read.
func punch(path string) error {
	const piece = 64 << 10
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buf, zeros := make([]byte, piece), make([]byte, piece)
	var from int64 = -1 // where zeros began
	end := func(at int64) error {
		if from < 0 {
			return nil
		}
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, at-from)
		from = -1
		if err == unix.EOPNOTSUPP {
			return nil
		}
		return os.NewSyscallError("fallocate", err)
	}
	for at := int64(0); ; at += piece {
		n, err := io.ReadFull(f, buf)
		if n == 0 && err == io.EOF {
			return end(at)
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return err
		}
		if bytes.Equal(buf[:n], zeros[:n]) {
			if from < 0 {
				from = at
			}
		} else if err := end(at); err != nil {
			return err
		}
		if n < piece {
			return end(at + int64(n))
		}
	}
}
