package service

import (
	"context"
	"io"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// maxListDepth bounds how deep ListDir walks.
const maxListDepth = 64

// guestFiles validates what every file call takes and finds the VM's file system.
func (s *Service) guestFiles(ctx context.Context, by vmm.Caller, vmID domain.ID, o vmm.FileOptions, paths ...string) (GuestFiles, error) {
	for _, p := range paths {
		if err := domain.ValidatePath("path", p); err != nil {
			return nil, err
		}
	}
	if err := domain.ValidateUser("user", o.User); err != nil {
		return nil, err
	}
	if o.Offset < 0 || o.Length < 0 {
		return nil, errors.New(errors.InvalidArgument, "the range is negative").WithField("range")
	}
	if o.Mode > 0o7777 {
		return nil, errors.New(errors.InvalidArgument, "%o is not a file mode", o.Mode).WithField("mode").WithHint("at most 7777 in octal")
	}
	vm, node, err := s.running(ctx, by, vmID)
	if err != nil {
		return nil, err
	}
	return node.Files(ctx, vm)
}

// StatFile implements vmm.Files.
func (s *Service) StatFile(ctx context.Context, by vmm.Caller, vm domain.ID, path string, o vmm.FileOptions) (vmm.FileInfo, error) {
	f, err := s.guestFiles(ctx, by, vm, o, path)
	if err != nil {
		return vmm.FileInfo{}, err
	}
	return f.Stat(ctx, path, o)
}

// ListDir implements vmm.Files.
func (s *Service) ListDir(ctx context.Context, by vmm.Caller, vm domain.ID, path string, depth int, o vmm.FileOptions) ([]vmm.FileInfo, error) {
	if depth < 0 || depth > maxListDepth {
		return nil, errors.New(errors.InvalidArgument, "a depth of %d is out of range", depth).WithField("depth").WithHint("at most %d", maxListDepth)
	}
	f, err := s.guestFiles(ctx, by, vm, o, path)
	if err != nil {
		return nil, err
	}
	return f.List(ctx, path, depth, o)
}

// MakeDir implements vmm.Files.
func (s *Service) MakeDir(ctx context.Context, by vmm.Caller, vm domain.ID, path string, o vmm.FileOptions) (vmm.FileInfo, error) {
	f, err := s.guestFiles(ctx, by, vm, o, path)
	if err != nil {
		return vmm.FileInfo{}, err
	}
	return f.MakeDir(ctx, path, o)
}

// MoveFile implements vmm.Files.
func (s *Service) MoveFile(ctx context.Context, by vmm.Caller, vm domain.ID, from, to string, o vmm.FileOptions) (vmm.FileInfo, error) {
	f, err := s.guestFiles(ctx, by, vm, o, from, to)
	if err != nil {
		return vmm.FileInfo{}, err
	}
	return f.Move(ctx, from, to, o)
}

// RemoveFile implements vmm.Files.
func (s *Service) RemoveFile(ctx context.Context, by vmm.Caller, vm domain.ID, path string, o vmm.FileOptions) error {
	f, err := s.guestFiles(ctx, by, vm, o, path)
	if err != nil {
		return err
	}
	return f.Remove(ctx, path, o)
}

// ReadFile implements vmm.Files.
func (s *Service) ReadFile(ctx context.Context, by vmm.Caller, vm domain.ID, path string, o vmm.FileOptions) (vmm.FileInfo, io.ReadCloser, error) {
	f, err := s.guestFiles(ctx, by, vm, o, path)
	if err != nil {
		return vmm.FileInfo{}, nil, err
	}
	return f.Read(ctx, path, o)
}

// WriteFile implements vmm.Files.
func (s *Service) WriteFile(ctx context.Context, by vmm.Caller, vm domain.ID, path string, r io.Reader, o vmm.FileOptions) (vmm.FileInfo, error) {
	f, err := s.guestFiles(ctx, by, vm, o, path)
	if err != nil {
		return vmm.FileInfo{}, err
	}
	return f.Write(ctx, path, r, o)
}

// TarDown implements vmm.Files.
func (s *Service) TarDown(ctx context.Context, by vmm.Caller, vm domain.ID, path string, o vmm.FileOptions) (io.ReadCloser, error) {
	f, err := s.guestFiles(ctx, by, vm, o, path)
	if err != nil {
		return nil, err
	}
	return f.TarDown(ctx, path, o)
}

// TarUp implements vmm.Files.
func (s *Service) TarUp(ctx context.Context, by vmm.Caller, vm domain.ID, path string, r io.Reader, o vmm.FileOptions) error {
	f, err := s.guestFiles(ctx, by, vm, o, path)
	if err != nil {
		return err
	}
	return f.TarUp(ctx, path, r, o)
}

// WatchDir implements vmm.Files.
func (s *Service) WatchDir(ctx context.Context, by vmm.Caller, vm domain.ID, path string, recursive bool, o vmm.FileOptions) (<-chan vmm.FileEvent, error) {
	f, err := s.guestFiles(ctx, by, vm, o, path)
	if err != nil {
		return nil, err
	}
	return f.Watch(ctx, path, recursive, o)
}
