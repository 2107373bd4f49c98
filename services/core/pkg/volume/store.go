package volume

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Disk is where volumes are. *disk.Pool is one.
type Disk interface {
	Create(ctx context.Context, id string, limit int64) error
	Delete(ctx context.Context, id string) error
	Path(id string) string
	List(ctx context.Context) ([]string, error)
}

const (
	// prefix begins the disk's names of volumes.
	prefix = "volume-"
	// content is the directory that VMs see. What is around it is closed to the
	// host's users: in it there are programs that are to run as root, of a guest's making.
	content = "content"
	// openMode lets every user of a VM put files into a new volume.
	openMode = 0o777
)

// Store keeps the volumes of a node.
type Store struct {
	disk Disk
	mu   sync.Mutex // a content directory is made once
}

// New makes a store on a disk.
func New(d Disk) *Store { return &Store{disk: d} }

func (s *Store) dir(id domain.ID) string {
	return filepath.Join(s.disk.Path(prefix+string(id)), content)
}

// Make makes the volume if it is not there, and returns the directory to mount.
// Returns NoSpace.
func (s *Store) Make(ctx context.Context, id domain.ID, limit int64) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.disk.Create(ctx, prefix+string(id), limit); err != nil {
		return "", err
	}
	dir := s.dir(id)
	if _, err := os.Lstat(dir); err == nil {
		return dir, nil
	}
	// Under its name only when everybody may write to it.
	fresh := dir + ".new"
	if err := os.Mkdir(fresh, 0o700); err != nil && !os.IsExist(err) {
		return "", fail(err, "the volume cannot be made")
	}
	if err := os.Chmod(fresh, openMode); err != nil {
		return "", fail(err, "the volume cannot be made")
	}
	return dir, fail(os.Rename(fresh, dir), "the volume cannot be made")
}

// Delete removes a volume with all that is in it. Absent is success.
func (s *Store) Delete(ctx context.Context, id domain.ID) error {
	return s.disk.Delete(ctx, prefix+string(id))
}

// List names the volumes that are there.
func (s *Store) List(ctx context.Context) ([]domain.ID, error) {
	all, err := s.disk.List(ctx)
	if err != nil {
		return nil, err
	}
	var ids []domain.ID
	for _, name := range all {
		if id, ok := strings.CutPrefix(name, prefix); ok {
			ids = append(ids, domain.ID(id))
		}
	}
	return ids, nil
}

// Open opens a volume's files. Returns NotFound.
func (s *Store) Open(id domain.ID) (vmm.VolumeFiles, error) {
	fd, err := unix.Open(s.dir(id), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fail(err, "the volume cannot be opened")
	}
	return &Files{root: os.NewFile(uintptr(fd), "/")}, nil
}

// fail gives an operating system error its code; coded errors pass.
func fail(err error, message string) error {
	var coded *errors.Error
	switch {
	case err == nil || errors.As(err, &coded):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return errors.Wrap(err, errors.NoSpace, "%s: the volume is full", message)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return errors.Wrap(err, errors.NotFound, "%s: there is no such file or directory", message)
	case errors.Is(err, unix.EEXIST):
		return errors.Wrap(err, errors.AlreadyExists, "%s: it exists already", message)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return errors.Wrap(err, errors.InvalidArgument, "%s: the path leads through a symbolic link", message).
			WithField("path").WithHint("links are followed in VMs only")
	case errors.Is(err, unix.ENAMETOOLONG):
		return errors.Wrap(err, errors.InvalidArgument, "%s: a name is too long", message).WithField("path")
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EBUSY):
		return errors.Wrap(err, errors.Conflict, "%s: it is being changed", message)
	}
	return errors.Wrap(err, errors.Internal, "%s", message)
}
