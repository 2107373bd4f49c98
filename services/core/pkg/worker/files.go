package worker

import (
	"context"
	"io"

	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// usedFiles is a VM's file system; each call and each open stream counts as use.
type usedFiles struct {
	w *Worker
	l *liveVM
	c *guest.Client
}

func (f usedFiles) Stat(ctx context.Context, path string, o vmm.FileOptions) (vmm.FileInfo, error) {
	defer f.w.use(f.l)()
	return f.c.Stat(ctx, path, o)
}

func (f usedFiles) List(ctx context.Context, path string, depth int, o vmm.FileOptions) ([]vmm.FileInfo, error) {
	defer f.w.use(f.l)()
	return f.c.List(ctx, path, depth, o)
}

func (f usedFiles) MakeDir(ctx context.Context, path string, o vmm.FileOptions) (vmm.FileInfo, error) {
	defer f.w.use(f.l)()
	return f.c.MakeDir(ctx, path, o)
}

func (f usedFiles) Move(ctx context.Context, from, to string, o vmm.FileOptions) (vmm.FileInfo, error) {
	defer f.w.use(f.l)()
	return f.c.Move(ctx, from, to, o)
}

func (f usedFiles) Remove(ctx context.Context, path string, o vmm.FileOptions) error {
	defer f.w.use(f.l)()
	return f.c.Remove(ctx, path, o)
}

func (f usedFiles) Read(ctx context.Context, path string, o vmm.FileOptions) (vmm.FileInfo, io.ReadCloser, error) {
	release := f.w.use(f.l)
	info, r, err := f.c.Read(ctx, path, o)
	if err != nil {
		release()
		return info, nil, err
	}
	return info, usedReader{r, release}, nil
}

func (f usedFiles) Write(ctx context.Context, path string, r io.Reader, o vmm.FileOptions) (vmm.FileInfo, error) {
	defer f.w.use(f.l)()
	return f.c.Write(ctx, path, r, o)
}

func (f usedFiles) TarDown(ctx context.Context, path string, o vmm.FileOptions) (io.ReadCloser, error) {
	release := f.w.use(f.l)
	r, err := f.c.TarDown(ctx, path, o)
	if err != nil {
		release()
		return nil, err
	}
	return usedReader{r, release}, nil
}

func (f usedFiles) TarUp(ctx context.Context, path string, r io.Reader, o vmm.FileOptions) error {
	defer f.w.use(f.l)()
	return f.c.TarUp(ctx, path, r, o)
}

func (f usedFiles) Watch(ctx context.Context, path string, recursive bool, o vmm.FileOptions) (<-chan vmm.FileEvent, error) {
	return f.c.Watch(ctx, path, recursive, o)
}

// usedReader counts as use of its VM until it is closed.
type usedReader struct {
	io.ReadCloser
	release func()
}

// Close implements io.Closer.
func (r usedReader) Close() error {
	r.release()
	return r.ReadCloser.Close()
}
