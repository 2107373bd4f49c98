package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/manifest"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/unpack"
)

// Limits bounds what a build may hold. They are checked before anything is written.
type Limits = unpack.Limits

// defaultLimits are for images as people really have them: the largest common
// ones (CUDA with frameworks) stay below 32 GiB and a million files.
var defaultLimits = Limits{Bytes: 32 << 30, Entries: 2_000_000}

// Config says where builds are and what they are made with.
type Config struct {
	// Dir is the store's directory, made if absent, mode 0700.
	Dir    string
	Logger *slog.Logger // nil: slog.Default()
	// Limits of one build; zero fields have defaults (32 GiB, 2 million entries).
	Limits Limits
	// Transport reaches registries; nil: the default, with the environment's proxy.
	Transport http.RoundTripper
	// Registries (host or host:port) are open to every source: at private
	// addresses too, and with this host's credentials.
	Registries []string
	// DebianMirror is where Debian packages come from; empty: mmdebstrap's
	// choice for the suite (deb.debian.org and security.debian.org).
	DebianMirror string
	// BaseImage is an OCI reference to make the `base` template from instead of
	// Debian packages; see BuildBase.
	BaseImage string
}

// Store keeps builds. It is safe for concurrent use, by several processes too.
type Store struct {
	cfg    Config
	log    *slog.Logger
	ctx    context.Context // ends sweeping
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	running map[string]struct{} // build IDs under way in this process
}

const (
	tmpPrefix    = ".tmp-"
	trashPrefix  = ".trash-"
	lockName     = ".lock"
	rootfsName   = "rootfs"
	metaName     = "meta.json"
	manifestName = "manifest"
)

var idForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

// Open opens the store, making it if there is none, and sweeps what crashed
// builds left. Close it when done. Returns InvalidArgument, NoSpace, Internal.
func Open(cfg Config) (*Store, error) {
	if cfg.Dir == "" {
		return nil, errors.New(errors.InvalidArgument, "the image store needs a directory")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.Dir = dir
	if cfg.Limits.Bytes <= 0 {
		cfg.Limits.Bytes = defaultLimits.Bytes
	}
	if cfg.Limits.Entries <= 0 {
		cfg.Limits.Entries = defaultLimits.Entries
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, storeError(err)
	}
	// Trees in here hold setuid programs of strangers: nobody else may enter.
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, storeError(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Store{cfg: cfg, log: cfg.Logger, ctx: ctx, cancel: cancel, running: map[string]struct{}{}}
	trash, err := s.leftovers()
	if err != nil {
		cancel()
		return nil, storeError(err)
	}
	s.wg.Go(func() {
		if err := removeEach(s.ctx, trash); err != nil && s.ctx.Err() == nil {
			s.log.Warn("what crashed builds left cannot be removed yet", "error", err)
		}
	})
	return s, nil
}

// Close waits until sweeping has ended; what is left is swept by the next
// Open. Builds under way are their callers' to cancel.
func (s *Store) Close() error {
	s.cancel()
	s.wg.Wait()
	return nil
}

// Path gives the directory of a build's root filesystem. It does not look
// whether there is one; see Get.
func (s *Store) Path(id string) string { return filepath.Join(s.cfg.Dir, id, rootfsName) }

// Get gives a complete build. Returns NotFound, InvalidArgument.
func (s *Store) Get(_ context.Context, id string) (Result, error) {
	if err := checkID(id); err != nil {
		return Result{}, err
	}
	b, err := os.ReadFile(filepath.Join(s.cfg.Dir, id, metaName))
	if errors.Is(err, fs.ErrNotExist) {
		return Result{}, errors.New(errors.NotFound, "there is no build %q on this node", id)
	}
	if err != nil {
		return Result{}, storeError(err)
	}
	var r Result
	if err := json.Unmarshal(b, &r); err != nil {
		return Result{}, errors.Wrap(err, errors.Internal, "the description of build %q is damaged", id)
	}
	r.RootFS = s.Path(id)
	return r, nil
}

// List gives the complete builds, oldest first.
func (s *Store) List(ctx context.Context) ([]Result, error) {
	names, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return nil, storeError(err)
	}
	var out []Result
	for _, n := range names {
		if !idForm.MatchString(n.Name()) {
			continue
		}
		r, err := s.Get(ctx, n.Name())
		if errors.HasCode(err, errors.NotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			s.log.WarnContext(ctx, "a build cannot be read", "build", n.Name(), "error", err)
			continue
		}
		out = append(out, r)
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].CreatedAt.Before(out[j].CreatedAt) })
	return out, nil
}

