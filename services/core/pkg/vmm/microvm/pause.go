package microvm

import (
	"context"
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
		if d.standsBy(m) {
			return nil
		}
		return d.suspended(ctx, m) // the monitor may still be there
	}
	if !d.waking(m) {
		if m, err = d.running(id); err != nil {
			return err
		}
	}
	if mode == domain.PauseMemory {
		if err := d.booted.yield(ctx, func() error { return d.suspend(ctx, m) }); err != nil {
			return err
		}
		d.standby.paused(id)
		return nil
	}
	if m.run.Paused || m.run.Phase == phaseWaking {
		return nil
	}
	m.run.Still = true
	if err := d.saveRun(m); err != nil {
		return err
	}
	// Its memory may be saved before it is resumed.
	d.hold(ctx, m)
	// That it is paused is written when it is: until then it is one to let go on.
	err = d.engine.Freeze(ctx, *m.run.Guest)
	if err == nil {
		m.run.Paused = true
		if err = d.saveRun(m); err == nil {
			return nil
		}
		m.run.Paused = false
	}
	err = errors.Join(err, d.goOn(context.WithoutCancel(ctx), m))
	d.release(ctx, m)
	return err
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
		d.hold(ctx, m)
		_, err = d.engine.Save(ctx, *m.run.Guest, Memory{Dir: dir}, true, func(context.Context) error { return nil })
	}
	if err == nil {
		err = seal(dir)
	}
	if err == nil {
		m.Suspended, m.EngineVersion = true, version
		err = d.saveFacts(m)
	}
	if err != nil {
		m.Suspended = false
		ctx := context.WithoutCancel(ctx)
		if m.run.Phase != phaseWaking {
			err = errors.Join(err, d.goOn(ctx, m))
			d.release(ctx, m)
		}
		return errors.Join(err, d.cfg.Volumes.Delete(ctx, volume))
	}
	return d.suspended(context.WithoutCancel(ctx), m)
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
func (d *Driver) Resume(caller context.Context, id string) error {
	ctx, done, err := d.turns.Begin(caller, id, false)
	if err != nil {
		return err
	}
	defer done()
	m, err := d.load(id)
	if err != nil {
		return err
	}
	if m.Suspended && m.run.Phase != phaseDeleting || d.waking(m) {
		return d.wake(ctx, caller, m)
	}
	if m, err = d.running(id); err != nil {
		return err
	}
	if m.run.Paused {
		m.run.Paused = false // should this process die now, the next lets it go on
		if err := d.saveRun(m); err != nil {
			return err
		}
	}
	if err := d.engine.Thaw(ctx, *m.run.Guest); err != nil {
		return err
	}
	// Its clock stood still as well, and so does what runs in it until it is told. Should
	// this process die now, the next does it again.
	err = d.client(id).Thaw(ctx)
	if m.run.Still {
		m.run.Still = false
		err = errors.Join(err, d.saveRun(m))
	}
	return err
}

// wake restores a machine from the memory that its pause saved. Once it has gone
// on it is not ended because its caller went away: what it has in its memory is
// nowhere else.
func (d *Driver) wake(ctx, caller context.Context, m *machine) error {
	defer d.wakes.Notify(m.MachineID)
	bounded, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	t := beginTrace()
	if m.Suspended {
		if err := d.remember(bounded, m, t); err != nil {
			return err
		}
	}
	steady, release := steadfast(ctx, caller)
	defer release()
	err := d.rouse(steady, m, t)
	switch {
	case err == nil:
		return nil
	case m.run.Still && d.alive(m):
		return err // it has not gone on, and can be told to again
	}
	return errors.Wrap(d.undo(ctx, m, err), errors.GuestFault, "the machine went on from its memory, but its agent did not answer: it was ended").
		WithHint("what was in its memory is lost; it can be started from its disk")
}

// remember gives a machine a monitor in which it stands still with the memory that
// its pause saved, and is used up now.
func (d *Driver) remember(ctx context.Context, m *machine, t *trace) error {
	if stood, err := d.standby.takeOver(ctx, m); err != nil {
		return d.undo(ctx, m, err)
	} else if stood {
		t.phase("standby")
		return nil
	}
	if err := d.clear(ctx, m.MachineID); err != nil {
		return err
	}
	if err := d.sameEngine(ctx, m.EngineVersion, "stop it, to start it from its disk alone"); err != nil {
		return err
	}
	if _, err := d.launch(ctx, m, phaseWaking, d.savedMemory(m.MachineID), t); err != nil {
		return d.undo(ctx, m, err)
	}
	return nil
}

// rouse lets a machine that was restored from its own memory run.
func (d *Driver) rouse(ctx context.Context, m *machine, t *trace) error {
	att, err := d.cfg.Network.Acquire(ctx, m.MachineID, m.Spec.Network, m.hostname())
	if err != nil {
		return err
	}
	if _, err := d.follow(m.MachineID, m.run.Process); err != nil {
		return err
	}
	return d.present(ctx, m, att, t)
}

// lastWords is how long what must not be left half done goes on after its caller
// went away.
const lastWords = 20 * time.Second

// steadfast gives a context that outlives its caller's for a while, but not a
// Delete, which ends work alone.
func steadfast(work, caller context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(work), bootPatience)
	stop := context.AfterFunc(work, func() {
		if caller.Err() == nil {
			cancel()
			return
		}
		select {
		case <-time.After(lastWords):
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		stop()
		cancel()
	}
}

// sameEngine checks that a memory was saved by what would restore it.
func (d *Driver) sameEngine(ctx context.Context, saved, hint string) error {
	version, err := d.engine.Version(ctx)
	if err != nil {
		return err
	}
	if version != saved {
		return errors.New(errors.Conflict, "the memory was saved by %s, and here is %s", saved, version).
			WithHint("%s", hint)
	}
	return nil
}

// memoryName is the directory of a saved memory in its volume.
const memoryName = "memory"

// memoryDir makes the directory that a memory is saved to. Like all directories
// of volumes it is root's alone: monitors are shown what is in them.
func (d *Driver) memoryDir(volume string) (string, error) {
	dir := filepath.Join(d.cfg.Volumes.Path(volume), memoryName)
	return dir, fault.Of(os.Mkdir(dir, 0o700), "cannot make room for the memory")
}

// whileStill does something while a machine that runs stands still, and tells
// how long it did. Should this process die meanwhile, the next driver lets the
// machine go on (see [New]).
func (d *Driver) whileStill(ctx context.Context, m *machine, do func() error) (time.Duration, error) {
	if m.run.Paused || m.run.Phase == phaseWaking {
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
	err = errors.Join(err, d.goOn(context.WithoutCancel(ctx), m))
	return time.Since(began), err
}
