// Package executable puts programs where they are started from.
package executable

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Install writes what src gives to path, in one step, as a program that
// everybody may run. A modified that is not zero becomes its time of
// modification. The program can be started as soon as Install returns.
func Install(src io.Reader, path string, modified time.Time) error {
	staged, err := stage(src, filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(staged) }()
	if !modified.IsZero() {
		if err := os.Chtimes(staged, modified, modified); err != nil {
			return err
		}
	}
	return os.Rename(staged, path)
}

// stage writes a new file in dir. No process of ours is made meanwhile: it
// would have the file open to write until it has become another program, and a
// program that is open to write cannot be started (ETXTBSY, execve(2)).
func stage(src io.Reader, dir string) (string, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, src)
	if err = errors.Join(err, f.Chmod(0o755), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}
