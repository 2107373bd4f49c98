package archive

import (
	"archive/tar"
	"io"
	"os"
	"path"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/fsys"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
)

// unpacker works below one directory. os.Root resolves every name from the
// open directory and follows no link out of it, neither one that was there nor
// one that an earlier entry made.
type unpacker struct {
	user *osuser.User
	root *os.Root
	made bool // the directory did not exist before
	dirs []deferred
	// owner is given what is made; nil: it belongs to the user who unpacks.
	owner *Owner
}

// Owner is whom unpacked files belong to.
type Owner struct{ UID, GID int }

// deferred is a directory's mode and time, set last: filling it changes its
// time, and its mode may forbid that.
type deferred struct {
	name   string
	header *tar.Header
}

// Unpack reads a tar and makes what it holds below the directory dir, which it
// makes if need be. Files that exist are replaced, directories are kept. It
// stops at the first error; what was unpacked before stays.
//
// Returns InvalidArgument for what is no tar, for names that are absolute, hold
// ".." or lead through a link out of dir, for links to such names and for
// devices; TooLarge beyond the package's bounds; NoSpace; PermissionDenied;
// Conflict where a directory is in a file's place.
func Unpack(u *osuser.User, dir string, r io.Reader) error { return UnpackFor(u, nil, dir, r) }

// UnpackFor is Unpack with the files given to an owner, which the user must be
// allowed to do. It lays files over a system's tree: where a directory of the
// archive meets a link to a directory below dir, the link stays and its
// directory is filled.
func UnpackFor(u *osuser.User, owner *Owner, dir string, r io.Reader) error {
	up := &unpacker{user: u, owner: owner}
	err := osuser.Do(u, func() (err error) {
		info, err := os.Stat(dir)
		switch {
		case errors.Is(err, os.ErrNotExist):
			up.made = true
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		case err == nil && !info.IsDir():
			return errors.New(errors.InvalidArgument, "%q is not a directory", dir)
		}
		up.root, err = os.OpenRoot(dir)
		return err
	})
	if err != nil {
		return fsys.Error(err, dir)
	}
	defer func() { _ = up.root.Close() }()
	tr := tar.NewReader(r)
	for count := 0; ; count++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return up.finish()
		}
		if err != nil {
			return readError(err)
		}
		if count >= MaxEntries {
			return errors.New(errors.TooLarge, "the archive has more than %d entries", MaxEntries)
		}
		if err := up.entry(h, tr); err != nil {
			return err
		}
	}
}

// readError words a stream that cannot be read; errors of the transport come
// with a code of their own.
func readError(err error) error {
	var known *errors.Error
	if errors.As(err, &known) {
		return err
	}
	return errors.Wrap(err, errors.InvalidArgument, "this is not a complete tar archive")
}

// CleanName checks an entry's name and makes it canonical; "." is the
// directory itself. Returns InvalidArgument, TooLarge.
func CleanName(name string) (string, error) {
	switch {
	case len(name) > MaxName:
		return "", errors.New(errors.TooLarge, "an entry's name is longer than %d bytes", MaxName)
	case name == "" || strings.Contains(name, "\x00"):
		return "", errors.New(errors.InvalidArgument, "an entry has no proper name")
	case strings.HasPrefix(name, "/"):
		return "", errors.New(errors.InvalidArgument, "the entry %.256q has an absolute name", name)
	case strings.Count(name, "/") > MaxDepth:
		return "", errors.New(errors.TooLarge, "an entry is more than %d directories deep", MaxDepth)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", errors.New(errors.InvalidArgument, "the entry %.256q leads out of the directory", name)
		}
	}
	return path.Clean(name), nil
}

func (up *unpacker) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := CleanName(h.Name)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		err = up.dir(name, h)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		err = up.file(name, h, r)
	case tar.TypeSymlink:
		if len(h.Linkname) == 0 || len(h.Linkname) > MaxName || strings.Contains(h.Linkname, "\x00") {
			return errors.New(errors.InvalidArgument, "the link %.256q has no proper target", name)
		}
		err = up.place(name, func() error {
			if err := up.root.Symlink(h.Linkname, name); err != nil || up.owner == nil {
				return err
			}
			return up.root.Lchown(name, up.owner.UID, up.owner.GID)
		})
	case tar.TypeLink:
		target, cleanErr := CleanName(h.Linkname)
		if cleanErr != nil {
			return cleanErr
		}
		if target == name {
			return nil
		}
		err = up.place(name, func() error { return up.root.Link(target, name) })
	default:
		return errors.New(errors.InvalidArgument, "the entry %.256q is a device, a pipe or of an unknown kind", name)
	}
	return unpackError(err, name)
}

