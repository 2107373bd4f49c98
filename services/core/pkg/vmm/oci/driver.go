package oci

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/cgroup"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/process"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/turns"
)

// Name is the driver's name.
const Name = "oci"

// Driver makes machines with an OCI runtime. One process at a time may hold a
// driver for an instance; any later one takes over what is there.
type Driver struct {
	cfg         Config
	log         *slog.Logger
	cgroups     *cgroup.Host
	runtime     *engine
	confinement confinement
	layers      layers
	stage       *stage
	moves       io.Closer // has the kernel move processes between groups fast; nil: it cannot
	boot        string

	turns   *turns.Table
	flushes sync.WaitGroup // records on their way to disk

	info  infoCache
	agent agentCache
}

var (
	_ vmm.Driver      = (*Driver)(nil)
	_ vmm.Pauser      = (*Driver)(nil)
	_ vmm.Snapshotter = (*Driver)(nil)
	_ vmm.Carrier     = (*Driver)(nil)
	_ vmm.Meter       = (*Driver)(nil)
	_ vmm.Resizer     = (*Driver)(nil)
	_ vmm.Renamer     = (*Driver)(nil)
	_ vmm.Closer      = (*Driver)(nil)
	_ vmm.Teardowner  = (*Driver)(nil)
)

// New makes a driver over what is on this host. It starts nothing; a machine
// that an earlier process left frozen in the middle of a snapshot goes on. With
// [RuntimeAuto] it makes the trial of Info, to see which runtime works here.
// Returns InvalidArgument, Unsupported.
func New(ctx context.Context, cfg Config) (*Driver, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Runtime == RuntimeAuto {
		return choose(ctx, cfg)
	}
	d := &Driver{cfg: cfg, log: cfg.Logger}
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
	if err := d.makeDirs(); err != nil {
		return nil, err
	}
	if d.runtime, err = findEngine(ctx, &d.cfg); err != nil {
		return nil, err
	}
	if d.confinement, err = confine(d.runtime); err != nil {
		return nil, err
	}
	if d.stage, err = openStage(d.runtime.hidden(), d.runtime.path, cfg.RuntimeDir); err != nil {
		return nil, err
	}
	if d.moves, err = d.cgroups.FavorMoves(); err != nil {
		d.log.Debug("machines start slower", "error", err)
	}
	if d.layers, err = d.chooseLayers(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, d.recover(ctx)
}

// makeDirs makes the driver's directories. The runtime directory and its "m"
// let everybody through and nobody look; each machine's directory in there
// lets only that machine's root through. The rest is the host's alone.
func (d *Driver) makeDirs() error {
	run := d.cfg.RuntimeDir
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{
		{d.cfg.recordsDir(), 0o700},
		{run, 0o711},
		{filepath.Join(run, "m"), 0o711},
		{filepath.Join(run, "s"), 0o700},
		{filepath.Join(run, "b"), 0o700},
		{filepath.Join(run, "p"), 0o700},
		{filepath.Join(run, "e"), 0o700},
		{filepath.Join(run, "a"), 0o711},
		{d.cfg.runtimeRoot(), 0o700},
	} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return fail(err, "cannot make the driver's directories")
		}
		if err := os.Chmod(dir.path, dir.mode); err != nil {
			return fail(err, "cannot make the driver's directories")
		}
	}
	return nil
}

// recover lets machines go on that are frozen though nobody paused them: a
// process died while it took a snapshot. One that is said to be paused and is not
// frozen runs: the process died as it froze it, or let it go on. And it drops copies of templates that
// no machine has any more.
func (d *Driver) recover(ctx context.Context) error {
	ids, err := d.recorded()
	if err != nil {
		return fail(err, "cannot list the machines")
	}
	builds := map[string]bool{}
	for _, id := range ids {
		r, err := d.load(id)
		if err != nil {
			continue // List shows it as broken
		}
		builds[r.Spec.BuildID] = true
		if g := d.group(id); r.run.Phase == phaseRunning && !r.run.Paused && g.Frozen() {
			if err := g.Thaw(); err != nil {
				return err
			}
		} else if r.run.Phase == phaseRunning && r.run.Paused && !g.Frozen() {
			r.run.Paused = false
			if err := d.saveRun(r); err != nil {
				return err
			}
		}
	}
	return (&templates{volumes: d.cfg.Volumes}).drop(ctx, builds)
}

func (d *Driver) group(id string) cgroup.Group { return d.cgroups.Group(d.cfg.paths(id).cgroup) }

// Close lets go of what is held in this process. Machines go on.
func (d *Driver) Close() error {
	d.turns.Close()
	d.flushes.Wait()
	return errors.Join(d.stage.close(), d.runtime.close(), d.slowMoves())
}

// slowMoves gives up what was done to move processes fast.
func (d *Driver) slowMoves() error {
	if d.moves == nil {
		return nil
	}
	return d.moves.Close()
}

// Teardown removes what was made for the instance on the host. No machine may
// run; stopped ones keep their records and disks and can be started again
// later. Network and volumes, which others may share, stay: who made them
// takes them down.
func (d *Driver) Teardown(ctx context.Context) error {
	states, err := d.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range states {
		if s.Status == vmm.StatusRunning || s.Status == vmm.StatusPaused {
			return errors.New(errors.Conflict, "the machine %s still runs", s.MachineID)
		}
		// A start that was cut short may have left its root mounted.
		if err := d.Stop(ctx, s.MachineID, 0); err != nil {
			return err
		}
	}
	if err := d.cgroups.Group(d.cfg.cgroupParent()).Remove(ctx); err != nil {
		return err
	}
	if err := d.layers.teardown(ctx); err != nil {
		return err
	}
	d.flushes.Wait()
	return fail(os.RemoveAll(d.cfg.RuntimeDir), "cannot remove the runtime directory")
}

// fail gives an operating system error its code; coded errors pass.
func fail(err error, message string) error { return fault.Of(err, message) }
