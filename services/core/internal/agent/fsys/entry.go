package fsys

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
)

// MetadataPrefix begins the extended attributes that hold a file's metadata.
const MetadataPrefix = "user.e2b."

// Bounds on the metadata of one file; a file system may have lower ones.
const (
	maxXattrList  = 64 << 10
	maxXattrValue = 64 << 10
)

// Type is what an entry is.
type Type int

// The types. Sockets, devices and pipes are Other.
const (
	Other Type = iota
	File
	Dir
	Symlink
)

// Entry describes a file.
type Entry struct {
	Name   string
	Path   string
	Type   Type // of a symbolic link: its target's, or Symlink when it leads nowhere
	Size   int64
	Mode   uint32      // permission, setuid, setgid and sticky bits; of a link: its target's
	Perm   os.FileMode // for people, the link's own
	Owner  string
	Group  string
	Time   time.Time         // last modification
	Target string            // absolute target of a symbolic link; empty: none
	Meta   map[string]string // metadata without its prefix
}

// FS works on files. Users gives names to owners.
type FS struct {
	Users *osuser.DB
}

// Stat describes what a path leads to. Returns NotFound, PermissionDenied.
func (fs *FS) Stat(u *osuser.User, path string) (e Entry, err error) {
	err = osuser.Do(u, func() error {
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		e = fs.entry(path, info)
		return nil
	})
	return e, Error(err, path)
}

// entry describes a file that was lstat'ed; it runs with the user's rights.
func (fs *FS) entry(path string, info os.FileInfo) Entry {
	e := Entry{
		Name: info.Name(), Path: path, Type: typeOf(info), Size: info.Size(),
		Mode: bits(info), Perm: info.Mode(), Time: info.ModTime(),
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		e.Owner, e.Group = fs.Users.UserName(st.Uid), fs.Users.GroupName(st.Gid)
	}
	if info.Mode()&os.ModeSymlink != 0 {
		e.Target = target(path)
		if to, err := os.Stat(path); err == nil {
			e.Type, e.Mode = typeOf(to), bits(to)
		}
	}
	if e.Type == File || e.Type == Dir {
		e.Meta = Metadata(path)
	}
	return e
}

// target is where a link leads in the end, or, where that fails, what it says.
func target(path string) string {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		return to
	}
	to, err := os.Readlink(path)
	if err != nil {
		return ""
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(filepath.Dir(path), to)
	}
	return to
}

func typeOf(info os.FileInfo) Type {
	switch info.Mode().Type() {
	case 0:
		return File
	case os.ModeDir:
		return Dir
	case os.ModeSymlink:
		return Symlink
	}
	return Other
}

func bits(info os.FileInfo) uint32 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Mode & 0o7777
	}
	return uint32(info.Mode().Perm())
}

// Metadata reads a file's metadata; what cannot be read is left out.
func Metadata(path string) map[string]string {
	var meta map[string]string
	for name, value := range xattrs(path, MetadataPrefix) {
		if meta == nil {
			meta = map[string]string{}
		}
		meta[strings.TrimPrefix(name, MetadataPrefix)] = value
	}
	return meta
}

// xattrs reads the extended attributes whose names begin with prefix.
func xattrs(path, prefix string) map[string]string {
	size, err := unix.Listxattr(path, nil)
	if err != nil || size == 0 || size > maxXattrList {
		return nil
	}
	list := make([]byte, size)
	if size, err = unix.Listxattr(path, list); err != nil {
		return nil
	}
	var found map[string]string
	for name := range strings.SplitSeq(string(list[:size]), "\x00") {
		if !strings.HasPrefix(name, prefix) || name == prefix {
			continue
		}
		n, err := unix.Getxattr(path, name, nil)
		if err != nil || n > maxXattrValue {
			continue
		}
		value := make([]byte, n)
		if n, err = unix.Getxattr(path, name, value); err != nil {
			continue
		}
		if found == nil {
			found = map[string]string{}
		}
		found[name] = string(value[:n])
	}
	return found
}

// SetMetadata replaces the metadata of an open file. Returns Unsupported where
// the file system keeps no attributes, NoSpace, TooLarge.
func SetMetadata(f *os.File, path string, meta map[string]string) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return Error(err, path)
	}
	var setErr error
	err = raw.Control(func(fd uintptr) { setErr = setMetadata(int(fd), meta) })
	if err != nil {
		return Error(err, path)
	}
	switch {
	case errors.Is(setErr, unix.ENOTSUP):
		return errors.New(errors.Unsupported, "the file system of %q keeps no metadata", path)
	case errors.Is(setErr, unix.E2BIG), errors.Is(setErr, unix.ERANGE):
		return errors.New(errors.TooLarge, "the metadata of %q is too large", path)
	}
	return Error(setErr, path)
}

func setMetadata(fd int, meta map[string]string) error {
	list := make([]byte, maxXattrList)
	if n, err := unix.Flistxattr(fd, list); err == nil {
		for name := range strings.SplitSeq(string(list[:n]), "\x00") {
			key, ours := strings.CutPrefix(name, MetadataPrefix)
			if _, kept := meta[key]; ours && !kept {
				if err := unix.Fremovexattr(fd, name); err != nil {
					return err
				}
			}
		}
	}
	for key, value := range meta {
		if err := unix.Fsetxattr(fd, MetadataPrefix+key, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}
