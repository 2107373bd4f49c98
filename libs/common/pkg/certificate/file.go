package certificate

import (
	"io/fs"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// WriteFile makes a file anew, whole or not at all. What a process that was killed
// has left of one is made anew, too.
func WriteFile(file string, text []byte, mode fs.FileMode) error {
	name := file + ".new"
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	if err := os.Rename(name, file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
