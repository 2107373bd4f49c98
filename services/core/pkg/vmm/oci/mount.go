package oci

import (
	"fmt"
	"os"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/inside"
	"golang.org/x/sys/unix"
)

// mappedTree is a detached clone of the mount that path is in, from path down,
// through which IDs 0.. on disk are seen as the user namespace's on the host
// (mount_setattr(2), MOUNT_ATTR_IDMAP). It is gone when the file is closed and
// nothing was made of it.
func mappedTree(path, userNS string) (*os.File, error) {
	ns, err := os.Open(userNS)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	tree := os.NewFile(uintptr(fd), path)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		tree.Close()
		return nil, &os.PathError{Op: "mount_setattr", Path: path, Err: err}
	}
	return tree, nil
}

// plainTree is a detached clone of the mount that path is in, as it is.
func plainTree(path string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// attachTree mounts a detached tree at target.
func attachTree(tree *os.File, target string) error {
	return unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// nullDevice opens a null device (null(4)) that is nobody else's, on a file
// system of its own that is gone with it. Runtimes give the streams that they
// are handed to the machine's root (crun does, runc spares /dev/null), and
// whoever owns the host's /dev/null can close it to everybody.
func nullDevice() (*os.File, error) {
	const name, major, minor = "null", 1, 3
	ctx, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(ctx)
	if err := unix.FsconfigCreate(ctx); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	mount, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(mount)
	if err := unix.Mknodat(mount, name, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return nil, os.NewSyscallError("mknodat", err)
	}
	fd, err := unix.Openat(mount, name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// overlay is what an overlay mount is made of. Directories may be on detached
// mounts, as /proc/self/fd/N/….
type overlay struct {
	lower, upper, work string
	source             string // shown in mount tables
	owner              network.Attachment
}

// mount makes the mount, which is not attached anywhere yet: it is gone when
// the file is closed and nothing was made of it. Overlayfs makes its own files (work directories,
// whiteouts) as whoever mounted it, and on a mapped upper layer only IDs of the
// range exist; so this is done as the machine's root as far as files go, with
// the host's capabilities, on a thread that ends afterwards. Before all else
// that thread does what set says, if anything.
func (o overlay) mount(set func() error) (tree *os.File, err error) {
	err = onOwnThread(func() error {
		if set != nil {
			if err := set(); err != nil {
				return err
			}
		}
		if err := actAs(o.owner.IDBase); err != nil {
			return err
		}
		fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
		if err != nil {
			return fmt.Errorf("fsopen: %w", err)
		}
		defer unix.Close(fs)
		for _, option := range [][2]string{
			{"source", o.source},
			{"lowerdir", o.lower}, {"upperdir", o.upper}, {"workdir", o.work},
			// Directories of the template can be renamed; files are one device.
			{"redirect_dir", "on"}, {"xino", "auto"},
			// Layers are shared and moved: nothing that ties them together.
			{"index", "off"}, {"metacopy", "off"},
		} {
			if err := unix.FsconfigSetString(fs, option[0], option[1]); err != nil {
				return fmt.Errorf("%s: %w%s", option[0], err, complaints(fs))
			}
		}
		if err := unix.FsconfigCreate(fs); err != nil {
			return fmt.Errorf("overlay: %w%s", err, complaints(fs))
		}
		mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("fsmount: %w", err)
		}
		tree = os.NewFile(uintptr(mnt), o.source)
		return nil
	})
	return tree, fail(err, "cannot mount the machine's root")
}

// complaints reads the kernel's messages about a mount under way.
func complaints(fs int) string {
	var all strings.Builder
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(fs, buf)
		if err != nil || n <= 0 {
			return all.String()
		}
		all.WriteString("; " + strings.TrimSpace(string(buf[:n])))
	}
}

// onOwnThread runs f on a thread whose credentials and namespaces it may
// change: the thread ends with it.
func onOwnThread(f func() error) error { return inside.OwnThread(f) }

// actAs makes the calling thread's files belong to an ID of a machine's range
// while it keeps its capabilities, which setfsuid(2) would take away.
func actAs(id uint32) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	// The calls return the previous ID, or the one in force when they fail.
	for _, call := range []uintptr{unix.SYS_SETFSGID, unix.SYS_SETFSUID} {
		_, _, _ = unix.RawSyscall(call, uintptr(id), 0, 0)
		if now, _, _ := unix.RawSyscall(call, ^uintptr(0), 0, 0); uint32(now) != id {
			return errors.Plain("cannot take on the machine's IDs")
		}
	}
	if err := unix.Capset(&header, &caps[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}

// unmountAll lets go of everything mounted at a place, now for new users and
// as soon as the last old one leaves. Nothing mounted there is success.
func unmountAll(target string) error {
	for {
		switch err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err {
		case nil:
		case unix.EINVAL, unix.ENOENT:
			return nil
		default:
			return fail(err, "cannot unmount the machine's root")
		}
	}
}
