// Package diskroom takes room of a file system for a file before it is written.
package diskroom

import (
	"os"

	"golang.org/x/sys/unix"
)

// Reserve takes the room for a file's first size bytes, which may lie behind its
// end: it is that long then. Where a file system cannot reserve, nothing is
// taken (EOPNOTSUPP, fallocate(2)). Returns unix.ENOSPC, and takes nothing, when the
// file system has less: asked for more than there is it would give all it has
// before it says so, and nobody else has any until that is given back.
func Reserve(f *os.File, size int64) error {
	var file unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &file); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	const block = 512                                                       // of st_blocks, stat(2)
	known := fs.Blocks > 0                                                  // a tmpfs without a limit says nothing (tmpfs(5))
	if known && size-file.Blocks*block > int64(fs.Bavail)*int64(fs.Bsize) { //nolint:unconvert // they differ by architecture
		return unix.ENOSPC
	}
	for {
		switch err := unix.Fallocate(int(f.Fd()), 0, 0, size); err { //nolint:errorlint // a raw errno
		case unix.EINTR:
		case unix.EOPNOTSUPP, unix.ENOSYS:
			return nil
		default:
			return os.NewSyscallError("fallocate", err)
		}
	}
}
