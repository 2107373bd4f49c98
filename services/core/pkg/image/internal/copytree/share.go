package copytree

import (
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Base is a tree that never changes and on top of which the source was made.
// Files that the source has from it are shared by hard links: neither tree is
// ever written to.
type Base struct {
	Dir string // on the destination's file system, else nothing is shared
	// Upper is what the source changes, as overlayfs keeps it; empty: the source
	// is the base itself.
	Upper string
}

// own are the directories whose files are copied all the same: some programs
// refuse configuration that has several links (cron).
var own = []string{"etc/", "var/spool/"}

func ownFile(rel string) bool {
	return slices.ContainsFunc(own, func(dir string) bool { return strings.HasPrefix(rel, dir) })
}

// over tells what of one directory of the source comes from the base.
type over struct {
	fd int // the same directory in Upper; -1: Upper has none, all of it comes from the base
	// all: the directory and what is below it need not have the base's names.
	all bool
}

func (o over) close() {
	if o.fd >= 0 {
		_ = unix.Close(o.fd)
	}
}

// openBase begins sharing; without a base nothing is shared.
func (c *copier) openBase() (over, error) {
	c.base = -1
	if c.Options.Base == nil {
		return over{fd: -1, all: true}, nil
	}
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	var err error
	if c.base, err = unix.Open(c.Options.Base.Dir, flags, 0); err != nil {
		return over{}, &fs.PathError{Op: "open", Path: c.Options.Base.Dir, Err: err}
	}
	if c.Options.Base.Upper == "" {
		return over{fd: -1}, nil
	}
	fd, err := unix.Open(c.Options.Base.Upper, flags, 0)
	if err != nil {
		return over{}, &fs.PathError{Op: "open", Path: c.Options.Base.Upper, Err: err}
	}
	return over{fd: fd}, nil
}

// below is over for a directory in this one.
func (o over) below(name string) (over, error) {
	if o.all || o.fd < 0 {
		return over{fd: -1, all: o.all}, nil
	}
	fd, err := unix.Openat(o.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT { //nolint:errorlint // a raw errno
		return over{fd: -1}, nil
	}
	if err != nil {
		return over{}, err
	}
	// A renamed directory has the base's files under other names, an opaque one
	// none of them.
	for _, attr := range []string{"trusted.overlay.redirect", "trusted.overlay.opaque"} {
		if n, err := unix.Fgetxattr(fd, attr, nil); err == nil && n > 0 {
			_ = unix.Close(fd)
			return over{fd: -1, all: true}, nil
		}
	}
	return over{fd: fd}, nil
}

// share links a file from the base if it is the very same there. It reports
// whether it did; if not, the file is copied.
func (c *copier) share(o over, out int, name, rel string, st *unix.Stat_t) bool {
	if o.all || st.Mode&unix.S_IFMT != unix.S_IFREG || ownFile(rel) {
		return false
	}
	var there unix.Stat_t
	if o.fd >= 0 && unix.Fstatat(o.fd, name, &there, unix.AT_SYMLINK_NOFOLLOW) != unix.ENOENT { //nolint:errorlint // a raw errno
		return false // the source's own
	}
	if unix.Fstatat(c.base, rel, &there, unix.AT_SYMLINK_NOFOLLOW) != nil || there.Mode != st.Mode || there.Size != st.Size ||
		there.Mtim != st.Mtim || c.id(st.Uid) != there.Uid || c.id(st.Gid) != there.Gid {
		return false
	}
	return unix.Linkat(c.base, rel, out, name, 0) == nil
}
