package oci

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

// Network gives machines their user and network namespaces. network.Manager is one.
type Network interface {
	Acquire(ctx context.Context, machineID string, mode domain.NetworkMode, hostname string) (network.Attachment, error)
	Release(ctx context.Context, machineID string) error
	Lookup(ctx context.Context, machineID string) (network.Attachment, bool, error)
	List(ctx context.Context) ([]string, error)
	Counters(ctx context.Context, machineID string) (received, sent int64, err error)
	SetEgress(ctx context.Context, machineID string, e domain.Egress) error
	EgressLog(ctx context.Context, machineID string, after int64, limit int, wait time.Duration) ([]domain.EgressEntry, error)
	ForgetEgressLog(machineID string) error
	Teardown(ctx context.Context) error
}

// Volumes keeps what machines write. *disk.Pool is one.
type Volumes interface {
	Create(ctx context.Context, id string, limit int64) error
	Clone(ctx context.Context, src, dst string, limit int64) error
	Fill(ctx context.Context, id string, limit int64, fill func(dir string) error) error
	Delete(ctx context.Context, id string) error
	Path(id string) string
	Usage(ctx context.Context, id string) (disk.Usage, error)
	SetLimit(ctx context.Context, id string, limit int64) error
	List(ctx context.Context) ([]string, error)
	Sync() error
	Unmount(ctx context.Context) error
}

// IDMapping says how the guest's IDs come to be those of its range on the host.
type IDMapping string

// The ID mappings.
const (
	IDMapProbe IDMapping = ""      // mount when the kernel can, else copy
	IDMapMount IDMapping = "mount" // layers are mounted with mapped IDs (Linux 5.19)
	IDMapCopy  IDMapping = "copy"  // the template is copied per ID range, upper layers change owners
)

// Config is what a driver works with. All but Logger and IDMapping is needed.
type Config struct {
	// Instance tells this installation from others on the host; it is in the
	// name of everything made here. Lower case letters, digits and dashes, at most 32.
	Instance string
	// StateDir holds what must outlive a reboot: the machines' records.
	StateDir string
	// RuntimeDir holds what need not: sockets, mount points, bundles. Others may
	// pass through it, so that guests reach their root, but list only what is theirs.
	RuntimeDir string
	// Runtime is the runtime's name or path, runc, crun or runsc; or RuntimeAuto.
	Runtime string
	// AgentPath is the static guest agent for this host's platform.
	AgentPath string
	Network   Network
	Volumes   Volumes
	IDMapping IDMapping
	Logger    *slog.Logger // nil: discard

	attachLayers bool // do what kernels before Linux 6.15 need
}

var (
	instanceForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	idForm       = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)
	hostnameForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`) // RFC 1123 §2.1
)

// maxSocketPath is the longest path in a sockaddr_un, without its final zero.
const maxSocketPath = 107

func (c *Config) validate() error {
	switch {
	case !instanceForm.MatchString(c.Instance):
		return errors.New(errors.InvalidArgument, "the instance ID is not valid")
	case !filepath.IsAbs(c.StateDir), !filepath.IsAbs(c.RuntimeDir), !filepath.IsAbs(c.AgentPath):
		return errors.New(errors.InvalidArgument, "state directory, runtime directory and agent must be absolute paths")
	case c.Network == nil, c.Volumes == nil, c.Runtime == "":
		return errors.New(errors.InvalidArgument, "the oci driver needs a network, volumes and a runtime")
	case c.IDMapping != IDMapProbe && c.IDMapping != IDMapMount && c.IDMapping != IDMapCopy:
		return errors.New(errors.InvalidArgument, "unknown ID mapping %q", c.IDMapping)
	}
	if n := len(c.paths("x").socket); n > maxSocketPath {
		return errors.New(errors.InvalidArgument, "the runtime directory's path is %d bytes too long for sockets", n-maxSocketPath)
	}
	return nil
}

// paths are the places of one machine. They follow from its ID alone.
type paths struct {
	facts     string // versioned JSON record
	run       string // what goes on with it
	exit      string // how it last ended
	socket    string // the agent's listening socket
	dir       string // what the guest's root may pass through
	root      string // mount point of its root, in dir
	mounts    string // mount points of its extra mounts, in dir
	bundle    string // OCI bundle; the host only
	pidFile   string
	log       string // the runtime's
	container string // name for the runtime
	cgroup    string
	volume    string // ID of its volume
}

func (c *Config) paths(id string) paths {
	// Machine IDs are of any length up to 40; socket paths are short.
	sum := sha256.Sum256([]byte(id))
	short := hex.EncodeToString(sum[:6])
	p := paths{
		facts:     filepath.Join(c.recordsDir(), id+recordExt),
		run:       filepath.Join(c.RuntimeDir, "p", id),
		exit:      filepath.Join(c.RuntimeDir, "e", id),
		socket:    filepath.Join(c.RuntimeDir, "s", short),
		dir:       filepath.Join(c.RuntimeDir, "m", short),
		bundle:    filepath.Join(c.RuntimeDir, "b", id),
		container: c.Instance + "-" + id,
		cgroup:    c.cgroupParent() + "/" + id,
		volume:    machineVolume + id,
	}
	p.root = filepath.Join(p.dir, "root")
	p.mounts = filepath.Join(p.dir, "mnt")
	p.pidFile = filepath.Join(p.bundle, "pid")
	p.log = filepath.Join(p.bundle, "log")
	return p
}

const (
	recordExt = ".json"

	// Volumes of this driver begin so.
	machineVolume  = "oci-m-"
	snapshotVolume = "oci-s-"
)

func (c *Config) recordsDir() string   { return filepath.Join(c.StateDir, "machines") }
func (c *Config) cgroupParent() string { return "/aetherium-" + c.Instance }
func (c *Config) attachSpots() [2]string {
	return [2]string{filepath.Join(c.RuntimeDir, "m"), filepath.Join(c.RuntimeDir, "s")}
}
func (c *Config) runtimeRoot() string { return filepath.Join(c.RuntimeDir, "r") }
