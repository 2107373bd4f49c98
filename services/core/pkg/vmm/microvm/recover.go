package microvm

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
)

// recoverPatience bounds what is done for one machine that a process was killed
// in the middle of working on: a monitor or an agent that does not answer keeps
// nobody from starting.
const recoverPatience = 30 * time.Second

// recover takes up what a process that was killed left between two states, and
// removes memories and images that are nobody's. What cannot be done for a
// machine is logged, and done by what is asked of it next.
func (d *Driver) recover(ctx context.Context) error {
	ids, err := d.recorded()
	if err != nil {
		return fault.Of(err, "cannot list the machines")
	}
	for _, id := range ids {
		m, err := d.load(id)
		if err != nil || m.run.Phase == phaseDeleting {
			continue // List shows it as broken
		}
		bounded, cancel := context.WithTimeout(ctx, recoverPatience)
		err = d.takeUp(bounded, m)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			d.log.Error("a machine was not taken up", "machine", id, "error", err)
		}
	}
	if err := d.sweepBlanks(ctx); err != nil {
		return err
	}
	return d.sweep(ctx)
}

// takeUp carries through what was begun with a machine, or undoes it.
func (d *Driver) takeUp(ctx context.Context, m *machine) error {
	switch {
	case m.Suspended, m.run.Phase == phaseStarting:
		// Its memory is saved, and what may be left of it has not gone on. Or its
		// start was not done, and nobody has used it yet.
		if m.run.Phase == phaseIdle {
			return nil
		}
		if err := d.clear(ctx, m.MachineID); err != nil {
			return err
		}
		m.run = runState{}
		return d.saveRun(m)
	case d.waking(m):
		if err := d.rouse(ctx, m, beginTrace()); err != nil {
			// It waits for Resume; until then it stands still, as who is paused does.
			m.run.Still = true
			again, cancel := context.WithTimeout(context.WithoutCancel(ctx), recoverPatience)
			defer cancel()
			return errors.Join(err, d.saveRun(m), d.engine.Freeze(again, *m.run.Guest))
		}
	case m.run.Phase == phaseRunning && m.run.Still && !m.run.Paused && d.alive(m):
		err := d.goOn(ctx, m)
		d.release(ctx, m) // it may have been about to be saved
		return err
	case !d.alive(m):
		// Nobody has it mapped, and it is not to be gone on from.
		return d.cfg.Volumes.Delete(ctx, d.cfg.paths(m.MachineID).memory)
	}
	return nil
}

// goOn lets a machine that stands still run, unless somebody paused it. Should
// that fail, it is written down that it may stand still.
func (d *Driver) goOn(ctx context.Context, m *machine) error {
	if m.run.Paused || !d.alive(m) {
		return nil
	}
	if err := d.engine.Thaw(ctx, *m.run.Guest); err != nil {
		return err
	}
	m.run.Still = false
	return d.saveRun(m)
}
