package disk

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"unsafe"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/diskroom"
	"golang.org/x/sys/unix"
)

const (
	maxDefaultSize = 1 << 40
	// minSize is what mkfs.xfs asks for (300 MB) with some room.
	minSize = 512 << 20
)

// format makes the volume file. It is made under another name, tried with a
// real mount, and renamed last: a crash leaves no file that half works.
func (p *Pool) format(ctx context.Context, image string) error {
	size, err := p.size()
	if err != nil {
		return err
	}
	kinds := []string{BackendXFS, BackendBtrfs}
	if p.cfg.Backend != "" {
		kinds = []string{p.cfg.Backend}
	}
	var reasons []error
	for _, kind := range kinds {
		if err := p.formatAs(ctx, kind, image+".new", size); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.HasCode(err, errors.NoSpace) {
				return err
			}
			p.log.Info("volumes cannot be kept on this file system here", "kind", kind, "reason", err)
			reasons = append(reasons, err)
			continue
		}
		if err := os.Rename(image+".new", image); err != nil {
			return fail(err, "cannot name the volume file")
		}
		return syncDir(p.cfg.Dir)
	}
	return errors.Wrap(errors.Join(reasons...), errors.Unsupported, "this host has no file system with reflink and quotas for volumes").
		WithHint("install xfsprogs or btrfs-progs, or put the data directory on an XFS mounted with prjquota")
}

// size is how large a new file shall be.
func (p *Pool) size() (int64, error) {
	size := p.cfg.Size
	if size == 0 {
		var st unix.Statfs_t
		if err := unix.Statfs(p.cfg.Dir, &st); err != nil {
			return 0, fail(err, "cannot read the data directory's free space")
		}
		size = min(int64(st.Bavail)*int64(st.Bsize)/5*4, maxDefaultSize) //nolint:unconvert // Bsize differs by architecture
	}
	size = size >> 20 << 20
	if size < minSize {
		return 0, errors.New(errors.NoSpace, "volumes need at least %d MiB", minSize>>20)
	}
	return size, nil
}

func (p *Pool) formatAs(ctx context.Context, kind, file string, size int64) (err error) {
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		return err
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file))
		}
	}()
	err = f.Truncate(size)
	if err == nil && p.cfg.Reserve {
		err = reserve(f, size)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	commands := map[string][]string{
		// The loop device has 4096 byte sectors: a smaller sector would not mount.
		BackendXFS:   {"mkfs.xfs", "-q", "-K", "-s", "size=4096", "-m", "reflink=1", file},
		BackendBtrfs: {"mkfs.btrfs", "-q", "-K", "-m", "single", file},
	}
	cmd := exec.CommandContext(ctx, commands[kind][0], commands[kind][1:]...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Wrap(err, errors.Unsupported, "%s failed: %s", commands[kind][0], clip(out))
	}
	return p.try(ctx, file)
}

// reserve takes the room of a whole file from the file system that it is on. A
// file system in a file that cannot be written because the disk around it is
// full gives up, and every volume in it with it; one whose room is reserved
// never meets that. Where a file system cannot reserve, the file stays sparse.
func reserve(f *os.File, size int64) error {
	return fail(diskroom.Reserve(f, size), "cannot reserve the room for the volumes")
}

// reserved reports whether a file has all of its room.
func reserved(info os.FileInfo) bool { return allocated(info) >= info.Size() }

// allocated is how much room a file has.
func allocated(info os.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return 0
}

func enlarge(file string, size int64, whole bool) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if whole {
		if err := reserve(f, size); err != nil {
			return err
		}
	}
	return f.Truncate(size)
}

// try mounts the new file aside and opens it as a pool would.
func (p *Pool) try(ctx context.Context, file string) error {
	dir, err := os.MkdirTemp(p.cfg.Dir, ".vmdata-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := mountImage(ctx, file, dir); err != nil {
		return err
	}
	trial := Pool{cfg: p.cfg, root: dir}
	_, err = trial.open(true)
	return errors.Join(err, unmount(ctx, dir))
}

func clip(out []byte) string {
	const most = 400
	if len(out) > most {
		out = out[len(out)-most:]
	}
	return string(out)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fail(err, "cannot open the data directory")
	}
	defer d.Close()
	return fail(d.Sync(), "cannot write the data directory")
}

// grow makes a mounted file as large as configured; files never shrink.
func (p *Pool) grow() error {
	if p.image == "" || p.cfg.Size == 0 {
		return nil
	}
	st, err := os.Stat(p.image)
	if err != nil {
		return fail(err, "cannot read the volume file")
	}
	if size, err := p.size(); err != nil || size <= st.Size() {
		return err
	} else if err := enlarge(p.image, size, reserved(st)); err != nil {
		return fail(err, "cannot grow the volume file")
	}
	device, err := deviceOf(p.image)
	if err != nil {
		return fail(err, "cannot find the volumes' loop device")
	}
	defer device.Close()
	if err := unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fail(err, "cannot grow the loop device")
	}
	root, err := os.Open(p.root)
	if err != nil {
		return fail(err, "cannot open the volumes")
	}
	defer root.Close()
	kind, err := imageKind(p.image)
	if err != nil {
		return err
	}
	if kind == BackendBtrfs {
		return fail(btrfsGrow(root), "cannot grow the volumes")
	}
	return fail(xfsGrow(root, device), "cannot grow the volumes")
}

// deviceOf opens the loop device that the file is attached to. Returns NotFound.
func deviceOf(image string) (*os.File, error) {
	links, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var want unix.Stat_t
	if err := unix.Stat(image, &want); err != nil {
		return nil, err
	}
	for _, link := range links {
		dev, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(filepath.Dir(link))), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		info, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
		if err == nil && info.Inode == want.Ino && info.Device == want.Dev {
			return dev, nil
		}
		dev.Close()
	}
	return nil, errors.New(errors.NotFound, "no loop device holds %s", filepath.Base(image))
}

// xfsGeometry is struct xfs_fsop_geom_v1 and xfsGrowData struct
// xfs_growfs_data of xfs/xfs_fs.h.
type (
	xfsGeometry struct {
		blockSize, rtExtSize, agBlocks, agCount, logBlocks uint32
		sectSize, inodeSize, imaxPct                       uint32
		dataBlocks, rtBlocks, rtExtents, logStart          uint64
		uuid                                               [16]byte
		sunit, swidth                                      uint32
		version                                            int32
		flags, logSectSize, rtSectSize, dirBlockSize       uint32
	}
	xfsGrowData struct {
		newBlocks uint64
		imaxPct   uint32
	}
)

const (
	iocXFSGeometryV1 = 0x80705864 // XFS_IOC_FSGEOMETRY_V1: _IOR('X', 100, 112 bytes)
	iocXFSGrowData   = 0x4010586e // XFS_IOC_FSGROWFSDATA: _IOW('X', 110, 16 bytes)
)

func xfsGrow(root, device *os.File) error {
	var g xfsGeometry
	if err := ioctl(root, iocXFSGeometryV1, unsafe.Pointer(&g)); err != nil {
		return err
	}
	end, err := device.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	grow := xfsGrowData{newBlocks: uint64(end) / uint64(g.blockSize), imaxPct: g.imaxPct}
	return ioctl(root, iocXFSGrowData, unsafe.Pointer(&grow))
}
