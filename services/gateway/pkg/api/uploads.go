package api

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
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// UploadTTL is how long an upload is kept.
const UploadTTL = 24 * time.Hour

// UploadReserve is what an UploadDir leaves free on its disk, where the server's
// database lies as well; roomEvery is after how much it looks again.
const (
	UploadReserve = 1 << 30
	roomEvery     = 16 << 20
)

// UploadStore keeps files that were sent to be used later.
type UploadStore interface {
	// Save keeps all of r. Returns NoSpace, and r's own errors.
	Save(ctx context.Context, by vmm.Caller, r io.Reader) (wire.Upload, error)
	// Path is where the worker reads an upload of the caller's project.
	// Returns NotFound.
	Path(ctx context.Context, by vmm.Caller, id domain.ID) (string, error)
}

// UploadDir is an UploadStore in a directory: <project>/<id>.tar below it.
type UploadDir struct {
	root string
	now  func() time.Time
	free func() (int64, error) // bytes on its disk
	each int64                 // bytes of a project; 0: without bound
}

// Bound has each project keep no more than so many bytes; 0 is without bound.
func (d *UploadDir) Bound(each int64) { d.each = each }

// NewUploadDir makes an UploadDir, with the directory. now is the clock; nil is time.Now.
func NewUploadDir(root string, now func() time.Time) (*UploadDir, error) {
	if now == nil {
		now = time.Now
	}
	free := func() (int64, error) {
		var fs syscall.Statfs_t
		err := syscall.Statfs(root, &fs)
		return int64(fs.Bavail) * fs.Bsize, err
	}
	return &UploadDir{root: root, now: now, free: free}, os.MkdirAll(root, 0o700)
}

// Save implements UploadStore. A file is complete or not there at all.
func (d *UploadDir) Save(ctx context.Context, by vmm.Caller, r io.Reader) (u wire.Upload, err error) {
	if err := d.Sweep(ctx); err != nil {
		return u, err
	}
	dir := filepath.Join(d.root, by.ProjectID.String())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return u, uploadError(err)
	}
	tmp, err := os.CreateTemp(dir, ".upload-*")
	if err != nil {
		return u, uploadError(err)
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
		}
	}()
	digest := sha256.New()
	n, err := bulk.Copy(io.MultiWriter(tmp, digest), &roomReader{r: r, room: func() error { return d.roomFor(dir) }})
	if err != nil {
		return u, uploadError(err)
	}
	if n == 0 {
		return u, errors.New(errors.InvalidArgument, "the upload is empty").WithField("body")
	}
	if err = errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return u, uploadError(err)
	}
	id := domain.NewID()
	if err = os.Rename(tmp.Name(), filepath.Join(dir, id.String()+".tar")); err != nil {
		return u, uploadError(err)
	}
	return wire.Upload{
		ID: id.String(), SizeBytes: n, SHA256: hex.EncodeToString(digest.Sum(nil)), ExpiresAt: d.now().Add(UploadTTL).UTC(),
	}, nil
}

// room returns NoSpace when uploads would take what the server needs.
func (d *UploadDir) room() error {
	free, err := d.free()
	if err == nil && free < UploadReserve {
		return errors.New(errors.NoSpace, "the server has no room for the upload").WithHint("uploads leave %d bytes of its disk free", int64(UploadReserve))
	}
	return err
}

// roomFor is room for a project with a directory; what is on its way counts.
// Returns QuotaExceeded.
func (d *UploadDir) roomFor(dir string) error {
	if err := d.room(); err != nil || d.each == 0 {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var used int64
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			used += info.Size()
		}
	}
	if used >= d.each {
		return errors.New(errors.QuotaExceeded, "the project's quota of upload bytes is used up: %d of %d are taken", used, d.each).
			WithField("quota.uploads").WithHint("uploads are kept for a day; build from them, and wait")
	}
	return nil
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
		r.left = roomEvery
	}
	n, err := r.r.Read(p)
	r.left -= int64(n)
	return n, err
}

// Path implements UploadStore.
func (d *UploadDir) Path(_ context.Context, by vmm.Caller, id domain.ID) (string, error) {
	path := filepath.Join(d.root, by.ProjectID.String(), id.String()+".tar")
	if info, err := os.Stat(path); err != nil || d.now().Sub(info.ModTime()) > UploadTTL {
		return "", errors.New(errors.NotFound, "there is no upload %s", id).WithHint("an upload is kept for a day")
	}
	return path, nil
}

// Sweep removes expired uploads, and what was left of broken ones.
func (d *UploadDir) Sweep(ctx context.Context) error {
	return filepath.WalkDir(d.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			if errors.Is(err, fs.ErrNotExist) {
				err = nil // swept by somebody else
			}
			return err
		}
		info, err := e.Info()
		ours := strings.HasSuffix(path, ".tar") || strings.HasPrefix(e.Name(), ".upload-")
		if err == nil && ours && d.now().Sub(info.ModTime()) > UploadTTL {
			_ = os.Remove(path)
		}
		return ctx.Err()
	})
}

func uploadError(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return errors.Wrap(err, errors.NoSpace, "the server has no room for the upload")
	}
	return err
}
