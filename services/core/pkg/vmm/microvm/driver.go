package microvm

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/cgroup"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/process"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/turns"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// Driver makes machines with an engine. One process at a time may hold a
// driver for an instance; any later one takes over what is there.
type Driver struct {
	cfg     Config
	engine  Engine
	log     *slog.Logger
	cgroups *cgroup.Host
	boot    string
	turns   *turns.Table
	flushes sync.WaitGroup // records on their way to disk
	images  images
	proof   proof
	booted  *booted
	standby *standby
	wakes   watch.Hub[string] // of machines that no longer are paused without a monitor

	mu      sync.Mutex
	clients map[string]*guest.Client // of machines that were talked to
	traces  map[string][]vmm.Phase   // of their last starts
}

var (
	_ vmm.Driver           = (*Driver)(nil)
	_ vmm.Pauser           = (*Driver)(nil)
	_ vmm.Snapshotter      = (*Driver)(nil)
	_ vmm.Carrier          = (*Driver)(nil)
	_ vmm.Meter            = (*Driver)(nil)
	_ vmm.Renamer          = (*Driver)(nil)
	_ vmm.Tracer           = (*Driver)(nil)
	_ vmm.BootKeeper       = (*Driver)(nil)
	_ vmm.EgressController = (*Driver)(nil)
	_ vmm.Closer           = (*Driver)(nil)
	_ vmm.Teardowner       = (*Driver)(nil)
)

// New makes a driver over what is on this host. It starts nothing, but carries
// through or undoes what an earlier process was killed in the middle of: a
// machine that stands still for a snapshot goes on, one that was being resumed
// is resumed, one that was being started is not. Returns InvalidArgument, Unsupported.
func New(ctx context.Context, cfg Config) (*Driver, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	d := &Driver{
		cfg: cfg, engine: cfg.Engine, log: cfg.Logger,
		clients: map[string]*guest.Client{}, traces: map[string][]vmm.Phase{}, proof: proof{turn: make(chan struct{}, 1)},
	}
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
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{
		{cfg.StateDir, 0o711},
		{cfg.recordsDir(), 0o700},
		{cfg.imagesDir(), 0o711},
		{cfg.RuntimeDir, 0o711},
		{filepath.Join(cfg.RuntimeDir, "g"), 0o711},
		{filepath.Join(cfg.RuntimeDir, "p"), 0o700},
		{filepath.Join(cfg.RuntimeDir, "e"), 0o700},
	} {
		if err := errors.Join(os.MkdirAll(dir.path, dir.mode), os.Chmod(dir.path, dir.mode)); err != nil {
			return nil, fault.Of(err, "cannot make the driver's directories")
		}
	}
	d.booted, d.standby = newBooted(d), newStandby(d)
	if err := d.recover(ctx); err != nil {
		return nil, err
	}
	return d, d.booted.recover(ctx)
}

func (d *Driver) group(id string) cgroup.Group { return d.cgroups.Group(d.cfg.paths(id).cgroup) }

// Close lets go of what is held in this process. Machines go on.
func (d *Driver) Close() error {
	d.booted.stop()
	d.standby.stop()
	d.turns.Close()
	d.mu.Lock()
	clients := d.clients
	d.clients = map[string]*guest.Client{}
	d.mu.Unlock()
	for _, c := range clients {
		c.Close()
	}
	d.flushes.Wait()
	return d.engine.Close()
}

// Teardown removes what was made for the instance on the host. No machine may
// run; stopped and paused ones keep their records, disks and memories. Network
// and volumes, which others may share, stay: who made them takes them down.
func (d *Driver) Teardown(ctx context.Context) error {
	d.booted.stop()
	d.standby.stop()
	states, err := d.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range states {
		if s.PID != 0 {
			return errors.New(errors.Conflict, "the machine %s still runs", s.MachineID)
		}
		if err := d.clear(ctx, s.MachineID); err != nil { // of a start that was cut short
			return err
		}
	}
	if err := d.cgroups.Group(d.cfg.cgroupParent()).Remove(ctx); err != nil {
		return err
	}
	d.flushes.Wait()
	return fault.Of(os.RemoveAll(d.cfg.RuntimeDir), "cannot remove the runtime directory")
}
