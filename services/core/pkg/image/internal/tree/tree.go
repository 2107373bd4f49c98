// Package tree edits a directory tree that an untrusted party shaped, without
// ever leaving it. Paths are resolved by the kernel as if the tree's top were
// the root directory (openat2(2), RESOLVE_IN_ROOT, Linux 5.6): "..", absolute
// paths and symbolic links all stay below it. Last components are never
// followed unless a method says so.
//
// The tree must not be changed by others while it is edited.
package tree

import (
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Bounds on names. A real path below the top must stay so short that the
// host's PATH_MAX (4096) still has room for the directory that the tree is in.
const (
	MaxPath = 3072
	maxName = 255 // NAME_MAX
)

// Tree is a directory tree opened for confined edits. It is not safe for
// concurrent use.
type Tree struct {
	top  int    // O_PATH descriptor of the top
	real string // the top's path as the kernel tells it

	// The last directory that was opened: archives name neighbours one after
	// another. Forgotten whenever a link or a directory goes or comes.
	dir Dir
}

// Dir is an opened directory of the tree. It is valid until the next call on
// the tree that takes a path.
type Dir struct {
	fd      int
	logical string // as asked for, cleaned
	Path    string // real path below the top, without links; "." is the top
}

// Open opens the directory as a tree. A symbolic link is refused.
func Open(dir string) (*Tree, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	real, err := os.Readlink(procFD(fd))
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &Tree{top: fd, real: real, dir: Dir{fd: -1}}, nil
}

// Close lets go of the tree. It may be called twice.
func (t *Tree) Close() error {
	t.forget()
	if t.top < 0 {
		return nil
	}
	err := unix.Close(t.top)
	t.top = -1
	return err
}

// HostPath is the tree's top as a path on the host.
func (t *Tree) HostPath() string { return t.real }

// Clean brings a path from outside into the form that the tree uses: relative,
// slash-separated, without "." and "..". Returns InvalidArgument for empty,
// overlong and malformed paths and for those that climb above the top.
func Clean(name string) (string, error) {
	if name == "" {
		return "", errors.New(errors.InvalidArgument, "an entry has an empty name")
	}
	if len(name) > MaxPath {
		return "", errors.New(errors.InvalidArgument, "a name of %d bytes exceeds the limit of %d: %q…", len(name), MaxPath, name[:64])
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", errors.New(errors.InvalidArgument, "the name %q has a NUL byte", name)
	}
	depth := 0
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case len(part) > maxName:
			return "", errors.New(errors.InvalidArgument, "a name component of %d bytes exceeds the limit of %d: %q…", len(part), maxName, part[:64])
		case part == "..":
			if depth--; depth < 0 {
				return "", errors.New(errors.InvalidArgument, "the name %q leads out of the root", name)
			}
		case part != "" && part != ".":
			depth++
		}
	}
	return strings.TrimPrefix(path.Join("/", name), "/"), nil
}

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// openIn resolves a cleaned path below the top.
func (t *Tree) openIn(name string, flags uint64, mode uint64) (int, error) {
	if name == "" {
		name = "."
	}
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Mode:    mode,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(t.top, name, &how)
		if err == unix.EINTR || err == unix.EAGAIN { // EAGAIN: a rename raced with "..": openat2(2)
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return fd, nil
	}
}

func (t *Tree) forget() {
	if t.dir.fd >= 0 {
		_ = unix.Close(t.dir.fd)
	}
	t.dir = Dir{fd: -1}
}

// Dir opens a directory; links on the way are resolved within the tree.
func (t *Tree) Dir(name string) (Dir, error) {
	if t.dir.fd >= 0 && t.dir.logical == name {
		return t.dir, nil
	}
	fd, err := t.openIn(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return Dir{}, err
	}
	real, err := os.Readlink(procFD(fd))
	if err == nil && real != t.real && !strings.HasPrefix(real, t.real+"/") {
		// RESOLVE_IN_ROOT makes this impossible; never write on trust alone.
		err = errors.New(errors.Internal, "the directory %q lies outside of the root", name)
	}
	rel := "."
	if err == nil && real != t.real {
		rel = real[len(t.real)+1:]
		if len(rel) > MaxPath {
			err = errors.New(errors.InvalidArgument, "the real path of %q exceeds the limit of %d bytes", name, MaxPath)
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return Dir{}, err
	}
	t.forget()
	t.dir = Dir{fd: fd, logical: name, Path: rel}
	return t.dir, nil
}

// Parent opens the directory that holds name, making missing ones on the way
// (mode 0755), and gives name's last component.
func (t *Tree) Parent(name string) (Dir, string, error) {
	parent, base := path.Split(name)
	parent = strings.TrimSuffix(parent, "/")
	if base == "" || base == "." || base == ".." { // the kernel would follow ".." from a descriptor
		return Dir{}, "", errors.New(errors.InvalidArgument, "%q names no entry of the root", name)
	}
	d, err := t.Dir(parent)
	if errors.Is(err, fs.ErrNotExist) && parent != "" {
		if err = t.MkdirAll(parent, 0o755); err == nil {
			d, err = t.Dir(parent)
		}
	}
	return d, base, err
}

// MkdirAll makes the directory and the missing ones above it. A dangling link
// on the way is an error, as it is for mkdir(1).
func (t *Tree) MkdirAll(name string, mode uint32) error {
	done := ""
	for part := range strings.SplitSeq(name, "/") {
		if part == "" {
			continue
		}
		if part == "." || part == ".." {
			return errors.New(errors.InvalidArgument, "the path %q is not clean", name)
		}
		d, err := t.Dir(done)
		if err != nil {
			return err
		}
		next := path.Join(done, part)
		switch err := unix.Mkdirat(d.fd, part, mode); {
		case err == nil:
			if err := unix.Fchmodat(d.fd, part, mode, 0); err != nil { // whatever the umask is
				return &fs.PathError{Op: "chmod", Path: next, Err: err}
			}
		case err != unix.EEXIST:
			return &fs.PathError{Op: "mkdir", Path: next, Err: err}
		}
		done = next
	}
	_, err := t.Dir(done)
	return err
}

// ReadFile reads a regular file of at most max bytes; links are followed
// within the tree. Returns TooLarge, or an error that is fs.ErrNotExist.
func (t *Tree) ReadFile(name string, max int64) ([]byte, error) {
	// O_NONBLOCK: opening a FIFO must not hang.
	fd, err := t.openIn(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(b)) > max {
		err = errors.New(errors.TooLarge, "/%s is larger than %d bytes", name, max)
	}
	return b, err
}

// Stat tells about what name leads to, links followed within the tree.
func (t *Tree) Stat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := t.openIn(name, unix.O_PATH, 0)
	if err != nil {
		return st, err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &st); err != nil {
		return st, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return st, nil
}

// Lstat tells about name itself.
func (t *Tree) Lstat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := t.openIn(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return st, err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &st); err != nil {
		return st, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return st, nil
}

// Names lists a directory, links to it followed within the tree.
func (t *Tree) Names(name string) ([]string, error) {
	fd, err := t.openIn(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return f.Readdirnames(-1)
}
