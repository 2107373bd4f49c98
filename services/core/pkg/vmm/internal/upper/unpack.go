package upper

import (
	"context"
	"io"
	"os"
	"path"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/sparse"
)

// Unpack makes what Pack wrote in an empty directory that nobody else writes to,
// with at most limit bytes in files and around them (0: any), and reads r to its end. What it made
// before an error is left. Returns InvalidArgument for what Pack did not write,
// TooLarge, and r's errors.
func Unpack(ctx context.Context, r io.Reader, dir string, limit int64) error {
	begin := make([]byte, len(mark))
	if _, err := io.ReadFull(r, begin); err != nil {
		return sparse.NoEOF(err)
	}
	if string(begin) != mark {
		return errors.New(errors.InvalidArgument, "this is no packed disk of a container")
	}
	if limit == 0 {
		limit = 1<<63 - 1
	}
	u := unpacker{ctx: ctx, r: r, left: limit}
	defer u.close()
	for n := 0; ; n++ {
		e, err := readEntry(r)
		switch {
		case err != nil:
			return err
		case n > maxEntries:
			return tooMany()
		case e == nil && n == 0:
			return errors.New(errors.InvalidArgument, "there is no top")
		case e == nil:
			if err := sparse.End(r); err != nil {
				return err
			}
			return u.finish(0)
		case n == 0:
			err = u.top(dir, e)
		default:
			err = u.entry(e)
		}
		if err != nil {
			return err
		}
	}
}

type unpacker struct {
	ctx    context.Context
	r      io.Reader
	left   int64   // bytes that files may have, and what is around them
	dirs   []level // the open directories, from the top down
	seen   []place // of what has several names, by number
	shared int     // bytes of their names
}

// place is where an entry is. Those of one directory have its path in common.
type place struct{ dir, name string }

func (p place) path() string { return path.Join(p.dir, p.name) }

// level is a directory that is being filled: its attributes come last.
type level struct {
	*os.File
	entry *entry
	path  string // below the top
}

func (u *unpacker) top(dir string, e *entry) error {
	if e.Depth != 0 {
		return errors.New(errors.InvalidArgument, "there is no top")
	}
	if err := u.take(e); err != nil {
		return err
	}
	f, err := openDir(unix.AT_FDCWD, dir)
	if err == nil {
		u.dirs = append(u.dirs, level{f, e, ""})
	}
	return err
}

func (u *unpacker) entry(e *entry) error {
	if err := u.ctx.Err(); err != nil {
		return err
	}
	if e.Depth == 0 || e.Depth > len(u.dirs) {
		return errors.New(errors.InvalidArgument, "an entry is in no directory")
	}
	if err := u.finish(e.Depth); err != nil {
		return err
	}
	if err := u.take(e); err != nil {
		return err
	}
	in := u.dirs[e.Depth-1]
	at := place{in.path, string(e.Name)}
	if len(at.path()) > maxPath {
		return errors.New(errors.TooLarge, "a name below the top has more than %d bytes", maxPath)
	}
	err := u.make(int(in.Fd()), at, e)
	if errors.Is(err, unix.EEXIST) {
		return errors.Wrap(err, errors.InvalidArgument, "two entries have one name")
	}
	return err
}

// take counts what an entry has beside its content. Returns TooLarge.
func (u *unpacker) take(e *entry) error {
	n := len(e.Target)
	for _, a := range e.Attrs {
		n += len(a.Value)
	}
	if u.left -= int64(n); u.left < 0 {
		return errors.New(errors.TooLarge, "there is more than the machine's disk could hold")
	}
	return nil
}

