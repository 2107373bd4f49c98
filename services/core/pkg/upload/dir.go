// Package upload keeps files that were sent to build templates from, in a directory
// of the worker that they were sent to.
package upload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/bulk"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// TTL is how long an upload is kept.
const TTL = 24 * time.Hour

// Reserve is what a Dir leaves free on its disk, in bytes: the worker's other data
// lies there as well. lookEvery is after how much it looks again.
const (
	Reserve   = 1 << 30
	lookEvery = 16 << 20
)

// Dir is uploads in a directory: <project>/<id>.tar below it.
type Dir struct {
	root string
	now  func() time.Time
	free func() (int64, error) // bytes on its disk
}

// Open makes a Dir, with the directory. now is the clock; nil is time.Now.
func Open(root string, now func() time.Time) (*Dir, error) {
	if now == nil {
		now = time.Now
	}
	free := func() (int64, error) {
		var fs syscall.Statfs_t
		err := syscall.Statfs(root, &fs)
		return int64(fs.Bavail) * fs.Bsize, err
	}
	return &Dir{root: root, now: now, free: free}, os.MkdirAll(root, 0o700)
}

// Keep keeps all of r as a project's upload, in place of one with its ID, and tells
// its size and SHA-256 in hexadecimal digits. It is complete or not there at all.
// Returns InvalidArgument for nothing, NoSpace, and r's own errors.
func (d *Dir) Keep(project, id domain.ID, r io.Reader) (bytes int64, sum string, err error) {
	path, err := d.path(project, id)
	if err != nil {
		return 0, "", err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, "", keepError(err)
	}
	tmp, err := os.CreateTemp(dir, ".upload-*")
	if err != nil {
		return 0, "", keepError(err)
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
		}
	}()
	digest := sha256.New()
	n, err := bulk.Copy(io.MultiWriter(tmp, digest), &roomReader{r: r, room: d.room})
	if err != nil {
		return 0, "", keepError(err)
	}
	if n == 0 {
		return 0, "", errors.New(errors.InvalidArgument, "the upload is empty").WithField("body")
	}
	if err = errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return 0, "", keepError(err)
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return 0, "", keepError(err)
	}
	return n, hex.EncodeToString(digest.Sum(nil)), nil
}

// room returns NoSpace when uploads would take what the worker needs.
func (d *Dir) room() error {
	free, err := d.free()
	if err == nil && free < Reserve {
		return errors.New(errors.NoSpace, "the worker has no room for the upload").WithHint("uploads leave %d bytes of its disk free", int64(Reserve))
	}
	return err
}

// roomReader asks for room before it reads on.
type roomReader struct {
	r    io.Reader
	room func() error
	left int64 // until it asks again
}

func (r *roomReader) Read(p []byte) (int, error) {
	if r.left <= 0 {
		if err := r.room(); err != nil {
			return 0, err
		}
		r.left = lookEvery
	}
	n, err := r.r.Read(p)
	r.left -= int64(n)
	return n, err
}

// path is where an upload is, or would be: names that are no IDs lead nowhere.
func (d *Dir) path(project, id domain.ID) (string, error) {
	for _, part := range []domain.ID{project, id} {
		if _, err := domain.ParseID(string(part)); err != nil {
			return "", err
		}
	}
	return filepath.Join(d.root, project.String(), id.String()+".tar"), nil
}

// Path is where a project's upload is. Returns NotFound.
func (d *Dir) Path(project, id domain.ID) (string, error) {
	path, err := d.path(project, id)
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(path); err != nil || d.now().Sub(info.ModTime()) > TTL {
		return "", errors.New(errors.NotFound, "there is no upload %s", id).WithHint("an upload is kept for a day")
	}
	return path, nil
}

// Sweep removes expired uploads, and what was left of broken ones.
func (d *Dir) Sweep(ctx context.Context) error {
	return filepath.WalkDir(d.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			if errors.Is(err, fs.ErrNotExist) {
				err = nil // swept by somebody else
			}
			return err
		}
		info, err := e.Info()
		ours := strings.HasSuffix(path, ".tar") || strings.HasPrefix(e.Name(), ".upload-")
		if err == nil && ours && d.now().Sub(info.ModTime()) > TTL {
			_ = os.Remove(path)
		}
		return ctx.Err()
	})
}

// Forget removes all of a project's.
func (d *Dir) Forget(project domain.ID) error {
	if _, err := domain.ParseID(string(project)); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(d.root, project.String()))
}

func keepError(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return errors.Wrap(err, errors.NoSpace, "the worker has no room for the upload")
	}
	return err
}
