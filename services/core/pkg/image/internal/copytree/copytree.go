// Package copytree copies a directory tree that may be hostile and may change
// meanwhile: it walks by descriptors, follows no link, crosses no mount and
// leaves device nodes and sockets out. Content is shared with the source where
// the file system can (FICLONE), else copied in the kernel.
package copytree

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/unpack"
)

const (
	maxDepth = 256 // two descriptors are open per level
	maxID    = 65535
	nobody   = 65534
)

// Options bound and steer a copy.
type Options struct {
	Limits unpack.Limits
	// Skip names directories that are left empty, by device and inode: the
	// store itself may lie inside the source.
	Skip      func(st *unix.Stat_t) bool
	KeepOwner bool
	Note      func(string) // a line for each kind of thing changed or left out
	// ID says what an owner's ID becomes; nil: it stays.
	ID func(uint32) uint32
	// Base is a tree to share files with; nil: everything is copied.
	Base *Base
}

type inode struct{ dev, ino uint64 }

type copier struct {
	Options
	ctx            context.Context
	dev            uint64
	bytes, entries int64
	links          map[inode]string // first name of files with several, from dst's top
	top            int              // dst
	base           int              // Base.Dir; -1: none
	notes          map[string]bool
}

// Copy copies what is in src into the existing empty directory dst, and src's
// own attributes onto dst. Returns InvalidArgument when src is a link or no
// directory, NotFound, TooLarge, NoSpace.
func Copy(ctx context.Context, src, dst string, o Options) error {
	in, err := unix.Open(src, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
	case unix.ENOENT: //nolint:errorlint // a raw errno
		return errors.Wrap(err, errors.NotFound, "the source directory does not exist")
	case unix.ELOOP, unix.ENOTDIR:
		return errors.Wrap(err, errors.InvalidArgument, "the source is a symbolic link or not a directory").WithHint("name the directory itself")
	default:
		return errors.Wrap(err, errors.InvalidArgument, "the source directory cannot be opened")
	}
	defer unix.Close(in)
	out, err := unix.Open(dst, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dst, Err: err}
	}
	defer unix.Close(out)
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return err
	}
	c := &copier{Options: o, ctx: ctx, dev: uint64(st.Dev), links: map[inode]string{}, top: out, notes: map[string]bool{}} //nolint:unconvert // Dev differs by architecture
	top, err := c.openBase()
	if err == nil {
		err = c.dir(in, out, "", 0, top)
		top.close()
	}
	if c.base >= 0 {
		_ = unix.Close(c.base)
	}
	if err == nil {
		err = c.attrs(out, "", &st, "")
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return errors.Wrap(err, errors.NoSpace, "the disk is full")
	default:
		return err
	}
}