// make makes an entry in an open directory.
func (u *unpacker) make(in int, at place, e *entry) error {
	name := at.name
	if e.Same != 0 {
		return u.again(in, name, e.Same)
	}
	if e.Inode != 0 {
		if u.seen = append(u.seen, at); e.Inode != len(u.seen) {
			return errors.New(errors.InvalidArgument, "files are numbered otherwise than they come")
		}
		if u.shared += len(name); u.shared > maxShared {
			return tooMany()
		}
	}
	switch e.kind() {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(in, name, 0o700); err != nil {
			return failed("mkdir", name, err)
		}
		f, err := openDir(in, name)
		if err == nil {
			u.dirs = append(u.dirs, level{f, e, at.path()})
		}
		return err
	case unix.S_IFREG:
		return u.file(in, name, e)
	case unix.S_IFLNK:
		if err := unix.Symlinkat(string(e.Target), in, name); err != nil {
			return failed("symlink", name, err)
		}
	default: // a pipe or a whiteout
		if err := unix.Mknodat(in, name, e.kind()|0o600, 0); err != nil {
			return failed("mknod", name, err)
		}
	}
	return byName(in, name, e)
}

// again gives what was made before another name. Its path has no links: all
// directories were made here.
func (u *unpacker) again(in int, name string, number int) error {
	if number < 1 || number > len(u.seen) {
		return errors.New(errors.InvalidArgument, "an entry is the same as none before")
	}
	fd, err := unix.Openat2(int(u.dirs[0].Fd()), u.seen[number-1].path(), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return failed("open", name, err)
	}
	defer unix.Close(fd)
	if err := unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), in, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return failed("link", name, err)
	}
	return nil
}

func (u *unpacker) file(in int, name string, e *entry) error {
	fd, err := unix.Openat(in, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return failed("create", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	n, err := sparse.Read(u.ctx, u.r, f, e.Size, u.left)
	u.left -= n
	if errors.Is(err, unix.EFBIG) {
		return errors.Wrap(err, errors.InvalidArgument, "a file is larger than this host's file system can have it")
	}
	if err != nil {
		return err
	}
	return finished(f, e)
}

// finish gives directories their attributes, down from the last one to a depth.
func (u *unpacker) finish(depth int) error {
	for len(u.dirs) > depth {
		last := u.dirs[len(u.dirs)-1]
		if err := finished(last.File, last.entry); err != nil {
			return err
		}
		u.dirs = u.dirs[:len(u.dirs)-1]
		_ = last.Close()
	}
	return nil
}

func (u *unpacker) close() {
	for _, d := range u.dirs {
		_ = d.Close()
	}
}

// finished gives an open file or directory its attributes. The owner goes first:
// changing it drops the set-user-ID bit and capabilities.
func finished(f *os.File, e *entry) error {
	fd := int(f.Fd())
	if err := unix.Fchown(fd, int(e.UID), int(e.GID)); err != nil {
		return failed("chown", f.Name(), err)
	}
	if err := unix.Fchmod(fd, e.Mode&0o7777); err != nil {
		return failed("chmod", f.Name(), err)
	}
	for _, a := range e.Attrs {
		switch err := unix.Fsetxattr(fd, a.Name, a.Value, unix.XATTR_CREATE); {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EEXIST), errors.Is(err, unix.EOPNOTSUPP):
			return errors.Wrap(err, errors.InvalidArgument, "the kernel takes no such attribute %q", a.Name)
		case err != nil:
			return failed("setxattr", f.Name(), err)
		}
	}
	// futimens(3) is utimensat(2) without a path.
	times := e.times()
	if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0); errno != 0 {
		return failed("utimens", f.Name(), errno)
	}
	return nil
}

// byName gives its attributes to what cannot be opened.
func byName(in int, name string, e *entry) error {
	if err := unix.Fchownat(in, name, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return failed("chown", name, err)
	}
	if e.kind() != unix.S_IFLNK {
		if err := unix.Fchmodat(in, name, e.Mode&0o7777, 0); err != nil {
			return failed("chmod", name, err)
		}
	}
	times := e.times()
	if err := unix.UtimesNanoAt(in, name, times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return failed("utimens", name, err)
	}
	return nil
}

func (e *entry) times() [2]unix.Timespec {
	t := unix.Timespec{Sec: e.Sec, Nsec: e.Nsec}
	return [2]unix.Timespec{t, t}
}
