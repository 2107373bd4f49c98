package fsys

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
)

const (
	// MaxEntries bounds one listing.
	MaxEntries = 100_000
	dirMode    = 0o755
)

// MakeDir makes a directory and its parents, all the user's. Returns
// AlreadyExists for a directory, InvalidArgument where something else is.
func (fs *FS) MakeDir(u *osuser.User, path string) (e Entry, err error) {
	err = osuser.Do(u, func() error {
		switch info, err := os.Stat(path); {
		case err == nil && info.IsDir():
			return unix.EEXIST
		case err == nil:
			return errors.New(errors.InvalidArgument, "%q exists and is not a directory", path)
		case !errors.Is(err, os.ErrNotExist):
			return err
		}
		return os.MkdirAll(path, dirMode)
	})
	if err != nil {
		return Entry{}, Error(err, path)
	}
	return fs.Stat(u, path)
}

// Move renames a file or directory and makes the destination's parents.
// Returns NotFound, Unsupported between file systems, Conflict onto a
// directory that is not empty.
func (fs *FS) Move(u *osuser.User, from, to string) (Entry, error) {
	err := osuser.Do(u, func() error {
		if _, err := os.Lstat(from); err != nil {
			return Error(err, from)
		}
		if err := os.MkdirAll(filepath.Dir(to), dirMode); err != nil {
			return err
		}
		return os.Rename(from, to)
	})
	if err != nil {
		return Entry{}, Error(err, to)
	}
	return fs.Stat(u, to)
}

// Remove removes a file or a whole directory. What is absent is removed already.
// Returns InvalidArgument for the root and for the user's home: who empties
// those has mistyped, and half of it is gone when the rest is refused.
func (fs *FS) Remove(u *osuser.User, path string) error {
	switch filepath.Clean(path) {
	case "/":
		return errors.New(errors.InvalidArgument, "the root directory cannot be removed").WithField("path")
	case filepath.Clean(u.Home):
		return errors.New(errors.InvalidArgument, "the user's home cannot be removed").WithField("path").WithHint("remove what is in it")
	}
	return Error(osuser.Do(u, func() error { return os.RemoveAll(path) }), path)
}

// List describes what is in a directory, down to depth levels (0 is 1), in the
// order of a lexical walk. Directories below that the user may not read are
// listed without their content. Returns NotFound, InvalidArgument for what is
// no directory, TooLarge beyond MaxEntries.
func (fs *FS) List(u *osuser.User, path string, depth int) (list []Entry, err error) {
	err = osuser.Do(u, func() error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return errors.New(errors.InvalidArgument, "%q is not a directory", path)
		}
		return fs.walk(path, max(depth, 1), &list)
	})
	return list, Error(err, path)
}

func (fs *FS) walk(dir string, depth int, list *[]Entry) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	names, err := d.ReadDir(MaxEntries + 1 - len(*list))
	_ = d.Close()
	if err != nil && len(names) == 0 && !isEOF(err) {
		return err
	}
	if len(*list)+len(names) > MaxEntries {
		return errors.New(errors.TooLarge, "the directory has more than %d entries", MaxEntries)
	}
	slices.SortFunc(names, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, name := range names {
		path := filepath.Join(dir, name.Name())
		info, err := os.Lstat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		*list = append(*list, fs.entry(path, info))
		if !info.IsDir() || depth == 1 {
			continue
		}
		if err := fs.walk(path, depth-1, list); err != nil && !errors.Is(err, os.ErrPermission) && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
