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
		leave := min(maxLeave/uint64(st.Bsize), st.Blocks/leavePart) //nolint:gosec // a block has a size
		if st.Bavail < leave {
			return 0, errors.New(errors.NoSpace, "there is too little room on the disk to pack in").
				WithHint("%d MiB are left to others", leave*uint64(st.Bsize)>>20) //nolint:gosec // a block has a size
		}
	}
	return m.f.Write(p)
}
