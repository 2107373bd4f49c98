package depot

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	// maxLeave is what packing leaves of the disk at most, and otherwise this part
	// of it: VMs write there as well.
	maxLeave  = 2 << 30
	leavePart = 20
	// lookEvery is how many bytes are written between two looks.
	lookEvery = 256 << 10
)

// modest writes to a file for as long as its disk has room for others.
type modest struct {
	f    *os.File
	left int // bytes until it looks again
}

// Write returns NoSpace.
func (m *modest) Write(p []byte) (int, error) {
	if m.left -= len(p); m.left < 0 {
		m.left = lookEvery
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(m.f.Fd()), &st); err != nil {
			return 0, &os.PathError{Op: "statfs", Path: m.f.Name(), Err: err}
		}
		if leave := leaves(st); available(st) < leave {
			return 0, errors.New(errors.NoSpace, "there is too little room on the disk to pack in").
				WithHint("%d MiB are left to others", leave>>20)
		}
	}
	return m.f.Write(p)
}

// leaves is how many bytes of a disk are left to others.
func leaves(st unix.Statfs_t) int64 {
	return int64(min(maxLeave/uint64(st.Bsize), st.Blocks/leavePart)) * st.Bsize //nolint:gosec // a block has a size
}

func available(st unix.Statfs_t) int64 { return int64(st.Bavail) * st.Bsize } //nolint:gosec // a disk is smaller

// Missing is how many bytes a directory's disk lacks for there to be twice the room
// that packing leaves to others; 0: there is that much.
func Missing(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return max(0, 2*leaves(st)-available(st)), nil
}
