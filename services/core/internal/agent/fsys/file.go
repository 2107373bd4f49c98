package fsys

import (
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
)

const fileMode = 0o644

// TempPrefix begins the names of files on their way into another's place.
const TempPrefix = ".aetherium-"

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// Open opens a regular file for reading. Returns NotFound, PermissionDenied,
// InvalidArgument for what is no regular file.
func (fs *FS) Open(u *osuser.User, path string) (f *os.File, info os.FileInfo, err error) {
	f, info, err = open(u, path, os.O_RDONLY)
	return f, info, Error(err, path)
}

// Write has a file hold what r yields, and metadata, and makes its parents. It
// is written in place, which SDKs of the field expect and watchers see as a
// write. What r doesn't yield whole leaves no file where there was none, and
// one that there was as it was: its new content is kept beside it until all of
// it is there. Returns what Open does, and NoSpace.
func (fs *FS) Write(u *osuser.User, path string, meta map[string]string, r io.Reader) error {
	f, made, err := ensure(u, path)
	if err != nil {
		return Error(err, path)
	}
	defer func() { _ = f.Close() }()
	if made {
		err = Store(f, r)
	} else {
		err = rewrite(u, path, f, r)
	}
	if err == nil {
		err = SetMetadata(f, path, meta)
	}
	if err != nil && made {
		discard(u, path, f)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return Error(err, path)
}

// ensure opens a file to be written, and says whether it was made for that.
func ensure(u *osuser.User, path string) (f *os.File, made bool, err error) {
	f, _, err = open(u, path, os.O_WRONLY)
	if !errors.Is(err, os.ErrNotExist) {
		return f, false, err
	}
	if err := osuser.Do(u, func() error { return os.MkdirAll(filepath.Dir(path), dirMode) }); err != nil {
		return nil, false, err
	}
	f, _, err = open(u, path, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if errors.Is(err, os.ErrExist) { // a link that leads nowhere, or another was faster
		f, _, err = open(u, path, os.O_WRONLY|os.O_CREATE)
		return f, false, err
	}
	return f, err == nil, err
}

// rewrite gives a file the content that r yields once it is there, which until
// then is in a file without a name.
func rewrite(u *osuser.User, path string, f *os.File, r io.Reader) error {
	var spool *os.File
	err := osuser.Do(u, func() (err error) {
		for _, dir := range []string{filepath.Dir(path), os.TempDir()} { // who may write a file may have no right to its directory
			if spool, err = temporary(dir); err == nil {
				return os.Remove(spool.Name())
			}
		}
		return err
	})
	if spool != nil {
		defer func() { _ = spool.Close() }()
	}
	if err != nil {
		return err
	}
	if err := Store(spool, r); err != nil {
		return err
	}
	return refill(f, spool)
}

// discard removes a file that was made, unless its name is another's by now.
func discard(u *osuser.User, path string, f *os.File) {
	ours, err := f.Stat()
	if err != nil {
		return
	}
	_ = osuser.Do(u, func() error {
		if info, err := os.Lstat(path); err != nil || !os.SameFile(info, ours) {
			return err
		}
		return os.Remove(path)
	})
}

// open opens a regular file. Never blocking on what turns out to be a pipe or
// a device, and never taking a terminal.
func open(u *osuser.User, path string, flags int) (f *os.File, info os.FileInfo, err error) {
	err = osuser.Do(u, func() error {
		f, err = os.OpenFile(path, flags|unix.O_NONBLOCK|unix.O_NOCTTY, fileMode)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
		err = errors.New(errors.InvalidArgument, "%q is not a regular file", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// Replace writes what r yields into a file so that readers see the old or the
// new content and never a part: into a temporary file beside it, which then
// takes its name. An existing file keeps its owner and, unless mode is given,
// its permission bits, without setuid and setgid, as a write would have it;
// mode 0 is 0644 for a new file. A link is followed. A file that is a mount
// point cannot take another's place and is written over.
// Returns PermissionDenied where the user may not write the file or its
// directory, NoSpace, InvalidArgument for what is no regular file.
func (fs *FS) Replace(u *osuser.User, path string, mode uint32, r io.Reader) (Entry, error) {
	old, path, err := fs.replaced(u, path)
	if err != nil {
		return Entry{}, err
	}
	var f *os.File
	err = osuser.Do(u, func() error {
		if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
			return err
		}
		f, err = temporary(filepath.Dir(path))
		return err
	})
	if err != nil {
		return Entry{}, Error(err, path)
	}
	defer func() { _ = f.Close() }()
	temp := f.Name()
	if err = Store(f, r); err == nil {
		if err = dress(u, f, old, mode); err == nil {
			err = osuser.Do(u, func() error { return os.Rename(temp, path) })
		}
	}
	if err != nil {
		if errors.Is(err, unix.EBUSY) {
			err = overwrite(u, path, f)
		}
		_ = osuser.Do(u, func() error { return os.Remove(temp) })
	}
	if err != nil {
		return Entry{}, Error(err, path)
	}
	return fs.Stat(u, path)
}

// replaced finds the file that will be replaced and checks that the user may
// write it: with a right to the directory alone it could be swapped, and
// keeping its owner would then give away more than the user has.
func (fs *FS) replaced(u *osuser.User, path string) (*syscall.Stat_t, string, error) {
	err := osuser.Do(u, func() error {
		resolved, err := filepath.EvalSymlinks(path)
		if err == nil {
			path = resolved
		}
		return err
	})
	if errors.Is(err, os.ErrNotExist) {
		if _, lerr := fs.Stat(u, path); lerr == nil {
			return nil, path, errors.New(errors.InvalidArgument, "%q is a link that leads nowhere", path)
		}
		return nil, path, nil
	}
	if err != nil {
		return nil, path, Error(err, path)
	}
	f, info, err := open(u, path, os.O_WRONLY)
	if err != nil {
		return nil, path, Error(err, path)
	}
	defer func() { _ = f.Close() }()
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, path, errors.New(errors.Internal, "%q cannot be examined", path)
	}
	return st, path, nil
}

// dress gives a new file the owner and the mode it shall have. Where the user
// owns the file the mode is set with the user's rights, so that the kernel
// takes away the setgid bit of a group that the user is not in.
func dress(u *osuser.User, f *os.File, old *syscall.Stat_t, mode uint32) error {
	if old == nil {
		if mode == 0 {
			mode = fileMode
		}
		return osuser.Do(u, func() error { return chmod(f, mode) })
	}
	owns := u.UID == 0 || u.UID == old.Uid
	if mode == 0 {
		mode = old.Mode & 0o777
	} else if !owns {
		return unix.EPERM // only the owner may change a file's mode
	}
	if os.Geteuid() == 0 {
		if err := f.Chown(int(old.Uid), int(old.Gid)); err != nil {
			return err
		}
	}
	if !owns {
		return chmod(f, mode)
	}
	return osuser.Do(u, func() error { return chmod(f, mode) })
}

// chmod sets all twelve bits; os.FileMode orders the upper three its own way.
func chmod(f *os.File, mode uint32) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var chmodErr error
	if err := raw.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), mode&0o7777) }); err != nil {
		return err
	}
	return chmodErr
}

// overwrite copies a finished temporary file over one that cannot be replaced.
func overwrite(u *osuser.User, path string, from *os.File) error {
	to, _, err := open(u, path, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer func() { _ = to.Close() }()
	return refill(to, from)
}

// temporary makes a file in a directory that is on its way into another's place.
func temporary(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, TempPrefix+rand.Text()), os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
}

// refill gives a file the content of a temporary one, in place of its own, which it
// keeps where there is no room for the other.
func refill(to, from *os.File) error {
	size, err := from.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := reserve(to, size); err != nil {
		return err
	}
	if err := Store(to, from); err != nil {
		return err
	}
	return to.Truncate(size)
}

// reserve has a file's blocks allocated up to a size, where its file system can.
func reserve(f *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var reserveErr error
	if err := raw.Control(func(fd uintptr) { reserveErr = unix.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, 0, size) }); err != nil {
		return err
	}
	if errors.Is(reserveErr, unix.ENOSPC) || errors.Is(reserveErr, unix.EDQUOT) || errors.Is(reserveErr, unix.EFBIG) {
		return &os.PathError{Op: "fallocate", Path: f.Name(), Err: reserveErr}
	}
	return nil // what it cannot do is no reason not to try
}
