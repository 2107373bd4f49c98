package nodelink

import (
	"context"
	"io"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// inVolume is a call about a volume's content.
type inVolume struct {
	Volume  *domain.Volume
	Path    string
	Depth   int
	Offset  int64
	Attr    vmm.VolumeAttr
	Parents bool
}

func (s *server) volumes() {
	answers(s, "volumes.make", func(ctx context.Context, v *domain.Volume) (none, error) {
		return none{}, s.node.MakeVolume(ctx, v)
	})
	answers(s, "volumes.delete", func(ctx context.Context, in byID) (none, error) {
		return none{}, s.node.DeleteVolume(ctx, in.ID)
	})
	on := func(do func(context.Context, vmm.VolumeFiles, inVolume) (vmm.VolumeEntry, error)) func(context.Context, inVolume) (vmm.VolumeEntry, error) {
		return func(ctx context.Context, in inVolume) (vmm.VolumeEntry, error) {
			f, err := s.node.OpenVolume(ctx, in.Volume)
			if err != nil {
				return vmm.VolumeEntry{}, err
			}
			e, err := do(ctx, f, in)
			return e, errors.Join(err, f.Close())
		}
	}
	answers(s, "volumes.open", on(func(context.Context, vmm.VolumeFiles, inVolume) (vmm.VolumeEntry, error) {
		return vmm.VolumeEntry{}, nil
	}))
	answers(s, "volumes.stat", on(func(ctx context.Context, f vmm.VolumeFiles, in inVolume) (vmm.VolumeEntry, error) {
		return f.Stat(ctx, in.Path)
	}))
	answers(s, "volumes.mkdir", on(func(ctx context.Context, f vmm.VolumeFiles, in inVolume) (vmm.VolumeEntry, error) {
		return f.MakeDir(ctx, in.Path, in.Attr, in.Parents)
	}))
	answers(s, "volumes.set", on(func(ctx context.Context, f vmm.VolumeFiles, in inVolume) (vmm.VolumeEntry, error) {
		return f.Set(ctx, in.Path, in.Attr)
	}))
	answers(s, "volumes.remove", on(func(ctx context.Context, f vmm.VolumeFiles, in inVolume) (vmm.VolumeEntry, error) {
		return vmm.VolumeEntry{}, f.Remove(ctx, in.Path)
	}))
	answers(s, "volumes.list", func(ctx context.Context, in inVolume) ([]vmm.VolumeEntry, error) {
		f, err := s.node.OpenVolume(ctx, in.Volume)
		if err != nil {
			return nil, err
		}
		list, err := f.List(ctx, in.Path, in.Depth)
		return list, errors.Join(err, f.Close())
	})
	takes(s, "volumes.write", func(ctx context.Context, in inVolume, body io.Reader) (vmm.VolumeEntry, error) {
		return on(func(ctx context.Context, f vmm.VolumeFiles, in inVolume) (vmm.VolumeEntry, error) {
			return f.Write(ctx, in.Path, body, in.Attr, in.Parents)
		})(ctx, in)
	})
	streams(s, "volumes.read", func(ctx context.Context, in inVolume, _ io.Reader, out *answer) error {
		f, err := s.node.OpenVolume(ctx, in.Volume)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		e, r, err := f.Read(ctx, in.Path)
		if err != nil {
			return err
		}
		if _, err := r.Seek(in.Offset, io.SeekStart); err != nil {
			_ = r.Close()
			return err
		}
		return out.copy(e, r)
	})
}

// MakeVolume implements service.Node.
func (c *Client) MakeVolume(ctx context.Context, v *domain.Volume) error {
	_, err := call[none](ctx, c, "volumes.make", v)
	return err
}

// DeleteVolume implements service.Node.
func (c *Client) DeleteVolume(ctx context.Context, id domain.ID) error {
	_, err := call[none](ctx, c, "volumes.delete", byID{id})
	return err
}

// OpenVolume implements service.Node.
func (c *Client) OpenVolume(ctx context.Context, v *domain.Volume) (vmm.VolumeFiles, error) {
	if _, err := call[vmm.VolumeEntry](ctx, c, "volumes.open", inVolume{Volume: v}); err != nil {
		return nil, err
	}
	return volumeFiles{c, v}, nil
}

// volumeFiles is a volume of another node.
type volumeFiles struct {
	c *Client
	v *domain.Volume
}

func (f volumeFiles) Stat(ctx context.Context, path string) (vmm.VolumeEntry, error) {
	return call[vmm.VolumeEntry](ctx, f.c, "volumes.stat", inVolume{Volume: f.v, Path: path})
}

func (f volumeFiles) List(ctx context.Context, path string, depth int) ([]vmm.VolumeEntry, error) {
	return call[[]vmm.VolumeEntry](ctx, f.c, "volumes.list", inVolume{Volume: f.v, Path: path, Depth: depth})
}

func (f volumeFiles) MakeDir(ctx context.Context, path string, a vmm.VolumeAttr, parents bool) (vmm.VolumeEntry, error) {
	return call[vmm.VolumeEntry](ctx, f.c, "volumes.mkdir", inVolume{Volume: f.v, Path: path, Attr: a, Parents: parents})
}

func (f volumeFiles) Read(ctx context.Context, path string) (vmm.VolumeEntry, io.ReadSeekCloser, error) {
	r := &volumeReader{ctx: ctx, f: f, path: path}
	if err := r.open(); err != nil {
		return vmm.VolumeEntry{}, nil, err
	}
	return r.entry, r, nil
}

func (f volumeFiles) Write(ctx context.Context, path string, r io.Reader, a vmm.VolumeAttr, parents bool) (vmm.VolumeEntry, error) {
	return send[vmm.VolumeEntry](ctx, f.c, "volumes.write", inVolume{Volume: f.v, Path: path, Attr: a, Parents: parents}, r)
}

func (f volumeFiles) Set(ctx context.Context, path string, a vmm.VolumeAttr) (vmm.VolumeEntry, error) {
	return call[vmm.VolumeEntry](ctx, f.c, "volumes.set", inVolume{Volume: f.v, Path: path, Attr: a})
}

func (f volumeFiles) Remove(ctx context.Context, path string) error {
	_, err := call[vmm.VolumeEntry](ctx, f.c, "volumes.remove", inVolume{Volume: f.v, Path: path})
	return err
}

func (volumeFiles) Close() error { return nil }

// volumeReader reads a file of a volume of another node. What a seek leads to
// is asked for when it is read.
type volumeReader struct {
	ctx    context.Context // of the call that it is the result of
	f      volumeFiles
	path   string
	entry  vmm.VolumeEntry
	offset int64
	reply  *reply // at offset; nil: not asked for
}

func (r *volumeReader) open() error {
	var e vmm.VolumeEntry
	reply, err := r.f.c.open(r.ctx, "volumes.read", inVolume{Volume: r.f.v, Path: r.path, Offset: r.offset}, nil, &e)
	if err != nil {
		return err
	}
	if r.entry.Name != "" && (e.Size != r.entry.Size || !e.ModifiedAt.Equal(r.entry.ModifiedAt)) {
		return errors.Join(errors.New(errors.Conflict, "the file was replaced while it was read").WithHint("read it again"), reply.Close())
	}
	r.entry, r.reply = e, reply
	return nil
}

func (r *volumeReader) Read(p []byte) (int, error) {
	if r.offset >= r.entry.Size {
		return 0, io.EOF
	}
	if r.reply == nil {
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	n, err := r.reply.Read(p)
	r.offset += int64(n)
	return n, err
}

func (r *volumeReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.offset
	case io.SeekEnd:
		offset += r.entry.Size
	}
	if offset < 0 {
		return 0, errors.New(errors.OutOfRange, "the offset %d is before the file", offset)
	}
	if offset == r.offset {
		return offset, nil
	}
	r.offset = offset
	return offset, r.Close()
}

func (r *volumeReader) Close() error {
	if r.reply == nil {
		return nil
	}
	reply := r.reply
	r.reply = nil
	return reply.Close()
}
