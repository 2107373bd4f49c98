package fake

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

type file struct {
	dir      bool
	mode     uint32
	content  []byte
	modified time.Time
}

func abs(p string, o vmm.FileOptions) string {
	if !strings.HasPrefix(p, "/") {
		p = "/home/user/" + p
	}
	return path.Clean(p)
}

func describe(p string, f *file) vmm.FileInfo {
	i := vmm.FileInfo{Name: path.Base(p), Path: p, Type: "file", Size: int64(len(f.content)), Mode: f.mode, Owner: "user", Group: "user", ModifiedAt: f.modified}
	if f.dir {
		i.Type = "dir"
	}
	return i
}

func (o *Orchestrator) withFile(by vmm.Caller, id domain.ID, p string, opt vmm.FileOptions, f func(v *vm, p string, f *file) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, err := o.running(by, id)
	if err != nil {
		return err
	}
	p = abs(p, opt)
	got, ok := v.files[p]
	if !ok {
		return errors.New(errors.NotFound, "%s does not exist", p).WithField("path")
	}
	return f(v, p, got)
}

// StatFile implements vmm.Files.
func (o *Orchestrator) StatFile(_ context.Context, by vmm.Caller, id domain.ID, p string, opt vmm.FileOptions) (i vmm.FileInfo, err error) {
	err = o.withFile(by, id, p, opt, func(_ *vm, p string, f *file) error { i = describe(p, f); return nil })
	return i, err
}

// ListDir implements vmm.Files. Depth is not looked at.
func (o *Orchestrator) ListDir(_ context.Context, by vmm.Caller, id domain.ID, p string, _ int, opt vmm.FileOptions) ([]vmm.FileInfo, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, err := o.running(by, id)
	if err != nil {
		return nil, err
	}
	var out []vmm.FileInfo
	for name, f := range v.files {
		if path.Dir(name) == abs(p, opt) {
			out = append(out, describe(name, f))
		}
	}
	slices.SortFunc(out, func(a, b vmm.FileInfo) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

// MakeDir implements vmm.Files.
func (o *Orchestrator) MakeDir(_ context.Context, by vmm.Caller, id domain.ID, p string, opt vmm.FileOptions) (vmm.FileInfo, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, err := o.running(by, id)
	if err != nil {
		return vmm.FileInfo{}, err
	}
	p = abs(p, opt)
	if _, ok := v.files[p]; ok {
		return vmm.FileInfo{}, errors.New(errors.AlreadyExists, "%s exists", p)
	}
	if opt.Mode == 0 {
		opt.Mode = 0o755
	}
	v.files[p] = &file{dir: true, mode: opt.Mode, modified: time.Now()}
	return describe(p, v.files[p]), nil
}

// MoveFile implements vmm.Files.
func (o *Orchestrator) MoveFile(_ context.Context, by vmm.Caller, id domain.ID, from, to string, opt vmm.FileOptions) (i vmm.FileInfo, err error) {
	err = o.withFile(by, id, from, opt, func(v *vm, p string, f *file) error {
		delete(v.files, p)
		to = abs(to, opt)
		v.files[to] = f
		i = describe(to, f)
		return nil
	})
	return i, err
}

// RemoveFile implements vmm.Files.
func (o *Orchestrator) RemoveFile(_ context.Context, by vmm.Caller, id domain.ID, p string, opt vmm.FileOptions) error {
	return o.withFile(by, id, p, opt, func(v *vm, p string, _ *file) error {
		delete(v.files, p)
		v.tell("remove", p)
		return nil
	})
}

// ReadFile implements vmm.Files.
func (o *Orchestrator) ReadFile(_ context.Context, by vmm.Caller, id domain.ID, p string, opt vmm.FileOptions) (i vmm.FileInfo, r io.ReadCloser, err error) {
	err = o.withFile(by, id, p, opt, func(_ *vm, p string, f *file) error {
		if f.dir {
			return errors.New(errors.InvalidArgument, "%s is a directory", p).WithField("path")
		}
		i = describe(p, f)
		data := f.content[min(opt.Offset, i.Size):]
		if opt.Length > 0 {
			data = data[:min(opt.Length, int64(len(data)))]
		}
		r = io.NopCloser(bytes.NewReader(data))
		return nil
	})
	return i, r, err
}

// WriteFile implements vmm.Files.
func (o *Orchestrator) WriteFile(_ context.Context, by vmm.Caller, id domain.ID, p string, r io.Reader, opt vmm.FileOptions) (vmm.FileInfo, error) {
	content, err := io.ReadAll(r)
	if err != nil {
		return vmm.FileInfo{}, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	v, err := o.running(by, id)
	if err != nil {
		return vmm.FileInfo{}, err
	}
	if opt.Mode == 0 {
		opt.Mode = 0o644
	}
	p = abs(p, opt)
	v.files[p] = &file{mode: opt.Mode, content: content, modified: time.Now()}
	v.tell("write", p)
	return describe(p, v.files[p]), nil
}

func (v *vm) tell(kind, p string) {
	for c, dir := range v.watch {
		if rel, ok := strings.CutPrefix(p, dir+"/"); ok {
			select {
			case c <- vmm.FileEvent{Type: kind, Path: rel}:
			default:
			}
		}
	}
}

// TarDown implements vmm.Files.
func (o *Orchestrator) TarDown(_ context.Context, by vmm.Caller, id domain.ID, p string, opt vmm.FileOptions) (io.ReadCloser, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, err := o.running(by, id)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	found := false
	for name, f := range v.files {
		if rel, ok := strings.CutPrefix(name, abs(p, opt)+"/"); ok && !f.dir {
			found = true
			_ = tw.WriteHeader(&tar.Header{Name: rel, Mode: int64(f.mode), Size: int64(len(f.content)), Format: tar.FormatPAX})
			_, _ = tw.Write(f.content)
		}
	}
	if !found {
		return nil, errors.New(errors.NotFound, "%s does not exist", p).WithField("path")
	}
	return io.NopCloser(&buf), tw.Close()
}

// TarUp implements vmm.Files.
func (o *Orchestrator) TarUp(_ context.Context, by vmm.Caller, id domain.ID, p string, r io.Reader, opt vmm.FileOptions) error {
	o.mu.Lock()
	v, err := o.running(by, id)
	o.mu.Unlock()
	if err != nil {
		return err
	}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "the body is not a tar")
		}
		if !path.IsAbs(h.Name) && !strings.HasPrefix(path.Clean(h.Name), "..") {
			content, err := io.ReadAll(tr)
			if err != nil {
				return err
			}
			o.locked(func() {
				v.files[path.Join(abs(p, opt), h.Name)] = &file{mode: uint32(h.Mode), content: content, modified: time.Now()}
			})
			continue
		}
		return errors.New(errors.InvalidArgument, "%q would leave the directory", h.Name)
	}
}

// WatchDir implements vmm.Files.
func (o *Orchestrator) WatchDir(ctx context.Context, by vmm.Caller, id domain.ID, p string, _ bool, opt vmm.FileOptions) (<-chan vmm.FileEvent, error) {
	c := make(chan vmm.FileEvent, 64)
	err := o.withFile(by, id, p, opt, func(v *vm, p string, f *file) error {
		if !f.dir {
			return errors.New(errors.InvalidArgument, "%s is not a directory", p).WithField("path")
		}
		v.watch[c] = p
		context.AfterFunc(ctx, func() {
			o.locked(func() {
				if _, ok := v.watch[c]; ok {
					delete(v.watch, c)
					close(c)
				}
			})
		})
		return nil
	})
	return c, err
}
