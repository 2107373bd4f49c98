package nodelink

import (
	"context"
	"encoding/json"
	"io"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// onFile is a call about a file in a VM.
type onFile struct {
	VM        *domain.VM
	Path, To  string
	Depth     int
	Recursive bool
	Options   vmm.FileOptions
}

func (s *server) files() {
	on := func(do func(context.Context, service.GuestFiles, onFile) (vmm.FileInfo, error)) func(context.Context, onFile) (vmm.FileInfo, error) {
		return func(ctx context.Context, in onFile) (vmm.FileInfo, error) {
			f, err := s.node.Files(ctx, in.VM)
			if err != nil {
				return vmm.FileInfo{}, err
			}
			return do(ctx, f, in)
		}
	}
	answers(s, "files.stat", on(func(ctx context.Context, f service.GuestFiles, in onFile) (vmm.FileInfo, error) {
		return f.Stat(ctx, in.Path, in.Options)
	}))
	answers(s, "files.mkdir", on(func(ctx context.Context, f service.GuestFiles, in onFile) (vmm.FileInfo, error) {
		return f.MakeDir(ctx, in.Path, in.Options)
	}))
	answers(s, "files.move", on(func(ctx context.Context, f service.GuestFiles, in onFile) (vmm.FileInfo, error) {
		return f.Move(ctx, in.Path, in.To, in.Options)
	}))
	answers(s, "files.remove", on(func(ctx context.Context, f service.GuestFiles, in onFile) (vmm.FileInfo, error) {
		return vmm.FileInfo{}, f.Remove(ctx, in.Path, in.Options)
	}))
	answers(s, "files.list", func(ctx context.Context, in onFile) ([]vmm.FileInfo, error) {
		f, err := s.node.Files(ctx, in.VM)
		if err != nil {
			return nil, err
		}
		return f.List(ctx, in.Path, in.Depth, in.Options)
	})
	takes(s, "files.write", func(ctx context.Context, in onFile, body io.Reader) (vmm.FileInfo, error) {
		f, err := s.node.Files(ctx, in.VM)
		if err != nil {
			return vmm.FileInfo{}, err
		}
		return f.Write(ctx, in.Path, body, in.Options)
	})
	takes(s, "files.tarup", func(ctx context.Context, in onFile, body io.Reader) (none, error) {
		f, err := s.node.Files(ctx, in.VM)
		if err != nil {
			return none{}, err
		}
		return none{}, f.TarUp(ctx, in.Path, body, in.Options)
	})
	streams(s, "files.read", func(ctx context.Context, in onFile, _ io.Reader, out *answer) error {
		f, err := s.node.Files(ctx, in.VM)
		if err != nil {
			return err
		}
		info, r, err := f.Read(ctx, in.Path, in.Options)
		if err != nil {
			return err
		}
		return out.copy(info, r)
	})
	streams(s, "files.tardown", func(ctx context.Context, in onFile, _ io.Reader, out *answer) error {
		f, err := s.node.Files(ctx, in.VM)
		if err != nil {
			return err
		}
		r, err := f.TarDown(ctx, in.Path, in.Options)
		if err != nil {
			return err
		}
		return out.copy(none{}, r)
	})
	streams(s, "files.watch", func(ctx context.Context, in onFile, _ io.Reader, out *answer) error {
		f, err := s.node.Files(ctx, in.VM)
		if err != nil {
			return err
		}
		events, err := f.Watch(ctx, in.Path, in.Recursive, in.Options)
		if err != nil {
			return err
		}
		if err := out.begin(none{}); err != nil {
			return err
		}
		each := json.NewEncoder(out)
		for e := range events {
			if err := each.Encode(e); err != nil {
				return err
			}
		}
		return nil
	})
}

// copy answers with a value and all of r, and closes it.
func (a *answer) copy(v any, r io.ReadCloser) error {
	defer func() { _ = r.Close() }()
	if err := a.begin(v); err != nil {
		return err
	}
	_, err := io.Copy(a, r)
	return err
}

// Files implements service.Node.
func (c *Client) Files(_ context.Context, vm *domain.VM) (service.GuestFiles, error) {
	return guestFiles{c, vm}, nil
}

// guestFiles is the file system of a VM of another node.
type guestFiles struct {
	c  *Client
	vm *domain.VM
}

func (f guestFiles) Stat(ctx context.Context, path string, o vmm.FileOptions) (vmm.FileInfo, error) {
	return call[vmm.FileInfo](ctx, f.c, "files.stat", onFile{VM: f.vm, Path: path, Options: o})
}

func (f guestFiles) List(ctx context.Context, path string, depth int, o vmm.FileOptions) ([]vmm.FileInfo, error) {
	return call[[]vmm.FileInfo](ctx, f.c, "files.list", onFile{VM: f.vm, Path: path, Depth: depth, Options: o})
}

func (f guestFiles) MakeDir(ctx context.Context, path string, o vmm.FileOptions) (vmm.FileInfo, error) {
	return call[vmm.FileInfo](ctx, f.c, "files.mkdir", onFile{VM: f.vm, Path: path, Options: o})
}

func (f guestFiles) Move(ctx context.Context, from, to string, o vmm.FileOptions) (vmm.FileInfo, error) {
	return call[vmm.FileInfo](ctx, f.c, "files.move", onFile{VM: f.vm, Path: from, To: to, Options: o})
}

func (f guestFiles) Remove(ctx context.Context, path string, o vmm.FileOptions) error {
	_, err := call[vmm.FileInfo](ctx, f.c, "files.remove", onFile{VM: f.vm, Path: path, Options: o})
	return err
}

func (f guestFiles) Read(ctx context.Context, path string, o vmm.FileOptions) (vmm.FileInfo, io.ReadCloser, error) {
	var info vmm.FileInfo
	r, err := f.c.open(ctx, "files.read", onFile{VM: f.vm, Path: path, Options: o}, nil, &info)
	if err != nil {
		return info, nil, err
	}
	return info, r, nil
}

func (f guestFiles) Write(ctx context.Context, path string, r io.Reader, o vmm.FileOptions) (vmm.FileInfo, error) {
	return send[vmm.FileInfo](ctx, f.c, "files.write", onFile{VM: f.vm, Path: path, Options: o}, r)
}

func (f guestFiles) TarDown(ctx context.Context, path string, o vmm.FileOptions) (io.ReadCloser, error) {
	r, err := f.c.open(ctx, "files.tardown", onFile{VM: f.vm, Path: path, Options: o}, nil, new(none))
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (f guestFiles) TarUp(ctx context.Context, path string, r io.Reader, o vmm.FileOptions) error {
	_, err := send[none](ctx, f.c, "files.tarup", onFile{VM: f.vm, Path: path, Options: o}, r)
	return err
}

func (f guestFiles) Watch(ctx context.Context, path string, recursive bool, o vmm.FileOptions) (<-chan vmm.FileEvent, error) {
	r, err := f.c.open(ctx, "files.watch", onFile{VM: f.vm, Path: path, Recursive: recursive, Options: o}, nil, new(none))
	if err != nil {
		return nil, err
	}
	events := make(chan vmm.FileEvent)
	go func() {
		defer close(events)
		defer func() { _ = r.Close() }()
		each := json.NewDecoder(r)
		for {
			var e vmm.FileEvent
			if each.Decode(&e) != nil {
				return
			}
			select {
			case events <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return events, nil
}
