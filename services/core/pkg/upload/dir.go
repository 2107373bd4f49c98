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

// TTL is how long an upload is kept, and grace how much longer its file is, for who
// began to build from it at the last moment.
const (
	TTL   = 24 * time.Hour
	grace = 6 * time.Hour
)

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

// Open makes a Dir, with the directory, which is its alone: what an earlier process was
// killed in the middle of is removed. now is the clock; nil is time.Now.
func Open(root string, now func() time.Time) (*Dir, error) {
	if now == nil {
		now = time.Now
	}
	free := func() (int64, error) {
		var fs syscall.Statfs_t
		err := syscall.Statfs(root, &fs)
		return int64(fs.Bavail) * fs.Bsize, err
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	broken, err := filepath.Glob(filepath.Join(root, "*", brokenPrefix+"*"))
	for _, path := range broken {
		err = errors.Join(err, os.Remove(path))
	}
	return &Dir{root: root, now: now, free: free}, err
}

// brokenPrefix begins the names of files that are not whole.
const brokenPrefix = ".upload-"

// Keep keeps all of r as a project's upload, in place of one with its ID, and tells
// its size and SHA-256 in hexadecimal digits. It is complete or not there at all, and
// not there if want, unless empty, is another sum. Returns InvalidArgument for nothing,
// NoSpace, Internal for another sum, and r's and ctx's own errors.
func (d *Dir) Keep(ctx context.Context, project, id domain.ID, want string, r io.Reader) (bytes int64, sum string, err error) {
	path, err := d.path(project, id)
	if err != nil {
		return 0, "", err
	}
	tmp, err := create(filepath.Dir(path))
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
	sum = hex.EncodeToString(digest.Sum(nil))
	if want != "" && sum != want {
		return 0, "", errors.New(errors.Internal, "the upload %s came to be another on its way", id)
	}
	if err = errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return 0, "", keepError(err)
	}
	if err = ctx.Err(); err != nil { // who sent it is told that it is not kept
		return 0, "", err
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return 0, "", keepError(err)
	}
	return n, sum, nil
}

// create makes a file that is not whole in a directory, which a sweep may have removed
// as empty.
func create(dir string) (f *os.File, err error) {
	for range 3 {
		if err = os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if f, err = os.CreateTemp(dir, brokenPrefix+"*"); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return f, err
}

// Drop removes one. Absent is success.
func (d *Dir) Drop(project, id domain.ID) error {
	path, err := d.path(project, id)
	if err != nil {
		return err
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
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
	if info, err := os.Stat(path); err != nil || d.now().Sub(info.ModTime()) > TTL+grace {
		return "", errors.New(errors.NotFound, "there is no upload %s", id).WithHint("an upload is kept for a day")
	}
	return path, nil
}

// Sweep removes expired uploads.
func (d *Dir) Sweep(ctx context.Context) error { return Sweep(ctx, d.root, d.now()) }

// Sweep removes the uploads in a directory that have expired at now, and directories
// where they were the last. None is success.
func Sweep(ctx context.Context, root string, now time.Time) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			if errors.Is(err, fs.ErrNotExist) {
				err = nil // swept by somebody else
			}
			return err
		}
		info, err := e.Info()
		ours := strings.HasSuffix(path, ".tar") || strings.HasPrefix(e.Name(), brokenPrefix)
		if err == nil && ours && now.Sub(info.ModTime()) > TTL+grace {
			_ = os.Remove(path)
			_ = os.Remove(filepath.Dir(path)) // where it was the last
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
