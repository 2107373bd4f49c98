package fsys

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
)

// MaxPath bounds a path from outside, in bytes (PATH_MAX).
const MaxPath = 4096

// Resolve makes a path absolute: relative ones, and "~", start at the user's
// home; an empty one is the home. Returns InvalidArgument.
func Resolve(u *osuser.User, path string) (string, error) {
	switch {
	case len(path) > MaxPath:
		return "", errors.New(errors.InvalidArgument, "the path is longer than %d bytes", MaxPath).WithField("path")
	case strings.Contains(path, "\x00"):
		return "", errors.New(errors.InvalidArgument, "the path contains NUL").WithField("path")
	case path == "~" || strings.HasPrefix(path, "~/"):
		path = "." + path[1:]
	}
	if filepath.IsAbs(path) {
		return filepath.Clean(path), nil
	}
	return filepath.Join(u.Home, path), nil
}

// Error words an error of the file system for the caller, who named the path.
func Error(err error, path string) error {
	var known *errors.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		if errors.Is(err, os.ErrNotExist) {
			errno = unix.ENOENT
		} else {
			return errors.Wrap(err, errors.Internal, "%q cannot be used", path)
		}
	}
	switch errno {
	case unix.ENOENT:
		return errors.New(errors.NotFound, "%q does not exist", path)
	case unix.EACCES, unix.EPERM:
		return errors.New(errors.PermissionDenied, "%q: permission denied", path)
	case unix.EROFS:
		return errors.New(errors.PermissionDenied, "%q is on a read-only file system", path)
	case unix.EEXIST:
		return errors.New(errors.AlreadyExists, "%q exists already", path)
	case unix.ENOTEMPTY:
		return errors.New(errors.Conflict, "the directory %q is not empty", path)
	case unix.EBUSY, unix.ETXTBSY:
		return errors.New(errors.Conflict, "%q is in use", path)
	case unix.ENOSPC, unix.EDQUOT, unix.EFBIG:
		return errors.New(errors.NoSpace, "not enough disk space available")
	case unix.ENOTDIR:
		return errors.New(errors.InvalidArgument, "a part of %q is not a directory", path)
	case unix.EISDIR:
		return errors.New(errors.InvalidArgument, "%q is a directory", path)
	case unix.ELOOP, unix.ENAMETOOLONG, unix.EINVAL, unix.ENXIO, unix.ENODEV:
		return errors.New(errors.InvalidArgument, "%q: %s", path, errno)
	case unix.EXDEV:
		return errors.New(errors.Unsupported, "%q: cannot be moved to another file system", path).WithHint("copy it and remove the original")
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM:
		return errors.New(errors.CapacityExhausted, "the machine has no room to open %q", path)
	}
	return errors.Wrap(err, errors.Internal, "%q: %s", path, errno)
}
