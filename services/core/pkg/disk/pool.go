package disk

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// The names of the backends.
const (
	BackendXFS   = "xfs"
	BackendBtrfs = "btrfs"
)

// Config says where a pool is and what it is made of.
type Config struct {
	// Dir is the data directory. The pool is Dir/vmdata; a pool in a file is Dir/vmdata.img.
	Dir string
	// Size in bytes of a pool that is a file; a larger size later grows it. 0: four fifths of what is free in Dir, at most 1 TiB.
	Size int64
	// Reserve takes the room of a new pool's file at once. Without it the file is
	// sparse, and volumes are refused room while the disk around it is full.
	Reserve bool
	// Backend asks for a file of its own with this file system; empty: the best
	// that works here.
	Backend string
	// AcceptUnenforced allows XFS on a kernel without project quotas. Limits
	// are then kept but not enforced, and Enforced says so.
	AcceptUnenforced bool
	Logger           *slog.Logger // nil: discard
}

// Usage is what a volume holds and may hold, in bytes.
type Usage struct {
	// Used counts what is in the volume on top of nothing: on XFS every block
	// reachable from it; on btrfs with simple quotas what it began with plus the
	// blocks it wrote that anything still refers to.
	Used  int64
	Limit int64 // 0: none
}

// backend is one way to keep volumes. Calls for one ID are not concurrent.
// IDs are valid; dst and id paths are given as final directories below root.
type backend interface {
	name() string
	enforced() bool
	// create makes dir with a limit; dir's parent exists, dir does not.
	create(dir string, limit int64) error
	// clone makes dst from src, sharing blocks, with a limit of its own.
	clone(ctx context.Context, src, dst string, limit int64) error
	// remove destroys dir and what is in it.
	remove(dir string) error
	usage(dir string) (Usage, error)
	setLimit(dir string, limit int64) error
	// sweep frees what deleted volumes left in the file system's books.
	sweep() error
	// reclaim has the room of directories that were removed given back, and
	// reports whether all of it is.
	reclaim(root *os.File) (done bool, err error)
}

// Pool holds volumes. Its methods may be called concurrently for different
// volumes, and from several processes.
type Pool struct {
	cfg     Config
	root    string // the mount point, or a plain directory
	image   string // empty: not in a file
	backend backend
	log     *slog.Logger
	names   *staging
	trash   *reaper
	guard   *guard // nil: the pool's room is its own

	reclaimPatience time.Duration
}

var idForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,79}$`)

func checkID(id string) error {
	if !idForm.MatchString(id) {
		return errors.New(errors.InvalidArgument, "not a volume ID")
	}
	return nil
}

// Open makes the pool in the data directory usable, making and mounting it
// when needed. It may be called again after a crash at any point, and by
// several processes. Returns Unsupported when this host has no suitable file
// system, NoSpace, InvalidArgument.
func Open(ctx context.Context, cfg Config) (*Pool, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, errors.New(errors.InvalidArgument, "the data directory must be an absolute path")
	}
	if cfg.Backend != "" && cfg.Backend != BackendXFS && cfg.Backend != BackendBtrfs {
		return nil, errors.New(errors.InvalidArgument, "unknown disk backend %q", cfg.Backend)
	}
	p := &Pool{cfg: cfg, root: filepath.Join(cfg.Dir, "vmdata"), log: cfg.Logger, reclaimPatience: reclaimPatience}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	unlock, err := lockDir(ctx, cfg.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := os.MkdirAll(p.root, 0o700); err != nil {
		return nil, fail(err, "cannot make the volume directory")
	}
	if p.backend, err = p.attach(ctx); err != nil {
		return nil, err
	}
	// Whoever a volume was given to, such as a machine's monitor, passes through
	// to it, and sees no other's name.
	for dir, mode := range map[string]os.FileMode{p.root: 0o711, p.volumes(): 0o711, p.stagingDir(): 0o700, p.trashDir(): 0o700} {
		if err := errors.Join(os.MkdirAll(dir, mode), os.Chmod(dir, mode)); err != nil {
			return nil, fail(err, "cannot make the volume directory")
		}
	}
	if p.names, err = newStaging(p.stagingDir()); err != nil {
		return nil, err
	}
	p.trash = newReaper(p.trashDir(), p.backend, p.log)
	if p.guard, err = p.startGuard(); err != nil {
		return nil, err
	}
	p.recover()
	return p, nil
}

// startGuard guards a pool that a full disk around it could harm.
func (p *Pool) startGuard() (*guard, error) {
	if p.image == "" || p.backend.name() != BackendBtrfs {
		return nil, nil
	}
	info, err := os.Stat(p.image)
	if err != nil {
		return nil, fail(err, "cannot read the volume file")
	}
	if reserved(info) {
		return nil, nil
	}
	return startGuard(p.root, p.image, p.log)
}

// recover removes what processes that are gone left half made or half removed.
func (p *Pool) recover() {
	for _, dir := range p.names.abandoned() {
		_ = p.trash.discard(dir)
	}
	p.trash.sweep()
	if err := p.backend.sweep(); err != nil {
		p.log.Warn("cannot clean up quota groups", "error", err)
	}
}

func (p *Pool) volumes() string    { return filepath.Join(p.root, "volumes") }
func (p *Pool) stagingDir() string { return filepath.Join(p.root, "staging") }
func (p *Pool) trashDir() string   { return filepath.Join(p.root, "trash") }

// Path is the directory of a volume, existing or not.
func (p *Pool) Path(id string) string { return filepath.Join(p.volumes(), id) }

// Backend names what keeps the volumes: "xfs" or "btrfs".
func (p *Pool) Backend() string { return p.backend.name() }

// Enforced reports whether the kernel refuses a volume more than its limit.
func (p *Pool) Enforced() bool { return p.backend.enforced() }

// Create makes an empty volume that can hold limit bytes (0: no limit). A
// volume that exists keeps its content and gets the limit. Returns NoSpace.
func (p *Pool) Create(ctx context.Context, id string, limit int64) error {
	if err := checkID(id); err != nil {
		return err
	}
	if p.exists(id) {
		return p.SetLimit(ctx, id, limit)
	}
	return p.stage(ctx, id, func(dir string) error { return p.backend.create(dir, limit) })
}

// Clone makes volume dst as a copy of src that shares its blocks. Nothing may
// write to src meanwhile. A dst that exists is taken for the result of an
// earlier call. Returns NotFound when there is no src, NoSpace.
func (p *Pool) Clone(ctx context.Context, src, dst string, limit int64) error {
	if err := errors.Join(checkID(src), checkID(dst)); err != nil {
		return errors.New(errors.InvalidArgument, "not a volume ID")
	}
	if p.exists(dst) {
		return p.SetLimit(ctx, dst, limit)
	}
	if !p.exists(src) {
		return errors.New(errors.NotFound, "there is no such volume")
	}
	return p.stage(ctx, dst, func(dir string) error {
		return p.backend.clone(ctx, p.Path(src), dir, limit)
	})
}

// Fill makes a volume that can hold limit bytes (0: no limit) while fill puts into
// its directory what it is to hold, and any number afterwards. A volume that
// exists is taken for the result of an earlier call. Returns NoSpace, and fill's error.
func (p *Pool) Fill(ctx context.Context, id string, limit int64, fill func(dir string) error) error {
	if err := checkID(id); err != nil {
		return err
	}
	if p.exists(id) {
		return nil
	}
	return p.stage(ctx, id, func(dir string) error {
		err := p.backend.create(dir, limit)
		if err == nil {
			err = fill(dir)
		}
		if err == nil {
			err = p.Sync() // it must not have its name before its content, should the power fail
		}
		if err == nil && limit != 0 {
			err = p.backend.setLimit(dir, 0)
		}
		return err
	})
}

// stage makes a volume under a name of its own and gives it its final name
// last, so that a volume is there wholly or not at all.
func (p *Pool) stage(ctx context.Context, id string, make func(dir string) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := p.guard.room(); err != nil {
		return err
	}
	dir := p.names.next(id)
	if err := make(dir); err != nil {
		_ = p.trash.discard(dir)
		return fail(err, "cannot make the volume")
	}
	err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, p.Path(id), unix.RENAME_NOREPLACE)
	if err != nil {
		_ = p.trash.discard(dir)
		if err == unix.EEXIST {
			return nil
		}
		return fail(err, "cannot make the volume")
	}
	return nil
}

// Delete removes a volume. Absent is success. The volume is out of List at
// once; its blocks are freed in the background.
func (p *Pool) Delete(_ context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if !p.exists(id) {
		return nil
	}
	return p.trash.discard(p.Path(id))
}

// Usage reads what a volume holds. Returns NotFound.
func (p *Pool) Usage(_ context.Context, id string) (Usage, error) {
	if err := p.need(id); err != nil {
		return Usage{}, err
	}
	u, err := p.backend.usage(p.Path(id))
	if err != nil {
		return Usage{}, fail(err, "cannot read the volume's usage")
	}
	return u, nil
}

// SetLimit changes what a volume may hold (0: no limit); what it holds beyond
// stays. Returns NotFound.
func (p *Pool) SetLimit(_ context.Context, id string, limit int64) error {
	if err := p.need(id); err != nil {
		return err
	}
	if err := p.backend.setLimit(p.Path(id), limit); err != nil {
		return fail(err, "cannot set the volume's limit")
	}
	return nil
}

// List names the volumes in order.
func (p *Pool) List(context.Context) ([]string, error) {
	entries, err := os.ReadDir(p.volumes())
	if err != nil {
		return nil, fail(err, "cannot list volumes")
	}
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		if idForm.MatchString(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	sort.Strings(ids)
	return ids, nil
}

// Capacity is how many bytes volumes can take in all: what the disk has left,
// and what they take of it already.
func (p *Pool) Capacity(ctx context.Context) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(p.cfg.Dir, &fs); err != nil {
		return 0, fail(err, "cannot read the data directory's free space")
	}
	if p.image != "" {
		file, err := os.Stat(p.image)
		if err != nil {
			return 0, fail(err, "cannot read the volume file's size")
		}
		return available(fs) + allocated(file), nil
	}
	ids, err := p.List(ctx)
	if err != nil {
		return 0, err
	}
	taken := int64(0)
	for _, id := range ids {
		u, err := p.Usage(ctx, id)
		if errors.HasCode(err, errors.NotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return 0, err
		}
		taken += u.Used
	}
	return available(fs) + taken, nil
}

// reclaimPatience bounds Reclaim by default: far more than it takes to free what nobody uses.
const reclaimPatience = 5 * time.Second

// Reclaim has the room of volumes that were deleted given back, which otherwise
// takes up to half a minute, and returns when it is there for others, or after
// some seconds: what a process still uses, or other volumes share, stays.
func (p *Pool) Reclaim(ctx context.Context) error {
	root, err := os.Open(p.root)
	if err != nil {
		return fail(err, "cannot open the volume directory")
	}
	defer root.Close()
	for until := time.Now().Add(p.reclaimPatience); ; {
		trash, err := os.ReadDir(p.trashDir())
		done := false
		if err == nil {
			done, err = p.backend.reclaim(root)
		}
		if err != nil {
			return fail(err, "cannot give back the room of what was deleted")
		}
		if done && len(trash) == 0 || time.Now().After(until) {
			p.guard.again()
			return nil
		}
		select { // nobody tells when the kernel has freed it
		case <-time.After(reclaimInterval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reclaimInterval is how often is looked whether room is back.
const reclaimInterval = 50 * time.Millisecond

// Sync writes what is cached for the pool to its disk, so that a Clone soon
// after has little left to write.
func (p *Pool) Sync() error {
	f, err := os.Open(p.root)
	if err != nil {
		return fail(err, "cannot open the volume directory")
	}
	defer f.Close()
	if unix.Syncfs(int(f.Fd())) == nil {
		return nil
	}
	// That can be about a write of long ago, of any volume; it is told once.
	return unix.Syncfs(int(f.Fd()))
}

// Close waits for removals under way. Volumes and the mount stay.
func (p *Pool) Close() error {
	p.guard.close()
	p.trash.close()
	return nil
}

// Unmount lets go of a pool in a file: its mount and loop device; the file and
// what is in it stay. Nothing may use a volume any more. Twice is success.
func (p *Pool) Unmount(ctx context.Context) error {
	p.guard.close()
	p.trash.close()
	if p.image == "" {
		return nil
	}
	unlock, err := lockDir(ctx, p.cfg.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	return unmount(ctx, p.root)
}

// unmount lets go of a mount. It can be busy for a moment longer than its
// users, since processes just forked hold their parent's descriptors until
// they execute; nothing tells when that ends.
func unmount(ctx context.Context, dir string) error {
	const patience = 2 * time.Second
	deadline := time.Now().Add(patience)
	for wait := time.Millisecond; ; wait = min(wait*2, 50*time.Millisecond) {
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil || err == unix.EINVAL: // EINVAL: not mounted
			return nil
		case err != unix.EBUSY:
			return fail(err, "cannot unmount the volumes")
		case time.Now().After(deadline):
			return errors.Wrap(err, errors.Conflict, "volumes are still in use")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (p *Pool) exists(id string) bool {
	var st unix.Stat_t
	return unix.Lstat(p.Path(id), &st) == nil
}

func (p *Pool) need(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if !p.exists(id) {
		return errors.New(errors.NotFound, "there is no such volume")
	}
	return nil
}

// fail gives an operating system error its code; coded errors pass.
func fail(err error, message string) error {
	var coded *errors.Error
	switch {
	case err == nil || errors.As(err, &coded):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return errors.Wrap(err, errors.NoSpace, "%s: no space is left", message)
	case errors.Is(err, unix.EROFS):
		return errors.Wrap(err, errors.Unavailable, "%s: the volumes are read-only, as their file system met an error", message).
			WithHint("stop this host's machines, and start the server again; the host's log tells of the error")
	case errors.Is(err, unix.ENOENT):
		return errors.Wrap(err, errors.NotFound, "%s", message)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return errors.Wrap(err, errors.Internal, "%s", message)
}
