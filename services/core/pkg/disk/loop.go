package disk

import (
	"context"
	"fmt"
	"os"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// attachLoop gives a file a block device (loop(4)). The device frees itself
// when the last user is gone (LO_FLAGS_AUTOCLEAR), so a crash between here and
// the mount leaves nothing. The file returned keeps the device until closed.
func attachLoop(ctx context.Context, image string) (*os.File, error) {
	backing, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "this host has no loop devices")
	}
	defer control.Close()
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		dev, err := openLoop(n)
		if err != nil {
			return nil, err
		}
		err = configureLoop(dev, backing)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if err != unix.EBUSY { //nolint:errorlint // a raw errno; EBUSY: another process took it first
			return nil, err
		}
	}
}

// openLoop opens /dev/loopN, made here where no device manager does it.
func openLoop(n int) (*os.File, error) {
	path := fmt.Sprintf("/dev/loop%d", n)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if os.IsNotExist(err) {
		const loopMajor = 7
		if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(loopMajor, uint32(n)))); err != nil && err != unix.EEXIST {
			return nil, err
		}
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	return f, err
}

// configureLoop prefers direct I/O, so that blocks are not cached twice, and
// does without where the file below cannot.
func configureLoop(dev, backing *os.File) error {
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: 4096}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	copy(config.Info.File_name[:len(config.Info.File_name)-1], backing.Name())
	err := unix.IoctlLoopConfigure(int(dev.Fd()), &config)
	if err == unix.EINVAL {
		config.Size = 0
		config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
	}
	if err != unix.EINVAL && err != unix.ENOTTY {
		return err
	}
	// Before Linux 5.8 there is no LOOP_CONFIGURE.
	if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_FD, int(backing.Fd())); err != nil {
		return err
	}
	info := config.Info
	if err := unix.IoctlLoopSetStatus64(int(dev.Fd()), &info); err != nil {
		return errors.Join(err, unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0))
	}
	return nil
}
