package boot

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// enter makes the machine's root this process's, and frees what the initramfs
// held, as switch_root(8) does: it cannot be unmounted.
func enter() error {
	for _, dir := range []string{"dev", "proc", "sys"} {
		at := filepath.Join(newRoot, dir)
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, os.ErrExist) { //nolint:gosec // as in every machine
			return err
		}
		if err := unix.Mount("/"+dir, at, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving /%s: %w", dir, err)
		}
	}
	for _, name := range []string{"/init", "/modules"} {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	return os.Chdir("/")
}

// furnish mounts and makes what programs expect of a machine.
func furnish() error {
	const hidden = unix.MS_NOSUID | unix.MS_NODEV
	for _, m := range []struct {
		at, kind string
		flags    uintptr
		data     string
	}{
		{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "ptmxmode=0666,mode=0620,gid=5"},
		{"/dev/shm", "tmpfs", hidden | unix.MS_NOEXEC, "mode=1777"},
		{"/dev/mqueue", "mqueue", hidden | unix.MS_NOEXEC, ""},
		{"/sys/fs/cgroup", "cgroup2", hidden | unix.MS_NOEXEC, ""},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil { //nolint:gosec // as in every machine
			return err
		}
		// A kernel may be built without one of them.
		if err := mount(m.kind, m.at, m.kind, m.flags, m.data); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	for name, to := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(to, name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	for dir, mode := range map[string]os.FileMode{"/run": 0o755, "/tmp": 0o777 | os.ModeSticky, "/root": 0o700, "/etc": 0o755} {
		err := os.Mkdir(dir, mode)
		if err == nil {
			err = os.Chmod(dir, mode)
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return loopback()
}

// loopback sets the loopback interface up (netdevice(7)).
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	var request struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], "lo")
	request.flags = uint16(net.FlagUp)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}
