package boot

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
)

// Where the parts of the root are while it is put together. None of it can be
// reached once the root is in its place.
const (
	lowerDir = "/lower"
	diskDir  = "/disk"
	newRoot  = "/root"
)

// mount is a file system to be mounted.
type mount struct {
	kind, at string
	flags    uintptr
	data     string
}

const sealed = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// early are what the boot itself needs, and what moves to the root with it.
func early() []mount {
	return []mount{
		{"proc", "/proc", sealed, ""},
		{"sysfs", "/sys", sealed, ""},
		{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=755"},
	}
}

// late are those that programs have beside.
func late() []mount {
	return []mount{
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=620,gid=5,ptmxmode=666"},
		{"tmpfs", "/dev/shm", sealed, "mode=1777"},
		{"mqueue", "/dev/mqueue", sealed, ""},
		{"cgroup2", "/sys/fs/cgroup", sealed, "nsdelegate"},
	}
}

func mountAll(root string, list []mount) error {
	for _, m := range list {
		at := root + m.at
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return errors.Wrap(err, errors.Internal, "%s cannot be made", at)
		}
		// One that the kernel has mounted itself is as good (CONFIG_DEVTMPFS_MOUNT).
		if err := unix.Mount(m.kind, at, m.kind, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return errors.Wrap(err, errors.Internal, "%s cannot be mounted at %s", m.kind, at)
		}
	}
	return nil
}

// mountRoot makes the template with the machine's disk on top of it the root.
func (m *Machine) mountRoot(ctx context.Context, line bootline.Line, events *events, t *trace) error {
	for _, d := range line.Drives {
		err := events.await(ctx, "drive "+d.Device, func() (bool, error) {
			_, err := os.Stat("/dev/" + d.Device)
			return err == nil, nil
		})
		if err != nil {
			return err
		}
	}
	t.reach("drives")
	for _, dir := range []string{lowerDir, diskDir, newRoot} {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return errors.Wrap(err, errors.Internal, "%s cannot be made", dir)
		}
	}
	for _, d := range line.Drives {
		var err error
		switch d.Role {
		case bootline.RoleRoot:
			err = m.mountTree(d.Device, lowerDir, 0)
		case bootline.RoleDisk:
			err = m.mountDisk(d.Device)
		}
		if err != nil {
			return err
		}
	}
	if err := overlay(); err != nil {
		return err
	}
	for _, e := range early() {
		at := newRoot + e.at
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return errors.Wrap(err, errors.Internal, "%s cannot be made", e.at)
		}
		if err := unix.Mount(e.at, at, "", unix.MS_MOVE, ""); err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "%s cannot be mounted in the template", e.at)
		}
	}
	if err := enter(); err != nil {
		return err
	}
	if err := mountAll("", late()); err != nil {
		return err
	}
	if err := furnish(); err != nil {
		return err
	}
	for _, d := range line.Drives {
		target, further := bootline.Target(d.Role)
		if !further {
			continue
		}
		show := m.showTree
		if strings.HasPrefix(d.Role, bootline.RoleFile) {
			show = m.showFile
		}
		if err := show(d.Device, target); err != nil {
			return err
		}
	}
	t.reach("root")
	return nil
}

// showTree mounts a further drive.
func (m *Machine) showTree(device, at string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "nothing can be mounted at %s", at)
	}
	return m.mountTree(device, at, unix.MS_NOSUID)
}

// showFile mounts the file that is on a drive of one.
func (m *Machine) showFile(device, at string) error {
	err := os.MkdirAll(path.Dir(at), 0o755)
	if err == nil {
		if _, err = os.Stat(at); errors.Is(err, os.ErrNotExist) {
			err = os.WriteFile(at, nil, 0o644) //nolint:gosec // what is there is seen by all
		}
	}
	if err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "nothing can be mounted at %s", at)
	}
	aside, err := os.MkdirTemp("/dev/shm", "") // in memory, and ours alone as yet
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the drive %s cannot be mounted", device)
	}
	if err := m.mountTree(device, aside, unix.MS_NOSUID); err != nil {
		return err
	}
	if err := unix.Mount(path.Join(aside, bootline.FileName), at, "", unix.MS_BIND, ""); err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "nothing can be mounted at %s", at)
	}
	if err := errors.Join(unix.Unmount(aside, 0), os.Remove(aside)); err != nil {
		return errors.Wrap(err, errors.Internal, "the drive %s cannot be mounted", device)
	}
	return nil
}

