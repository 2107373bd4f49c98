package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
)

// Where things are in the initramfs.
const (
	newRoot  = "/new"  // the machine's root
	lowerDir = "/root" // the template's
	diskDir  = "/disk" // the machine's own disk
)

// mountDrives puts the machine's root together: its own disk on top of the
// template's root (Documentation/filesystems/overlayfs.rst), and further trees in it.
func mountDrives(drives []bootline.Drive) error {
	for _, dir := range []string{newRoot, lowerDir, diskDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as a root is
			return err
		}
	}
	var mounts []bootline.Drive
	for _, d := range drives {
		var err error
		switch d.Role {
		case bootline.RoleRoot:
			err = mountTree(d.Device, lowerDir)
		case bootline.RoleDisk:
			err = mount("/dev/"+d.Device, diskDir, "ext4", unix.MS_NOATIME, "")
		default:
			mounts = append(mounts, d)
		}
		if err != nil {
			return err
		}
	}
	if err := overlay(); err != nil {
		return err
	}
	for _, d := range mounts {
		// The template's links are followed within it, not out of it: there is nothing else yet.
		at := filepath.Join(newRoot, strings.TrimPrefix(d.Role, bootline.RoleMount))
		if err := os.MkdirAll(at, 0o755); err != nil { //nolint:gosec // for all of the machine
			return err
		}
		if err := mountTree(d.Device, at); err != nil {
			return err
		}
	}
	return nil
}

func overlay() error {
	upper, work := diskDir+"/upper", diskDir+"/work"
	if err := os.Mkdir(work, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	switch err := os.Mkdir(upper, 0o700); {
	case err == nil:
		if err := sameOwner(lowerDir, upper); err != nil {
			return err
		}
	case !errors.Is(err, os.ErrExist):
		return err
	}
	return mount("overlay", newRoot, "overlay", unix.MS_NOATIME, "lowerdir="+lowerDir+",upperdir="+upper+",workdir="+work)
}

// sameOwner gives a directory the owner and mode of another.
func sameOwner(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return &os.PathError{Op: "stat", Path: from, Err: err}
	}
	if err := unix.Chown(to, int(st.Uid), int(st.Gid)); err != nil {
		return &os.PathError{Op: "chown", Path: to, Err: err}
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: to, Err: err}
	}
	return nil
}

// mountTree mounts a tree that is only read.
func mountTree(device, at string) error {
	var err error
	for _, kind := range []string{"erofs", "squashfs", "ext4"} {
		err = mount("/dev/"+device, at, kind, unix.MS_RDONLY|unix.MS_NODEV, "")
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) { // neither another kind nor unknown here
			return err
		}
	}
	return err
}

func mount(source, at, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, at, kind, flags, data); err != nil {
		return fmt.Errorf("mounting %s at %s as %s: %w", source, at, kind, err)
	}
	return nil
}
