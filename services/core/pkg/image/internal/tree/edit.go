package tree

import (
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Attr is what an entry carries besides its content. Zero times are left alone.
type Attr struct {
	Mode     uint32 // permission, setuid, setgid and sticky bits
	UID, GID int    // -1: left alone
	ModTime  int64  // nanoseconds since 1970; only with HasTime
	HasTime  bool
	Xattrs   map[string]string
}

// Lstat tells about an entry of the directory. An absent one is fs.ErrNotExist.
func (d Dir) Lstat(base string) (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return st, d.fail("stat", base, err)
	}
	return st, nil
}

func (d Dir) fail(op, base string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path.Join(d.Path, base), Err: err}
}

// Symlink makes a symbolic link; its target is data and is not looked at.
func (d Dir) Symlink(target, base string) error {
	return d.fail("symlink", base, unix.Symlinkat(target, d.fd, base))
}

// Mkdir makes a directory.
func (d Dir) Mkdir(base string) error {
	return d.fail("mkdir", base, unix.Mkdirat(d.fd, base, 0o700))
}

// Mkfifo makes a FIFO.
func (d Dir) Mkfifo(base string) error {
	return d.fail("mkfifo", base, unix.Mknodat(d.fd, base, unix.S_IFIFO|0o600, 0))
}

// Create makes a regular file that must not exist, open for writing.
func (d Dir) Create(base string) (*os.File, error) {
	fd, err := unix.Openat(d.fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, d.fail("create", base, err)
	}
	return os.NewFile(uintptr(fd), path.Join(d.Path, base)), nil
}

// OpenFD opens an entry with O_PATH; the caller closes the descriptor.
func (d Dir) OpenFD(base string) (int, error) {
	fd, err := unix.Openat(d.fd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	return fd, d.fail("open", base, err)
}

// LinkFD gives the entry behind a descriptor of OpenFD another name.
func (d Dir) LinkFD(fd int, base string) error {
	return d.fail("link", base, unix.Linkat(unix.AT_FDCWD, procFD(fd), d.fd, base, unix.AT_SYMLINK_FOLLOW))
}

// SetAttr sets owner, mode, extended attributes and times of an entry, in the
// order that keeps setuid bits and capabilities (chown(2) clears both).
func (d Dir) SetAttr(base string, a Attr) error {
	st, err := d.Lstat(base)
	if err != nil {
		return err
	}
	link := st.Mode&unix.S_IFMT == unix.S_IFLNK
	if a.UID >= 0 || a.GID >= 0 {
		if err := unix.Fchownat(d.fd, base, a.UID, a.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return d.fail("chown", base, err)
		}
	}
	if !link { // a link's own mode and attributes mean nothing
		if err := unix.Fchmodat(d.fd, base, a.Mode&0o7777, 0); err != nil {
			return d.fail("chmod", base, err)
		}
		for name, value := range a.Xattrs {
			if err := unix.Setxattr(procFD(d.fd)+"/"+base, name, []byte(value), 0); err != nil {
				return d.fail("setxattr "+name, base, err)
			}
		}
	}
	if a.HasTime {
		ts := unix.NsecToTimespec(a.ModTime)
		if err := unix.UtimesNanoAt(d.fd, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return d.fail("utimes", base, err)
		}
	}
	return nil
}

// Remove removes an entry and, if it is a directory, everything below it.
// Absent is success.
func (t *Tree) Remove(d Dir, base string) error {
	if base == "" || base == "." || base == ".." {
		return errors.New(errors.InvalidArgument, "the name %q cannot be removed", base)
	}
	err := unix.Unlinkat(d.fd, base, 0)
	if err == unix.EISDIR || err == unix.EPERM { //nolint:errorlint // a raw errno
		// The standard library's removal walks by descriptors and follows no
		// link; the directory is pinned by ours, not by its path.
		var root *os.Root
		if root, err = os.OpenRoot(procFD(d.fd)); err == nil {
			err = root.RemoveAll(base)
			_ = root.Close()
		}
	}
	if err == nil || err == unix.ENOENT { //nolint:errorlint // a raw errno
		return nil
	}
	return d.fail("remove", base, err)
}

// Changed must be called after a symbolic link or a directory was replaced,
// since what paths mean may be different now.
func (t *Tree) Changed() { t.forget() }

// WriteFile replaces name by a regular file with the content and attributes. A
// link of that name is replaced, not followed; links above it stay in the tree.
func (t *Tree) WriteFile(name string, content []byte, a Attr) error {
	d, base, err := t.Parent(name)
	if err != nil {
		return err
	}
	if err := t.Remove(d, base); err != nil {
		return err
	}
	f, err := d.Create(base)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = d.SetAttr(base, a)
	}
	t.Changed()
	return err
}

// EnsureDir makes name a real directory with the attributes; a directory that
// is there keeps its content, anything else of that name is replaced.
func (t *Tree) EnsureDir(name string, a Attr) error {
	d, base, err := t.Parent(name)
	if err != nil {
		return err
	}
	st, err := d.Lstat(base)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		err = t.Remove(d, base)
		if err == nil {
			err = fs.ErrNotExist
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = d.Mkdir(base)
	}
	if err == nil {
		err = d.SetAttr(base, a)
	}
	t.Changed()
	return err
}

// ReplaceSymlink makes name a symbolic link to target.
func (t *Tree) ReplaceSymlink(target, name string, uid, gid int) error {
	d, base, err := t.Parent(name)
	if err != nil {
		return err
	}
	if err := t.Remove(d, base); err != nil {
		return err
	}
	if err := d.Symlink(target, base); err != nil {
		return err
	}
	err = d.SetAttr(base, Attr{UID: uid, GID: gid})
	t.Changed()
	return err
}

// Empty removes everything in a directory that is really one (no link).
func (t *Tree) Empty(name string) error {
	d, err := t.Dir(name)
	if err != nil {
		return err
	}
	return t.Prune(d, func(string) bool { return false })
}

// Prune removes the entries of a directory that keep does not want.
func (t *Tree) Prune(d Dir, keep func(base string) bool) error {
	fd, err := unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return d.fail("open", ".", err)
	}
	f := os.NewFile(uintptr(fd), d.Path)
	// All names first: what a directory lists while it shrinks is undefined.
	names, err := f.Readdirnames(-1)
	_ = f.Close()
	if err != nil {
		return d.fail("readdir", ".", err)
	}
	for _, n := range names {
		if keep(n) {
			continue
		}
		if err := t.Remove(d, n); err != nil {
			return err
		}
	}
	return nil
}

// SetTime sets the directory's modification time, in nanoseconds since 1970.
func (d Dir) SetTime(ns int64) error {
	ts := unix.NsecToTimespec(ns)
	return d.fail("utimes", ".", unix.UtimesNanoAt(d.fd, ".", []unix.Timespec{ts, ts}, 0))
}