// unpackError words what os.Root and the kernel say.
func unpackError(err error, name string) error {
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) && strings.Contains(err.Error(), "escapes from parent") {
		// os has no exported value for it.
		return errors.New(errors.InvalidArgument, "the entry %.256q leads out of the directory through a link", name)
	}
	return fsys.Error(err, name)
}

// place clears the name, makes its parents and runs create there, all with the
// user's rights.
func (up *unpacker) place(name string, create func() error) error {
	if name == "." {
		return errors.New(errors.InvalidArgument, "the directory itself cannot be a file or a link")
	}
	return osuser.Do(up.user, func() error {
		if parent := path.Dir(name); parent != "." {
			if err := up.root.MkdirAll(parent, 0o755); err != nil {
				return err
			}
		}
		switch info, err := up.root.Lstat(name); {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return err
		case info.IsDir():
			return errors.New(errors.Conflict, "%.256q is a directory and stays one", name)
		default:
			if err := up.root.Remove(name); err != nil {
				return err
			}
		}
		return create()
	})
}

func (up *unpacker) dir(name string, h *tar.Header) error {
	if name == "." {
		if up.made {
			up.dirs = append(up.dirs, deferred{name, h})
		}
		return nil
	}
	kept := false // a link that leads to a directory
	err := osuser.Do(up.user, func() error {
		info, err := up.root.Lstat(name)
		if err == nil && info.IsDir() {
			return nil
		}
		if err == nil && up.owner != nil && info.Mode()&os.ModeSymlink != 0 {
			if to, err := up.root.Stat(name); err == nil && to.IsDir() {
				kept = true
				return nil
			}
		}
		if err == nil {
			if err := up.root.Remove(name); err != nil {
				return err
			}
		}
		return up.root.MkdirAll(name, 0o755)
	})
	if err == nil && !kept {
		up.dirs = append(up.dirs, deferred{name, h})
	}
	return err
}

func (up *unpacker) file(name string, h *tar.Header, r io.Reader) error {
	var f *os.File
	err := up.place(name, func() (err error) {
		f, err = up.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := fsys.Store(f, body{r}); err != nil {
		return err
	}
	return osuser.Do(up.user, func() error { return up.dress(f, h) })
}

// body marks the errors of reading the archive, so that they are told from
// those of writing the file.
type body struct{ r io.Reader }

func (b body) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = readError(err)
	}
	return n, err
}

// dress gives an open file or directory its owner, attributes, mode and time,
// the owner first: chown(2) clears set-user-ID bits.
func (up *unpacker) dress(f *os.File, h *tar.Header) error {
	fd := int(f.Fd())
	if up.owner != nil {
		if err := unix.Fchown(fd, up.owner.UID, up.owner.GID); err != nil {
			return err
		}
	}
	total, count := 0, 0
	for record, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(record, xattrRecord)
		if !ok || !strings.HasPrefix(name, xattrPrefix) {
			continue
		}
		count++
		if total += len(value); total > maxXattrBytes || count > maxXattrs {
			return errors.New(errors.TooLarge, "the entry %.256q has too many attributes", h.Name)
		}
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	if err := unix.Fchmod(fd, uint32(h.Mode)&0o7777); err != nil {
		return err
	}
	at, err := unix.TimeToTimespec(clampTime(h.ModTime))
	if err != nil {
		return errors.New(errors.InvalidArgument, "the entry %.256q has an impossible time", h.Name)
	}
	// futimens(3): utimensat without a path.
	times := [2]unix.Timespec{at, at}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// clampTime keeps times that a header may hold and no file system does from
// being an error.
func clampTime(t time.Time) time.Time {
	if t.Before(time.Unix(0, 0)) {
		return time.Unix(0, 0)
	}
	return t
}

// finish sets modes and times of directories, the deepest first.
func (up *unpacker) finish() error {
	for i := len(up.dirs) - 1; i >= 0; i-- {
		d := up.dirs[i]
		err := osuser.Do(up.user, func() error {
			f, err := up.root.OpenFile(d.name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			return up.dress(f, d.header)
		})
		// One that a later entry replaced by a link is not ours to change; one
		// that belongs to another user keeps what it has.
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) &&
			!errors.Is(err, unix.ELOOP) && !errors.Is(err, os.ErrPermission) {
			return unpackError(err, d.name)
		}
	}
	return nil
}
