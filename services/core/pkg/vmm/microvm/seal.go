package microvm

import (
	"os"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"golang.org/x/sys/unix"
)

// seal makes a saved memory one that nobody writes to any more, and that every
// monitor which is shown it can read. Those who are not cannot come to it: the
// directory is root's. A monitor that could write in there may have put links,
// pipes or devices in place of files: none is followed or opened for more than
// to look at it. Returns GuestFault for what is no file.
func seal(dir string) error {
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fault.Of(err, "cannot keep the memory")
	}
	defer d.Close()
	// First of all nobody changes it any more.
	if err := errors.Join(d.Chown(0, 0), d.Chmod(0o700)); err != nil {
		return fault.Of(err, "cannot keep the memory")
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return fault.Of(err, "cannot keep the memory")
	}
	for _, name := range names {
		if err := sealFile(d, name); err != nil {
			return fault.Of(err, "cannot keep the memory")
		}
	}
	return nil
}

func sealFile(dir *os.File, name string) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == unix.ELOOP || err == unix.ENXIO { //nolint:errorlint // raw errnos: a link, a socket
		return errors.New(errors.GuestFault, "the monitor left something that is not a file: %q", name)
	} else if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		return errors.New(errors.GuestFault, "the monitor left something that is not a file: %q", name)
	}
	return errors.Join(f.Chown(0, 0), f.Chmod(0o444))
}
