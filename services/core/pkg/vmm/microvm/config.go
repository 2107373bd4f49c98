package microvm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"path/filepath"
	"regexp"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"github.com/aetherium/aetherium/services/core/pkg/network"
)

// Network gives machines their namespaces and taps. A share of a network.Manager is one.
type Network interface {
	Acquire(ctx context.Context, machineID string, mode domain.NetworkMode, hostname string) (network.Attachment, error)
	Tap(ctx context.Context, machineID string, owner uint32) (name string, err error)
	Release(ctx context.Context, machineID string) error
	Lookup(ctx context.Context, machineID string) (network.Attachment, bool, error)
	List(ctx context.Context) ([]string, error)
	Counters(ctx context.Context, machineID string) (received, sent int64, err error)
	SetEgress(ctx context.Context, machineID string, e domain.Egress) error
	EgressLog(ctx context.Context, machineID string, after int64, limit int, wait time.Duration) ([]domain.EgressEntry, error)
	ForgetEgressLog(machineID string) error
}

// Volumes keeps disks and memories. *disk.Pool is one.
type Volumes interface {
	Create(ctx context.Context, id string, limit int64) error
	Clone(ctx context.Context, src, dst string, limit int64) error
	Fill(ctx context.Context, id string, limit int64, fill func(dir string) error) error
	Delete(ctx context.Context, id string) error
	Path(id string) string
	Usage(ctx context.Context, id string) (disk.Usage, error)
	Reclaim(ctx context.Context) error
	List(ctx context.Context) ([]string, error)
}

// Config is what a driver works with. All but Booted, Standby and Logger is needed.
type Config struct {
	// Instance tells this installation from others on the host; it is in the
	// name of everything made here. Lower case letters, digits and dashes, at most 32.
	Instance string
	// StateDir holds what must outlive a reboot: records, and images of templates.
	StateDir string
	// RuntimeDir holds what need not: sockets, and who runs. Others may pass
	// through both, so that monitors reach what is theirs.
	RuntimeDir string
	Engine     Engine
	// Kernel gives what machines boot. Its files stay where they are.
	Kernel  func(context.Context) (Kernel, error)
	Network Network
	Volumes Volumes
	Booted  Booted
	Standby Standby
	Logger  *slog.Logger // nil: discard
}

var (
	instanceForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	idForm       = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)
	hostnameForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`) // RFC 1123 §2.1
)

// maxSocketPath is the longest path in a sockaddr_un, without its final zero,
// and socketRoom what engines' sockets in a guest's directory need of it.
const (
	maxSocketPath = 107
	socketRoom    = 24
)

func (c *Config) validate() error {
	switch {
	case !instanceForm.MatchString(c.Instance):
		return errors.New(errors.InvalidArgument, "the instance ID is not valid")
	case !filepath.IsAbs(c.StateDir), !filepath.IsAbs(c.RuntimeDir):
		return errors.New(errors.InvalidArgument, "state and runtime directory must be absolute paths")
	case c.Engine == nil, c.Kernel == nil, c.Network == nil, c.Volumes == nil:
		return errors.New(errors.InvalidArgument, "a microVM driver needs an engine, a kernel, a network and volumes")
	}
	if n := len(c.paths("x").guest) + socketRoom; n > maxSocketPath {
		return errors.New(errors.InvalidArgument, "the runtime directory's path is %d bytes too long for sockets", n-maxSocketPath)
	}
	return nil
}

// paths are the places of one machine. They follow from its ID alone.
type paths struct {
	facts  string // versioned JSON record
	run    string // what goes on with it
	exit   string // how it last ended
	guest  string // directory of the monitor's sockets
	cgroup string
	volume string // ID of the volume with its disk
	memory string // ID of the volume with its memory while it is paused
}

func (c *Config) paths(id string) paths {
	// Machine IDs are of any length up to 40; socket paths are short.
	sum := sha256.Sum256([]byte(id))
	return paths{
		facts:  filepath.Join(c.recordsDir(), id+recordExt),
		run:    filepath.Join(c.RuntimeDir, "p", id),
		exit:   filepath.Join(c.RuntimeDir, "e", id),
		guest:  filepath.Join(c.RuntimeDir, "g", hex.EncodeToString(sum[:6])),
		cgroup: c.cgroupParent() + "/" + id,
		volume: c.volume(machineVolume, id),
		memory: c.volume(pausedVolume, id),
	}
}

const (
	recordExt = ".json"

	// Kinds of volumes; the driver's name is in front of them.
	machineVolume  = "m"
	pausedVolume   = "p"
	snapshotVolume = "s"
	memoryVolume   = "r" // beside the snapshot's disk
	blankVolume    = "b" // empty disks of a size
	bootedVolume   = "k" // disk of a machine that had booted
	bootedMemory   = "w" // its memory
)

// volume names a volume.
func (c *Config) volume(kind, id string) string { return c.volumes(kind) + id }

// volumes is what the names of volumes of a kind begin with.
func (c *Config) volumes(kind string) string { return c.Engine.Name() + "-" + kind + "-" }

// stored are the volumes of a saved memory and of the disk of its moment.
type stored struct{ disk, memory string }

func (c *Config) snapshot(id string) stored {
	return stored{c.volume(snapshotVolume, id), c.volume(memoryVolume, id)}
}

func (c *Config) booted(key string) stored {
	return stored{c.volume(bootedVolume, key), c.volume(bootedMemory, key)}
}

func (c *Config) recordsDir() string   { return filepath.Join(c.StateDir, "machines") }
func (c *Config) imagesDir() string    { return filepath.Join(c.StateDir, "images") }
func (c *Config) cgroupParent() string { return "/aetherium-" + c.Instance + "." + c.Engine.Name() }