// enter makes the new root the root. What is below it has no name any more.
func enter() error {
	if err := os.Chdir(newRoot); err != nil {
		return errors.Wrap(err, errors.Internal, "the root cannot be entered")
	}
	// The old one is memory, which nothing else frees; the agent itself stays as
	// long as it runs.
	_ = os.Remove("/init")
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return errors.Wrap(err, errors.Internal, "the root cannot be moved")
	}
	if err := unix.Chroot("."); err != nil {
		return errors.Wrap(err, errors.Internal, "the root cannot be entered")
	}
	if err := os.Chdir("/"); err != nil {
		return errors.Wrap(err, errors.Internal, "the root cannot be entered")
	}
	return nil
}

// mountTree mounts a drive that is only read.
func (m *Machine) mountTree(device, at string, flags uintptr) error {
	kind, err := kindOf("/dev/" + device)
	if err != nil {
		return err
	}
	if err := m.modules.load(kind); err != nil {
		return err
	}
	if err := unix.Mount("/dev/"+device, at, kind, unix.MS_RDONLY|unix.MS_NODEV|flags, ""); err != nil {
		return errors.Wrap(err, errors.Internal, "the drive %s cannot be mounted at %s", device, at)
	}
	return nil
}

// mountDisk mounts the machine's own drive and keeps hold of it.
func (m *Machine) mountDisk(device string) error {
	if err := m.modules.load("ext4"); err != nil {
		return err
	}
	err := unix.Mount("/dev/"+device, diskDir, "ext4", unix.MS_NOATIME|unix.MS_NODEV, "")
	if err == nil {
		m.disk, err = os.Open(diskDir)
	}
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the machine's disk %s cannot be mounted", device)
	}
	if err := grow("/dev/"+device, m.disk); err != nil {
		return errors.Wrap(err, errors.Internal, "the machine's disk %s cannot be made larger", device)
	}
	return nil
}

// overlay puts the disk on top of the template.
func overlay() error {
	const upper, work = diskDir + "/upper", diskDir + "/work"
	var root unix.Stat_t
	if err := unix.Stat(lowerDir, &root); err != nil {
		return errors.Wrap(err, errors.Internal, "the template cannot be read")
	}
	switch err := os.Mkdir(upper, 0o700); {
	case err == nil:
		// What is made last is what shows that it is whole.
		err := errors.Join(os.Chown(upper, int(root.Uid), int(root.Gid)), unix.Chmod(upper, root.Mode&0o7777))
		if err != nil {
			return errors.Wrap(err, errors.Internal, "the machine's disk cannot be prepared")
		}
	case !errors.Is(err, os.ErrExist):
		return errors.Wrap(err, errors.Internal, "the machine's disk cannot be prepared")
	}
	if err := os.Mkdir(work, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return errors.Wrap(err, errors.Internal, "the machine's disk cannot be prepared")
	}
	// Directories of the template can be renamed.
	err := unix.Mount("overlay", newRoot, "overlay", unix.MS_NOATIME,
		"lowerdir="+lowerDir+",upperdir="+upper+",workdir="+work+",redirect_dir=on,index=off,metacopy=off")
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the machine's disk cannot be put on its template")
	}
	return nil
}

// furnish makes what programs expect and a template may lack.
func furnish() error {
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, os.ErrExist) {
			return errors.Wrap(err, errors.Internal, "%s cannot be made", name)
		}
	}
	for dir, mode := range map[string]os.FileMode{"/etc": 0o755, "/run": 0o755, "/root": 0o700, "/tmp": 0o777 | os.ModeSticky} {
		err := os.Mkdir(dir, mode)
		if err == nil {
			err = os.Chmod(dir, mode) // whatever the umask is
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return errors.Wrap(err, errors.Internal, "%s cannot be made", dir)
		}
	}
	return nil
}

// kindOf tells a drive's file system by its magic number.
func kindOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", errors.Wrap(err, errors.Internal, "the drive %s cannot be read", path)
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 4096)
	if _, err := io.ReadFull(f, head); err != nil {
		return "", errors.Wrap(err, errors.Internal, "the drive %s cannot be read", path)
	}
	little := binary.LittleEndian
	switch {
	case little.Uint32(head[1024:]) == 0xe0f5e1e2:
		return "erofs", nil
	case string(head[:4]) == "hsqs":
		return "squashfs", nil
	case little.Uint16(head[1024+56:]) == 0xef53:
		return "ext4", nil
	}
	return "", errors.New(errors.InvalidArgument, "there is no file system on the drive %s", path)
}
