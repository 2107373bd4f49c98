package docker

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/moby/moby/client"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/cgroup"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/once"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/process"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/turns"
)

// Name is the driver's name.
const Name = "docker"

// Driver makes machines in a Docker engine. One process at a time may hold a
// driver for an instance; any later one takes over what is there.
type Driver struct {
	cfg     Config
	log     *slog.Logger
	engine  *client.Client
	cgroups *cgroup.Host
	boot    string
	turns   *turns.Table

	images  sync.RWMutex // read: an image is about to be a container's
	imports once.Works
	noQuota atomic.Bool // the engine's storage driver cannot limit disks

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	mu      sync.Mutex
	watches map[string]*watch
	closed  bool
	working sync.WaitGroup

	info  infoCache
	agent agentCache
}

var (
	_ vmm.Driver           = (*Driver)(nil)
	_ vmm.Pauser           = (*Driver)(nil)
	_ vmm.Snapshotter      = (*Driver)(nil)
	_ vmm.Meter            = (*Driver)(nil)
	_ vmm.Resizer          = (*Driver)(nil)
	_ vmm.Renamer          = (*Driver)(nil)
	_ vmm.EgressController = (*Driver)(nil)
	_ vmm.Closer           = (*Driver)(nil)
	_ vmm.Teardowner       = (*Driver)(nil)
)

// New makes a driver over the engine at the socket, which must answer. It
// starts nothing. Returns InvalidArgument, Unsupported, Unavailable.
func New(ctx context.Context, cfg Config) (*Driver, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	d := &Driver{cfg: cfg, log: cfg.Logger, watches: map[string]*watch{}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if d.boot, err = process.BootID(); err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "cannot read the boot ID")
	}
	d.turns = turns.New(d.boot)
	if d.cgroups, err = cgroup.Detect(); err != nil {
		return nil, err
	}
	for dir, mode := range map[string]os.FileMode{cfg.RuntimeDir: 0o711, cfg.RuntimeDir + "/m": 0o711, cfg.RuntimeDir + "/a": 0o711, cfg.RuntimeDir + "/p": 0o700} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return nil, fault.Of(err, "cannot make the driver's directories")
		}
		if err := os.Chmod(dir, mode); err != nil {
			return nil, fault.Of(err, "cannot make the driver's directories")
		}
	}
	if _, err := os.Stat(cfg.Socket); err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "there is no Docker engine at %s", cfg.Socket).WithHint("install and start Docker")
	}
	if d.engine, err = client.New(client.WithHost("unix://" + cfg.Socket)); err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "the Docker engine's socket cannot be used")
	}
	if _, err := d.engine.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return nil, errors.Join(said(err, "the Docker engine does not answer"), d.engine.Close())
	}
	about, err := d.engine.Info(ctx, client.InfoOptions{})
	if err != nil {
		return nil, errors.Join(said(err, "the Docker engine does not say what it is"), d.engine.Close())
	}
	// Others count the image, too, or limit nothing.
	d.noQuota.Store(about.Info.Driver != "overlay2")
	d.ctx, d.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return d, nil
}

// Close lets go of what is held in this process. Machines go on.
func (d *Driver) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.turns.Close()
	d.cancel()
	d.working.Wait()
	return d.engine.Close()
}

// Teardown removes the images of builds, and what was made for the instance on
// the host. No machine may run; stopped ones and snapshots stay in the engine,
// with the images that they stand on. See [vmm.Teardowner].
func (d *Driver) Teardown(ctx context.Context) error {
	states, err := d.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range states {
		if s.Status == vmm.StatusRunning || s.Status == vmm.StatusPaused {
			return errors.New(errors.Conflict, "the machine %s still runs", s.MachineID)
		}
	}
	d.images.Lock()
	defer d.images.Unlock()
	if err := d.sweep(ctx, func(string) bool { return true }); err != nil {
		return err
	}
	if len(states) > 0 {
		return nil // their files are where their containers look for them
	}
	for _, dir := range []string{"m", "p", "a", ""} {
		if err := os.RemoveAll(filepath.Join(d.cfg.RuntimeDir, dir)); err != nil {
			return fault.Of(err, "cannot remove the runtime directory")
		}
	}
	return nil
}
