package disk

import (
	"bytes"
	"encoding/hex"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls and structures of linux/btrfs.h that volumes need.
const (
	btrfsMagic = 0x94

	quotaEnable       = 1 // BTRFS_QUOTA_CTL_ENABLE
	quotaEnableSimple = 4 // BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA, Linux 6.7

	limitMaxReferenced = 1 << 0 // BTRFS_QGROUP_LIMIT_MAX_RFER

	firstFreeObject = 256 // BTRFS_FIRST_FREE_OBJECTID: inode of every subvolume's root
)

type (
	btrfsVolArgs struct { // struct btrfs_ioctl_vol_args
		fd   int64
		name [4088]byte
	}
	btrfsVolArgsV2 struct { // struct btrfs_ioctl_vol_args_v2
		fd      int64
		transid uint64
		flags   uint64
		unused  [4]uint64
		name    [4040]byte
	}
	btrfsQuotaCtl      struct{ cmd, status uint64 }
	btrfsQgroupCreate  struct{ create, qgroupID uint64 }
	btrfsQgroupLimits  struct{ flags, maxRfer, maxExcl, rsvRfer, rsvExcl uint64 }
	btrfsQgroupLimitIn struct {
		qgroupID uint64 // 0: of the subvolume the descriptor is in
		limits   btrfsQgroupLimits
	}
	btrfsInoLookup struct {
		treeID, objectID uint64
		name             [4080]byte
	}
	btrfsFSInfo struct {
		maxID, numDevices uint64
		fsid              [16]byte
		rest              [992]byte
	}
)

// iow and friends are _IOW and so on of asm-generic/ioctl.h, which amd64 and arm64 share.
func ioctlNumber(dir, nr, size uintptr) uintptr { return dir<<30 | size<<16 | btrfsMagic<<8 | nr }

var (
	iocSubvolCreate = ioctlNumber(1, 14, unsafe.Sizeof(btrfsVolArgs{}))
	iocSnapDestroy  = ioctlNumber(1, 15, unsafe.Sizeof(btrfsVolArgs{}))
	iocResize       = ioctlNumber(1, 3, unsafe.Sizeof(btrfsVolArgs{}))
	iocSnapCreateV2 = ioctlNumber(1, 23, unsafe.Sizeof(btrfsVolArgsV2{}))
	iocInoLookup    = ioctlNumber(3, 18, unsafe.Sizeof(btrfsInoLookup{}))
	iocFSInfo       = ioctlNumber(2, 31, unsafe.Sizeof(btrfsFSInfo{}))
	iocQuotaCtl     = ioctlNumber(3, 40, unsafe.Sizeof(btrfsQuotaCtl{}))
	iocQgroupCreate = ioctlNumber(1, 42, unsafe.Sizeof(btrfsQgroupCreate{}))
	iocQgroupLimit  = ioctlNumber(2, 43, unsafe.Sizeof(btrfsQgroupLimitIn{}))
	iocRescanWait   = ioctlNumber(0, 46, 0)
)

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
	runtime.KeepAlive(f)
	if errno != 0 {
		return errno
	}
	return nil
}

func subvolCreate(parent *os.File, name string) error {
	var a btrfsVolArgs
	copy(a.name[:len(a.name)-1], name)
	return ioctl(parent, iocSubvolCreate, unsafe.Pointer(&a))
}

func subvolDestroy(parent *os.File, name string) error {
	var a btrfsVolArgs
	copy(a.name[:len(a.name)-1], name)
	return ioctl(parent, iocSnapDestroy, unsafe.Pointer(&a))
}

func subvolSnapshot(parent, src *os.File, name string) error {
	a := btrfsVolArgsV2{fd: int64(src.Fd())}
	copy(a.name[:len(a.name)-1], name)
	err := ioctl(parent, iocSnapCreateV2, unsafe.Pointer(&a))
	runtime.KeepAlive(src)
	return err
}

// subvolID is the ID of the subvolume that f is in; IDs are not used again.
func subvolID(f *os.File) (uint64, error) {
	a := btrfsInoLookup{objectID: firstFreeObject}
	err := ioctl(f, iocInoLookup, unsafe.Pointer(&a))
	return a.treeID, err
}

func qgroupLimit(subvol *os.File, limit int64) error {
	var a btrfsQgroupLimitIn
	a.limits.flags = limitMaxReferenced
	a.limits.maxRfer = uint64(limit)
	if limit <= 0 {
		// All bits set clears a limit (fs/btrfs/qgroup.c, CLEAR_VALUE).
		a.limits.maxRfer = ^uint64(0)
	}
	return ioctl(subvol, iocQgroupLimit, unsafe.Pointer(&a))
}

func qgroupDestroy(fs *os.File, id uint64) error {
	a := btrfsQgroupCreate{qgroupID: id}
	return ioctl(fs, iocQgroupCreate, unsafe.Pointer(&a))
}

func quotaControl(fs *os.File, cmd uint64) error {
	a := btrfsQuotaCtl{cmd: cmd}
	return ioctl(fs, iocQuotaCtl, unsafe.Pointer(&a))
}

// quotaWait waits for the first count of classic quota groups.
func quotaWait(fs *os.File) error { return ioctl(fs, iocRescanWait, nil) }

// btrfsGrow makes the file system as large as its (only) device.
func btrfsGrow(fs *os.File) error {
	var a btrfsVolArgs
	copy(a.name[:], "max")
	return ioctl(fs, iocResize, unsafe.Pointer(&a))
}

// btrfsUUID is the file system's ID as sysfs spells it.
func btrfsUUID(fs *os.File) (string, error) {
	var a btrfsFSInfo
	if err := ioctl(fs, iocFSInfo, unsafe.Pointer(&a)); err != nil {
		return "", err
	}
	h := []byte(hex.EncodeToString(a.fsid[:]))
	return string(bytes.Join([][]byte{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, []byte("-"))), nil
}
