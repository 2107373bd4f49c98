package microvm

import (
	"context"
	"os"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/record"
)

// Stop ends a machine and keeps its disk. See [vmm.Driver].
func (d *Driver) Stop(ctx context.Context, id string, grace time.Duration) error {
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	m, err := d.load(id)
	switch {
	case errors.HasCode(err, errors.NotFound):
		return nil
	case err != nil:
		return err
	case m.run.Phase == phaseDeleting, m.run.Phase == phaseIdle && !m.Suspended:
		return nil
	}
	if m.run.Phase != phaseStarting && !m.Suspended && grace > 0 {
		if err := d.ask(ctx, m, grace); err != nil {
			return err
		}
	}
	if err := d.clear(ctx, id); err != nil {
		return err
	}
	if m.Suspended {
		m.Suspended = false
		if err := d.saveFacts(m); err != nil {
			return err
		}
	}
	if err := d.cfg.Volumes.Delete(ctx, d.cfg.paths(id).memory); err != nil {
		return err
	}
	m.run = runState{}
	err = d.saveRun(m)
	d.wakes.Notify(id)
	return err
}

const (
	// heedPatience is how long an agent has at least to hear that its machine is to end.
	heedPatience = 10 * time.Second
	// writePatience is how much longer than its programs an ending machine has:
	// it writes what its kernel holds of its disk, which would be lost otherwise.
	writePatience = 30 * time.Second
)

// ask has the agent end what runs and power off, and gives it time. An agent
// that does not answer is no hindrance.
func (d *Driver) ask(ctx context.Context, m *machine, grace time.Duration) error {
	w, err := d.follow(m.MachineID, m.run.Process)
	if err != nil || w == nil {
		return err
	}
	w.Ordered()
	asking, cancel := context.WithTimeout(ctx, max(grace, heedPatience))
	defer cancel()
	if m.run.Paused || m.run.Still { // who stands still hears nothing
		m.run.Paused = false
		err := d.saveRun(m)
		if err == nil {
			err = d.goOn(asking, m)
		}
		if err != nil {
			d.log.WarnContext(ctx, "a machine that stood still is ended as it is", "machine", m.MachineID, "error", err)
			return nil
		}
	}
	go func() {
		select {
		case <-w.Done():
			cancel() // the answer may be lost with the machine
		case <-asking.Done():
		}
	}()
	patience := grace + writePatience
	// The monitor's button comes second: an agent that is told by it has a grace of its own.
	if err := d.client(m.MachineID).Shutdown(asking, grace); err != nil {
		d.log.DebugContext(ctx, "an agent was not asked to power off", "machine", m.MachineID, "error", err)
		if asking.Err() != nil {
			patience = grace // it heard nothing
		}
		if err := d.engine.Shutdown(ctx, *m.run.Guest); err != nil {
			d.log.DebugContext(ctx, "a monitor was not asked to power off", "machine", m.MachineID, "error", err)
		}
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.Done():
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// Delete removes a machine and all that was made for it. See [vmm.Driver].
// The record goes last, so that a Delete cut short is seen and made again.
func (d *Driver) Delete(ctx context.Context, id string) error {
	if !idForm.MatchString(id) {
		return nil // never ours
	}
	ctx, done, err := d.turns.Begin(ctx, id, true)
	if err != nil {
		return err
	}
	defer done()
	p := d.cfg.paths(id)
	if _, err := os.Lstat(p.facts); err == nil {
		// A record that cannot be read is no hindrance: what is there goes by its names.
		m := &machine{facts: facts{MachineID: id}, run: runState{Phase: phaseDeleting}}
		if err := d.saveRun(m); err != nil {
			return err
		}
	}
	if err := d.clear(ctx, id); err != nil {
		return err
	}
	for _, volume := range []string{p.memory, p.volume} {
		if err := d.cfg.Volumes.Delete(ctx, volume); err != nil {
			return err
		}
	}
	if err := d.cfg.Network.Release(ctx, id); err != nil {
		return err
	}
	for _, file := range []string{p.exit, p.facts, p.run} {
		if err := record.Remove(file); err != nil {
			return err
		}
	}
	d.wakes.Notify(id)
	return nil
}