func (c *copier) dir(in, out int, rel string, depth int, o over) error {
	if depth > maxDepth {
		return errors.New(errors.InvalidArgument, "directories are nested deeper than %d", maxDepth)
	}
	dup, err := unix.Openat(in, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: rel, Err: err}
	}
	f := os.NewFile(uintptr(dup), rel)
	names, err := f.Readdirnames(-1)
	_ = f.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if c.entries++; c.entries > c.Limits.Entries {
			return errors.New(errors.TooLarge, "the directory has more than %d entries", c.Limits.Entries)
		}
		if err := c.entry(in, out, name, path.Join(rel, name), depth, o); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) entry(in, out int, name, rel string, depth int, o over) error {
	var st unix.Stat_t
	if err := unix.Fstatat(in, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if err == unix.ENOENT { // it went away meanwhile
			return nil
		}
		return &fs.PathError{Op: "stat", Path: rel, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	id := inode{uint64(st.Dev), st.Ino} //nolint:unconvert // Dev differs by architecture
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		if first, ok := c.links[id]; ok {
			return wrap("link", rel, unix.Linkat(c.top, first, out, name, 0))
		}
	}
	if c.share(o, out, name, rel, &st) {
		if st.Nlink > 1 {
			c.links[id] = rel
		}
		c.bytes += st.Size
		return nil
	}
	var err error
	switch kind {
	case unix.S_IFDIR:
		return c.subdir(in, out, name, rel, &st, depth, o)
	case unix.S_IFREG:
		return c.file(in, out, name, rel, &st)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		var n int
		if n, err = unix.Readlinkat(in, name, buf); err == nil {
			err = unix.Symlinkat(string(buf[:n]), out, name)
		}
	case unix.S_IFIFO:
		err = unix.Mknodat(out, name, unix.S_IFIFO|0o600, 0)
	default:
		c.remark("device nodes and sockets are left out, such as /%s", rel)
		return nil
	}
	if err != nil {
		return wrap("copy", rel, err)
	}
	if st.Nlink > 1 {
		c.links[id] = rel
	}
	return c.attrs(out, name, &st, "")
}

func (c *copier) subdir(in, out int, name, rel string, st *unix.Stat_t, depth int, o over) error {
	if err := unix.Mkdirat(out, name, 0o700); err != nil {
		return wrap("mkdir", rel, err)
	}
	foreign := uint64(st.Dev) != c.dev //nolint:unconvert // Dev differs by architecture
	if foreign {
		c.remark("other mounts are left empty, such as /%s", rel)
	}
	if !foreign && (c.Skip == nil || !c.Skip(st)) {
		sub, err := unix.Openat(in, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return wrap("open", rel, err)
		}
		defer unix.Close(sub)
		subOut, err := unix.Openat(out, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return wrap("open", rel, err)
		}
		defer unix.Close(subOut)
		below, err := o.below(name)
		if err != nil {
			return wrap("open", rel, err)
		}
		defer below.close()
		if err := c.dir(sub, subOut, rel, depth+1, below); err != nil {
			return err
		}
	}
	return c.attrs(out, name, st, "")
}

func (c *copier) file(in, out int, name, rel string, seen *unix.Stat_t) error {
	fd, err := unix.Openat(in, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return wrap("open", rel, err)
	}
	src := os.NewFile(uintptr(fd), rel)
	defer src.Close()
	var st unix.Stat_t // of what was really opened
	if err := unix.Fstat(fd, &st); err != nil {
		return wrap("stat", rel, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New(errors.Conflict, "the source directory changed while it was copied: /%s", rel)
	}
	if st.Size > c.Limits.Bytes-c.bytes {
		return errors.New(errors.TooLarge, "the directory holds more than %d bytes", c.Limits.Bytes)
	}
	ofd, err := unix.Openat(out, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return wrap("create", rel, err)
	}
	dst := os.NewFile(uintptr(ofd), rel)
	n := st.Size
	if err = unix.IoctlFileClone(ofd, fd); err != nil {
		// No reflinks here: os.File's ReadFrom uses copy_file_range(2).
		// The bound holds for a file that grows meanwhile, too.
		n, err = io.Copy(dst, io.LimitReader(src, st.Size))
	}
	if cerr := dst.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return wrap("copy", rel, err)
	}
	c.bytes += n
	if st.Nlink > 1 {
		c.links[inode{uint64(seen.Dev), seen.Ino}] = rel //nolint:unconvert // Dev differs by architecture
	}
	var buf [64]byte
	capability := ""
	if n, err := unix.Fgetxattr(fd, "security.capability", buf[:]); err == nil {
		capability = string(buf[:n])
	}
	return c.attrs(out, name, &st, capability)
}

// attrs sets owner, mode, capability and time; an empty name means dir itself.
func (c *copier) attrs(dir int, name string, st *unix.Stat_t, capability string) error {
	if name == "" {
		name = "."
	}
	mode := st.Mode & 0o7777
	if c.KeepOwner {
		uid, gid := int(c.id(st.Uid)), int(c.id(st.Gid))
		if uid > maxID || gid > maxID {
			c.remark("owners beyond ID %d become nobody", maxID)
			if uid > maxID {
				uid = nobody
			}
			if gid > maxID {
				gid = nobody
			}
			mode &^= unix.S_ISUID | unix.S_ISGID
			capability = ""
		}
		if err := unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return wrap("chown", name, err)
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(dir, name, mode, 0); err != nil {
			return wrap("chmod", name, err)
		}
		if c.KeepOwner && unpack.PlainCapability(capability) {
			if err := unix.Setxattr("/proc/self/fd/"+strconv.Itoa(dir)+"/"+name, "security.capability", []byte(capability), 0); err != nil {
				return wrap("setxattr", name, err)
			}
		}
	}
	return wrap("utimes", name, unix.UtimesNanoAt(dir, name, []unix.Timespec{st.Mtim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW))
}

func (c *copier) id(id uint32) uint32 {
	if c.ID == nil {
		return id
	}
	return c.ID(id)
}

func wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func (c *copier) remark(format string, arg any) {
	if !c.notes[format] && c.Note != nil {
		c.notes[format] = true
		c.Note(fmt.Sprintf(format, arg))
	}
}
