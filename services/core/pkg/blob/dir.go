package blob

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Dir keeps blobs in a directory: <dir>/<two digits>/<the digits>. It may be on
// a file system that hosts share; nothing but rename(2) is relied on.
type Dir struct {
	path string
}

const (
	partPrefix = ".part-"
	// staleAfter is when what is half written is nobody's any more.
	staleAfter = 24 * time.Hour
)

var _ Store = (*Dir)(nil)

// OpenDir opens a directory, which it makes if absent, mode 0700.
// Returns InvalidArgument, Internal.
func OpenDir(path string) (*Dir, error) {
	if !filepath.IsAbs(path) {
		return nil, errors.New(errors.InvalidArgument, "the directory of blobs must be an absolute path")
	}
	path = filepath.Clean(path)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, dirError(err)
	}
	return &Dir{path: path}, nil
}

// Name implements Store.
func (d *Dir) Name() string { return "file://" + d.path }

func (d *Dir) file(digest Digest) (string, error) {
	digits, err := digest.hex()
	if err != nil {
		return "", err
	}
	return filepath.Join(d.path, digits[:2], digits), nil
}

// Put implements Store.
func (d *Dir) Put(ctx context.Context, digest Digest, bytes int64, r io.Reader) error {
	name, err := d.file(digest)
	if err != nil {
		return err
	}
	if bytes <= 0 {
		return noBytes(bytes)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return dirError(err)
	}
	f, err := os.CreateTemp(d.path, partPrefix)
	if err != nil {
		return dirError(err)
	}
	defer func() { _ = f.Close(); _ = os.Remove(f.Name()) }()
	// Hidden, so that the copy looks at the context between its pieces.
	if _, err := io.Copy(struct{ io.Writer }{f}, struct{ io.Reader }{check(&bound{ctx, r}, digest, bytes, errors.InvalidArgument)}); err != nil {
		return dirError(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return dirError(err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return dirError(err)
	}
	return dirError(errors.Join(sync(filepath.Dir(name)), sync(d.path)))
}

// Get implements Store.
func (d *Dir) Get(ctx context.Context, digest Digest) (io.ReadCloser, error) {
	name, err := d.file(digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, absent(digest)
	}
	if err != nil {
		return nil, dirError(err)
	}
	return reader{check(&bound{ctx, f}, digest, -1, errors.PreconditionFailed), f}, nil
}

// Delete implements Store.
func (d *Dir) Delete(_ context.Context, digest Digest) error {
	name, err := d.file(digest)
	if err != nil {
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return dirError(err)
	}
	return nil
}

// List implements Store. It removes what writers that died have left.
func (d *Dir) List(ctx context.Context, f func(Info) error) error {
	return filepath.WalkDir(d.path, func(name string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) || err == nil && e.IsDir() {
			return nil
		}
		if err != nil {
			return dirError(err)
		}
		st, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return dirError(err)
		}
		if strings.HasPrefix(e.Name(), partPrefix) && time.Since(st.ModTime()) > staleAfter {
			if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) { // another host's may have been quicker
				return dirError(err)
			}
			return nil
		}
		digest := Digest(algorithm + e.Name())
		if _, err := digest.hex(); err != nil {
			return nil //nolint:nilerr // it is no blob
		}
		return f(Info{Digest: digest, Bytes: st.Size(), Written: st.ModTime()})
	})
}

// reader reads by one and closes another.
type reader struct {
	io.Reader
	io.Closer
}

// bound ends reading with a context.
type bound struct {
	ctx context.Context
	r   io.Reader
}

func (b *bound) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.r.Read(p)
}

func absent(d Digest) error { return errors.New(errors.NotFound, "there is no blob %s", d) }

func dirError(err error) error {
	var coded *errors.Error
	switch {
	case err == nil, errors.As(err, &coded), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return errors.Wrap(err, errors.NoSpace, "the directory of blobs is full")
	}
	return errors.Wrap(err, errors.Unavailable, "the directory of blobs cannot be used")
}

func sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
