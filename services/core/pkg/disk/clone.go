package disk

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cloneTree copies what is in directory src into the existing directory dst on
// the same file system: files share their blocks (FICLONE), hard links join
// within the copy and never with the source, and owners, modes, times,
// extended attributes and special files are kept. It follows no link: the
// tree belongs to a guest.
func cloneTree(ctx context.Context, src, dst string) error {
	from, err := openDir(unix.AT_FDCWD, src)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := openDir(unix.AT_FDCWD, dst)
	if err != nil {
		return err
	}
	defer to.Close()
	c := cloner{ctx: ctx, top: to, links: map[uint64]string{}, buf: make([]byte, 64<<10)}
	if err := c.children(from, to, "."); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return err
	}
	return c.attributes(from, to, &st)
}

type cloner struct {
	ctx   context.Context
	top   *os.File          // root of the copy
	links map[uint64]string // inode in the source to path in the copy, for files with several names
	buf   []byte
}

// openDir opens a directory below dirfd, never through a link.
func openDir(dirfd int, name string) (*os.File, error) {
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (c *cloner) children(from, to *os.File, path string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	names, err := from.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.entry(from, to, name, path+"/"+name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (c *cloner) entry(from, to *os.File, name, path string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(from.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		if first, ok := c.links[st.Ino]; ok {
			return unix.Linkat(int(c.top.Fd()), first, int(to.Fd()), name, 0)
		}
		c.links[st.Ino] = path
	}
	switch kind {
	case unix.S_IFDIR:
		return c.directory(from, to, name, path, &st)
	case unix.S_IFREG:
		return c.file(from, to, name, &st)
	case unix.S_IFLNK:
		n, err := unix.Readlinkat(int(from.Fd()), name, c.buf)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(string(c.buf[:n]), int(to.Fd()), name); err != nil {
			return err
		}
	default: // devices (overlay's whiteouts), pipes, sockets
		if err := unix.Mknodat(int(to.Fd()), name, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	return c.byName(from, to, name, &st)
}

func (c *cloner) directory(from, to *os.File, name, path string, st *unix.Stat_t) error {
	src, err := openDir(int(from.Fd()), name)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := unix.Mkdirat(int(to.Fd()), name, 0o700); err != nil {
		return err
	}
	dst, err := openDir(int(to.Fd()), name)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := c.children(src, dst, path); err != nil {
		return err
	}
	return c.attributes(src, dst, st)
}

func (c *cloner) file(from, to *os.File, name string, st *unix.Stat_t) error {
	in, err := unix.Openat(int(from.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(in), name)
	defer src.Close()
	out, err := unix.Openat(int(to.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(out), name)
	defer dst.Close()
	if st.Size > 0 {
		if err := unix.IoctlFileClone(out, in); err != nil {
			return err
		}
	}
	return c.attributes(src, dst, st)
}

// attributes copies everything about an open file or directory but its
// content. The owner goes first: changing it drops the set-user-ID bit and capabilities.
func (c *cloner) attributes(src, dst *os.File, st *unix.Stat_t) error {
	in, out := int(src.Fd()), int(dst.Fd())
	if err := unix.Fchown(out, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(out, st.Mode&0o7777); err != nil {
		return err
	}
	n, err := unix.Flistxattr(in, c.buf)
	if err != nil {
		return err
	}
	for _, attr := range attrNames(c.buf[:n]) {
		value, err := getxattr(func(buf []byte) (int, error) { return unix.Fgetxattr(in, attr, buf) })
		if err != nil {
			return err
		}
		if err := unix.Fsetxattr(out, attr, value, 0); err != nil {
			return err
		}
	}
	// futimens(3) is utimensat(2) without a path.
	times := [2]unix.Timespec{st.Atim, st.Mtim}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(out), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// byName copies the attributes of what cannot be opened: links and special
// files. They are reached through /proc/self/fd so that no part of the guest's
// path is walked.
func (c *cloner) byName(from, to *os.File, name string, st *unix.Stat_t) error {
	if err := unix.Fchownat(int(to.Fd()), name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(int(to.Fd()), name, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	in := fmt.Sprintf("/proc/self/fd/%d/%s", from.Fd(), name)
	out := fmt.Sprintf("/proc/self/fd/%d/%s", to.Fd(), name)
	n, err := unix.Llistxattr(in, c.buf)
	if err != nil {
		return err
	}
	for _, attr := range attrNames(c.buf[:n]) {
		value, err := getxattr(func(buf []byte) (int, error) { return unix.Lgetxattr(in, attr, buf) })
		if err != nil {
			return err
		}
		if err := unix.Lsetxattr(out, attr, value, 0); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(int(to.Fd()), name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// attrNames splits a list of extended attribute names. The pool's own are left out.
func attrNames(list []byte) []string {
	var names []string
	for name := range bytes.SplitSeq(bytes.TrimRight(list, "\x00"), []byte{0}) {
		if len(name) > 0 && !strings.HasPrefix(string(name), "trusted.aetherium.") {
			names = append(names, string(name))
		}
	}
	return names
}

// getxattr reads a value of any size (at most 64 KiB: XATTR_SIZE_MAX).
func getxattr(get func([]byte) (int, error)) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := get(buf)
		if err == unix.ERANGE && len(buf) < 64<<10 { //nolint:errorlint // a raw errno
			buf = make([]byte, 64<<10)
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}
