package disk

import (
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// The XFS quota commands of quotactl(2), for projects (linux/dqblk_xfs.h).
const (
	xqmProject  = 2
	xGetQuota   = 'X'<<8 + 3 // Q_XGETQUOTA
	xSetLimit   = 'X'<<8 + 4 // Q_XSETQLIM
	xGetStatus  = 'X'<<8 + 5 // Q_XGETQSTAT
	cmdTypeBits = 8          // SUBCMDSHIFT

	projectEnforced = 1 << 5 // FS_QUOTA_PDQ_ENFD
	projectFlag     = 1 << 1 // FS_PROJ_QUOTA
	fieldBlockHard  = 1 << 3 // FS_DQ_BHARD
	fieldBlockSoft  = 1 << 2 // FS_DQ_BSOFT
	basicBlock      = 512    // all block counts are in these
)

// fsDiskQuota is struct fs_disk_quota.
type fsDiskQuota struct {
	version, flags                               int8
	fieldMask                                    uint16
	id                                           uint32
	blkHard, blkSoft, inoHard, inoSoft           uint64
	blkCount, inoCount                           uint64
	inoTimer, blkTimer                           int32
	inoWarns, blkWarns                           uint16
	inoTimerHi, blkTimerHi, rtbTimerHi, padding2 int8
	rtbHard, rtbSoft, rtbCount                   uint64
	rtbTimer                                     int32
	rtbWarns                                     uint16
	padding3                                     int16
	padding4                                     [8]byte
}

// fsQuotaStat is struct fs_quota_stat.
type fsQuotaStat struct {
	version  int8
	flags    uint16
	pad      int8
	user     [3]uint64
	group    [3]uint64
	incore   uint32
	timers   [3]int32
	warnings [2]uint16
}

// xfsQuota makes quota calls for the file system that dir is in: by
// descriptor (quotactl_fd, Linux 5.14), or else by a device node of its own.
type xfsQuota struct {
	dir    string
	device string // empty: by descriptor
}

// openXFSQuota checks that project limits are enforced in root.
func openXFSQuota(root string) (*xfsQuota, error) {
	q := &xfsQuota{dir: root}
	var st fsQuotaStat
	err := q.call(xGetStatus, 0, unsafe.Pointer(&st))
	if err == unix.ENOSYS { //nolint:errorlint // a raw errno
		if q.device, err = quotaDevice(root); err != nil {
			return nil, err
		}
		err = q.call(xGetStatus, 0, unsafe.Pointer(&st))
	}
	if err != nil {
		if q.device != "" {
			err = errors.Join(err, os.Remove(q.device))
		}
		return nil, err
	}
	if st.flags&projectEnforced == 0 {
		return nil, errors.Plain("mounted without prjquota")
	}
	return q, nil
}

// quotaDevice makes a node for the block device below dir; quotactl(2) wants a path.
func quotaDevice(dir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", err
	}
	node := filepath.Join(dir, ".device")
	if err := os.Remove(node); err != nil && !os.IsNotExist(err) {
		return "", err
	}
	return node, unix.Mknod(node, unix.S_IFBLK|0o600, int(st.Dev))
}

func (q *xfsQuota) call(command uintptr, id uint32, arg unsafe.Pointer) error {
	command = command<<cmdTypeBits | xqmProject
	var errno unix.Errno
	if q.device != "" {
		path, err := unix.BytePtrFromString(q.device)
		if err != nil {
			return err
		}
		_, _, errno = unix.Syscall6(unix.SYS_QUOTACTL, command, uintptr(unsafe.Pointer(path)), uintptr(id), uintptr(arg), 0, 0)
	} else {
		f, err := os.Open(q.dir)
		if err != nil {
			return err
		}
		defer f.Close()
		_, _, errno = unix.Syscall6(unix.SYS_QUOTACTL_FD, f.Fd(), command, uintptr(id), uintptr(arg), 0, 0)
		runtime.KeepAlive(f)
	}
	if errno != 0 {
		return errno
	}
	return nil
}

func (q *xfsQuota) get(project uint32) (fsDiskQuota, error) {
	var d fsDiskQuota
	err := q.call(xGetQuota, project, unsafe.Pointer(&d))
	if err == unix.ENOENT || err == unix.ESRCH { //nolint:errorlint // a raw errno; nothing was ever charged to it
		return fsDiskQuota{}, nil
	}
	return d, err
}

func (q *xfsQuota) inUse(project uint32) (bool, error) {
	d, err := q.get(project)
	return d.blkCount != 0 || d.inoCount != 0 || d.blkHard != 0, err
}

func (q *xfsQuota) usage(project uint32) (Usage, error) {
	d, err := q.get(project)
	return Usage{Used: int64(d.blkCount) * basicBlock, Limit: int64(d.blkHard) * basicBlock}, err
}

// setLimit sets the hard and the soft limit; 0 removes them.
func (q *xfsQuota) setLimit(project uint32, limit int64) error {
	blocks := uint64(limit+basicBlock-1) / basicBlock
	if limit <= 0 {
		blocks = 0
	}
	d := fsDiskQuota{version: 1, flags: projectFlag, fieldMask: fieldBlockHard | fieldBlockSoft, id: project, blkHard: blocks, blkSoft: blocks}
	return q.call(xSetLimit, project, unsafe.Pointer(&d))
}