// Verify reads the whole build again and compares it with its digest.
// Returns NotFound, or PreconditionFailed naming an entry that differs.
func (s *Store) Verify(ctx context.Context, id string) error {
	r, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	now, err := os.CreateTemp(s.cfg.Dir, trashPrefix+"verify-")
	if err != nil {
		return storeError(err)
	}
	defer func() { _ = now.Close(); _ = os.Remove(now.Name()) }()
	sum, err := manifest.Write(ctx, r.RootFS, now)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return errors.Wrap(err, errors.PreconditionFailed, "build %q cannot be read as it was made", id)
	}
	if sum.Digest == r.Digest {
		return nil
	}
	where, err := manifest.FirstDifference(filepath.Join(s.cfg.Dir, id, manifestName), now.Name())
	if err != nil {
		return storeError(err)
	}
	return errors.New(errors.PreconditionFailed, "build %q was changed: %s", id, where)
}

// Delete removes a build; no VM may use it. Absent is success. The build is
// gone as soon as it is renamed, so a crash on the way leaves nothing half.
func (s *Store) Delete(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	trash, err := s.discard(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return storeError(err)
	}
	return storeError(removeAll(ctx, trash))
}

// discard renames an entry of the store away.
func (s *Store) discard(name string) (string, error) {
	holder, err := os.MkdirTemp(s.cfg.Dir, trashPrefix)
	if err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(s.cfg.Dir, name), filepath.Join(holder, "x")); err != nil {
		_ = os.Remove(holder)
		return "", err
	}
	return holder, syncDir(s.cfg.Dir)
}

// removeAll is os.RemoveAll that ends with the context, top entry by top entry.
func removeAll(ctx context.Context, dir string) error {
	for _, sub := range []string{"x/" + rootfsName, "x", ""} {
		at := filepath.Join(dir, sub)
		names, err := os.ReadDir(at)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
		for _, n := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := os.RemoveAll(filepath.Join(at, n.Name())); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(dir)
}

// Sweep removes what crashed builds and deletions left, as Open does in the
// background, and returns when it is gone.
func (s *Store) Sweep(ctx context.Context) error {
	trash, err := s.leftovers()
	if err != nil {
		return storeError(err)
	}
	return storeError(removeEach(ctx, trash))
}

func removeEach(ctx context.Context, dirs []string) error {
	var errs []error
	for _, d := range dirs {
		errs = append(errs, removeAll(ctx, d))
	}
	return errors.Join(errs...)
}

// leftovers renames what crashed builds left out of the way and tells what
// there is to remove. Builds under way, here or in other processes, hold
// their locks.
func (s *Store) leftovers() ([]string, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	names, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return nil, err
	}
	var trash []string
	for _, n := range names {
		switch name := n.Name(); {
		case strings.HasPrefix(name, trashPrefix):
			trash = append(trash, filepath.Join(s.cfg.Dir, name))
		case strings.HasPrefix(name, tmpPrefix):
			held, err := os.Open(filepath.Join(s.cfg.Dir, name))
			if err != nil {
				continue
			}
			if unix.Flock(int(held.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
				if t, err := s.discard(name); err == nil {
					s.log.Info("sweeping a build that did not end", "name", name)
					trash = append(trash, t)
				}
			}
			_ = held.Close()
		}
	}
	return trash, nil
}

// lock takes the store's lock, which is only ever held for a moment: between
// the making of a temporary directory and its locking nobody may sweep.
func (s *Store) lock() (func(), error) {
	f, err := os.OpenFile(filepath.Join(s.cfg.Dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR { //nolint:errorlint // a raw errno
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

func checkID(id string) error {
	if !idForm.MatchString(id) {
		return errors.New(errors.InvalidArgument, "%.70q is not a build ID", id).WithField("build_id")
	}
	return nil
}

// storeError gives faults of the store's own directory their codes.
func storeError(err error) error {
	var coded *errors.Error
	switch {
	case err == nil, errors.As(err, &coded), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return errors.Wrap(err, errors.NoSpace, "the disk of the image store is full")
	}
	return errors.Wrap(err, errors.Internal, "the image store cannot be used")
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// platform is what this node runs.
func platform() string { return fmt.Sprintf("linux/%s", runtime.GOARCH) }
