// Package inmemory puts programs into memory, to be run from there.
package inmemory

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Program is a program in memory that nobody can change any more (memfd_create(2),
// F_ADD_SEALS in fcntl(2)). It is asked for as one that may be run, since where
// /proc/sys/vm/memfd_noexec is 1 it may not be otherwise; kernels before 6.3 know no
// such word. Returns an error also where none may be run (2). The file's name is a path
// by which other processes get it.
func Program(name string, r io.Reader) (_ *os.File, err error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if err == unix.EINVAL { //nolint:errorlint // a raw errno
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd))
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if _, err := io.Copy(f, r); err != nil {
		return nil, err
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	return f, os.NewSyscallError("fcntl", err)
}
