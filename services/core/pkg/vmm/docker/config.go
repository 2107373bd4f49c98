package docker

import (
	"context"
	"log/slog"
	"path/filepath"
	"regexp"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
)

// Network gives machines their links. A share of a network.Manager is one.
type Network interface {
	Acquire(ctx context.Context, machineID string, mode domain.NetworkMode, hostname string) (network.Attachment, error)
	Release(ctx context.Context, machineID string) error
	Move(ctx context.Context, machineID, netns string) error
	List(ctx context.Context) ([]string, error)
	Counters(ctx context.Context, machineID string) (received, sent int64, err error)
	SetEgress(ctx context.Context, machineID string, e domain.Egress) error
	EgressLog(ctx context.Context, machineID string, after int64, limit int, wait time.Duration) ([]domain.EgressEntry, error)
	ForgetEgressLog(machineID string) error
}

// Config is what a driver works with. All but Logger is needed.
type Config struct {
	// Instance tells this installation from others of the engine; it is in the
	// name and the labels of everything made there. Lower case letters, digits
	// and dashes, at most 32.
	Instance string
	// RuntimeDir holds what a reboot may take away. Containers pass through it.
	RuntimeDir string
	// Socket is the path of the engine's unix socket: it runs on this host.
	Socket string
	// AgentPath is the static guest agent for this host's platform.
	AgentPath string
	Network   Network
	Logger    *slog.Logger // nil: discard
}

var (
	instanceForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	idForm       = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)
	hostnameForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`) // RFC 1123 §2.1
)

func (c *Config) validate() error {
	switch {
	case !instanceForm.MatchString(c.Instance):
		return errors.New(errors.InvalidArgument, "the instance ID is not valid")
	case !filepath.IsAbs(c.RuntimeDir), !filepath.IsAbs(c.AgentPath), !filepath.IsAbs(c.Socket):
		return errors.New(errors.InvalidArgument, "runtime directory, agent and the engine's socket must be absolute paths")
	case c.Network == nil:
		return errors.New(errors.InvalidArgument, "the docker driver needs a network")
	}
	return nil
}

// container is the name of a machine's container.
func (c *Config) container(id string) string { return "aetherium-" + c.Instance + "-" + id }

// repository is where all images of the instance are named.
func (c *Config) repository() string { return "aetherium-" + c.Instance }

func (c *Config) buildImage(build string) string { return c.repository() + ":" + buildTag + build }
func (c *Config) snapshotImage(id string) string { return c.repository() + ":" + snapshotTag + id }

// What images' tags begin with.
const (
	buildTag    = "build-"
	snapshotTag = "snapshot-"
	keptTag     = "kept-" // of a deleted snapshot that machines were made from
)

// The labels of what is made in the engine.
const (
	labelInstance = "dev.aetherium.instance"
	labelMachine  = "dev.aetherium.machine"
	labelBuild    = "dev.aetherium.build"
	labelDisk     = "dev.aetherium.disk" // its limit; absent: there is none that is enforced
	labelNetwork  = "dev.aetherium.network"
	labelRootFS   = "dev.aetherium.rootfs" // where a build's files are on this host
	labelSnapshot = "dev.aetherium.snapshot"
)

// paths are a machine's files on the host.
type paths struct {
	dir string // what its /etc says of itself
	run string // record
}

func (c *Config) paths(id string) paths {
	return paths{dir: filepath.Join(c.RuntimeDir, "m", id), run: filepath.Join(c.RuntimeDir, "p", id)}
}
