package microvm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
)

// Pause freezes a machine, or saves its memory and ends its monitor. See [vmm.Pauser].
func (d *Driver) Pause(ctx context.Context, id string, mode domain.PauseMode) error {
	if mode != domain.PauseFreeze && mode != domain.PauseMemory {
		return errors.New(errors.Unsupported, "the %s driver pauses by freezing or by saving memory", d.engine.Name())
	}
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	m, err := d.load(id)
	if err != nil {
		return err
	}
	if m.Suspended && m.run.Phase != phaseDeleting {
		if mode == domain.PauseFreeze {
			return nil // it stands still better than that
		}
		return d.suspended(ctx, m) // the monitor may still be there
	}
	if m, err = d.running(id); err != nil {
		return err
	}
	if mode == domain.PauseMemory {
		return d.suspend(ctx, m)
	}
	if m.run.Paused {
		return nil
	}
	m.run.Paused, m.run.Still = true, true
	if err := d.saveRun(m); err != nil {
		return err
	}
	if err := d.engine.Freeze(ctx, *m.run.Guest); err != nil {
		m.run.Paused = false // still it may stand: New sees to that
		return errors.Join(err, d.saveRun(m))
	}
	return nil
}

// suspend saves a machine's memory beside its disk and ends its monitor.
func (d *Driver) suspend(ctx context.Context, m *machine) error {
	version, err := d.engine.Version(ctx)
	if err != nil {
		return err
	}
	volume := d.cfg.paths(m.MachineID).memory
	// The one of the pause before is mapped by the monitor at most, and is needed by nobody.
	if err := d.cfg.Volumes.Delete(ctx, volume); err != nil {
		return err
	}
	if err := d.cfg.Volumes.Create(ctx, volume, 0); err != nil {
		return err
	}
	m.run.Still = true
	if err := d.saveRun(m); err != nil {
		return err
	}
	dir, err := d.memoryDir(volume)
	if err == nil {
		_, err = d.engine.Save(ctx, *m.run.Guest, Memory{Dir: dir}, true, func(context.Context) error { return nil })
	}
	if err == nil {
		err = seal(dir)
	}
	if err != nil {
		ctx := context.WithoutCancel(ctx)
		m.run.Still = m.run.Paused
		return errors.Join(err, d.thawUnlessPaused(ctx, m), d.saveRun(m), d.cfg.Volumes.Delete(ctx, volume))
	}
	m.Suspended, m.EngineVersion = true, version
	if err := d.saveFacts(m); err != nil {
		return err
	}
	return d.suspended(context.WithoutCancel(ctx), m)
}

func (d *Driver) thawUnlessPaused(ctx context.Context, m *machine) error {
	if m.run.Paused || !m.run.Process.Alive(d.boot) {
		return nil
	}
	return d.engine.Thaw(ctx, *m.run.Guest)
}

// suspended ends what is left of a machine whose memory is saved.
func (d *Driver) suspended(ctx context.Context, m *machine) error {
	if err := d.clear(ctx, m.MachineID); err != nil {
		return err
	}
	m.run = runState{}
	return d.saveRun(m)
}

// Resume lets a paused machine go on. See [vmm.Pauser].
func (d *Driver) Resume(ctx context.Context, id string) error {
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	m, err := d.load(id)
	if err != nil {
		return err
	}
	if m.Suspended && m.run.Phase != phaseDeleting {
		return d.wake(ctx, m)
	}
	if m, err = d.running(id); err != nil {
		return err
	}
	if err := d.engine.Thaw(ctx, *m.run.Guest); err != nil {
		return err
	}
	if m.run.Paused || m.run.Still {
		m.run.Paused, m.run.Still = false, false
		if err := d.saveRun(m); err != nil {
			return err
		}
	}
	// Its clock stood still as well.
	return d.client(id).Thaw(ctx)
}

// wake restores a machine from the memory that its pause saved.
func (d *Driver) wake(ctx context.Context, m *machine) error {
	if err := d.clear(ctx, m.MachineID); err != nil {
		return err
	}
	if err := d.sameEngine(ctx, m.EngineVersion); err != nil {
		return err
	}
	dir := filepath.Join(d.cfg.Volumes.Path(d.cfg.paths(m.MachineID).memory), memoryName)
	err := d.launch(ctx, m, dir)
	d.wakes.Notify(m.MachineID)
	return err
}

// sameEngine checks that a memory was saved by what would restore it.
func (d *Driver) sameEngine(ctx context.Context, saved string) error {
	version, err := d.engine.Version(ctx)
	if err != nil {
		return err
	}
	if version != saved {
		return errors.New(errors.Conflict, "the memory was saved by %s, and here is %s", saved, version).
			WithHint("start from its disk, without the memory")
	}
	return nil
}

// memoryName is the directory of a saved memory in its volume.
const memoryName = "memory"

// memoryDir makes the directory that a memory is saved to.
func (d *Driver) memoryDir(volume string) (string, error) {
	dir := filepath.Join(d.cfg.Volumes.Path(volume), memoryName)
	err := errors.Join(os.Chmod(filepath.Dir(dir), 0o711), os.Mkdir(dir, 0o700))
	return dir, fault.Of(err, "cannot make room for the memory")
}

// seal makes a saved memory what nobody writes to any more and each monitor
// that was told of it can read.
func seal(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fault.Of(err, "cannot keep the memory")
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !e.Type().IsRegular() {
			return fault.Of(fmt.Errorf("%s is not a file", e.Name()), "cannot keep the memory")
		}
		if err := errors.Join(os.Lchown(path, 0, 0), os.Chmod(path, 0o444)); err != nil {
			return fault.Of(err, "cannot keep the memory")
		}
	}
	return fault.Of(errors.Join(os.Lchown(dir, 0, 0), os.Chmod(dir, 0o711)), "cannot keep the memory")
}

// whileStill does something while a machine that runs stands still, and tells
// how long it did. Should this process die meanwhile, the next driver lets the
// machine go on (see [New]).
func (d *Driver) whileStill(ctx context.Context, m *machine, do func() error) (time.Duration, error) {
	if m.run.Paused {
		return 0, do()
	}
	m.run.Still = true
	if err := d.saveRun(m); err != nil {
		return 0, err
	}
	began := time.Now()
	err := d.engine.Freeze(ctx, *m.run.Guest)
	if err == nil {
		err = do()
	}
	err = errors.Join(err, d.engine.Thaw(context.WithoutCancel(ctx), *m.run.Guest))
	took := time.Since(began)
	m.run.Still = false
	return took, errors.Join(err, d.saveRun(m))
}
