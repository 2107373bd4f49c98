package disk

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"unsafe"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// xfsBackend keeps each volume in a directory with a project ID of its own
// (xfs_quota(8), "Directory tree quota"): whatever is made below inherits it,
// and the project's block limit is the volume's.
type xfsBackend struct {
	root  string
	quota *xfsQuota // nil: this kernel or mount has no project quotas
}

// limitAttr keeps the limit where quotas cannot.
const limitAttr = "trusted.aetherium.limit"

// newXFS takes the XFS at root. Returns Unsupported when it cannot share
// blocks, or has no project quotas and acceptUnenforced is false.
func newXFS(root string, acceptUnenforced bool) (*xfsBackend, error) {
	if err := probeReflink(root); err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "this XFS cannot share blocks (made without reflink)")
	}
	b := &xfsBackend{root: root}
	quota, err := openXFSQuota(root)
	switch {
	case err == nil:
		b.quota = quota
	case !acceptUnenforced:
		return nil, errors.Wrap(err, errors.Unsupported, "this XFS has no project quotas")
	}
	return b, nil
}

func (b *xfsBackend) name() string   { return BackendXFS }
func (b *xfsBackend) enforced() bool { return b.quota != nil }
func (b *xfsBackend) sweep() error   { return nil }

// reclaim has the blocks of removed files freed and discarded, which XFS does
// behind those who removed them.
func (b *xfsBackend) reclaim(root *os.File) (bool, error) {
	return true, unix.Syncfs(int(root.Fd()))
}

func (b *xfsBackend) create(dir string, limit int64) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if b.quota != nil {
		project, err := b.freeProject()
		if err != nil {
			return err
		}
		if err := setProject(dir, project); err != nil {
			return err
		}
	}
	return b.setLimit(dir, limit)
}

func (b *xfsBackend) clone(ctx context.Context, src, dst string, limit int64) error {
	// Unlimited while copying: the copy may be larger than what it may grow to.
	if err := b.create(dst, 0); err != nil {
		return err
	}
	if err := cloneTree(ctx, src, dst); err != nil {
		return err
	}
	return b.setLimit(dst, limit)
}

func (b *xfsBackend) remove(dir string) error {
	var project uint32
	if b.quota != nil {
		project, _ = projectOf(dir) // 0 when it is half made: then there is no limit to drop
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if project != 0 {
		return b.quota.setLimit(project, 0)
	}
	return nil
}

func (b *xfsBackend) setLimit(dir string, limit int64) error {
	if b.quota == nil {
		return unix.Setxattr(dir, limitAttr, strconv.AppendInt(nil, limit, 10), 0)
	}
	project, err := projectOf(dir)
	if err != nil {
		return err
	}
	return b.quota.setLimit(project, limit)
}

func (b *xfsBackend) usage(dir string) (Usage, error) {
	if b.quota == nil {
		return walkUsage(dir)
	}
	project, err := projectOf(dir)
	if err != nil {
		return Usage{}, err
	}
	return b.quota.usage(project)
}

// freeProject picks a project ID that nothing is charged to. IDs are random,
// so that no counter has to be kept and shared between processes.
func (b *xfsBackend) freeProject() (uint32, error) {
	for {
		var raw [4]byte
		_, _ = rand.Read(raw[:])
		id := binary.LittleEndian.Uint32(raw[:]) &^ (1 << 31)
		if id == 0 { // the project of everything else
			continue
		}
		inUse, err := b.quota.inUse(id)
		if err != nil {
			return 0, err
		}
		if !inUse {
			return id, nil
		}
	}
}

// walkUsage adds up blocks the slow way, hard links once.
func walkUsage(dir string) (Usage, error) {
	var u Usage
	buf := make([]byte, 32)
	n, err := unix.Lgetxattr(dir, limitAttr, buf)
	if err != nil {
		return u, err
	}
	if u.Limit, err = strconv.ParseInt(string(buf[:n]), 10, 64); err != nil {
		return u, err
	}
	seen := map[uint64]bool{}
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return skipGone(err)
		}
		info, err := e.Info()
		if err != nil {
			return skipGone(err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if ok && !seen[st.Ino] {
			seen[st.Ino] = true
			u.Used += st.Blocks * 512
		}
		return nil
	})
	return u, err
}

// skipGone passes over what a running guest removed meanwhile.
func skipGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	flags, extSize, extents, project, cowExtSize uint32
	pad                                          [8]byte
}

const (
	iocFSGetXattr = 0x801c581f // FS_IOC_FSGETXATTR
	iocFSSetXattr = 0x401c5820 // FS_IOC_FSSETXATTR

	flagProjectInherit = 0x200 // FS_XFLAG_PROJINHERIT
)

func setProject(dir string, project uint32) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	var a fsxattr
	if err := ioctl(f, iocFSGetXattr, unsafe.Pointer(&a)); err != nil {
		return err
	}
	a.project = project
	a.flags |= flagProjectInherit
	return ioctl(f, iocFSSetXattr, unsafe.Pointer(&a))
}

func projectOf(dir string) (uint32, error) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var a fsxattr
	err = ioctl(f, iocFSGetXattr, unsafe.Pointer(&a))
	return a.project, err
}

// probeReflink really shares a block between two files in dir.
func probeReflink(dir string) error {
	src, err := os.CreateTemp(dir, ".probe-")
	if err != nil {
		return err
	}
	defer src.Close()
	defer os.Remove(src.Name())
	dst, err := os.CreateTemp(dir, ".probe-")
	if err != nil {
		return err
	}
	defer dst.Close()
	defer os.Remove(dst.Name())
	if _, err := src.Write(make([]byte, 4096)); err != nil {
		return err
	}
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
}
