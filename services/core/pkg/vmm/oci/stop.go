package oci

import (
	"context"
	"os"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/record"
	"golang.org/x/sys/unix"
)

// Stop ends a machine and keeps its disk. See [vmm.Driver].
func (d *Driver) Stop(ctx context.Context, id string, grace time.Duration) error {
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	r, err := d.load(id)
	switch {
	case errors.HasCode(err, errors.NotFound):
		return nil
	case err != nil:
		return err
	case r.run.Phase == phaseIdle, r.run.Phase == phaseDeleting:
		return nil
	}
	if r.run.Phase == phaseRunning && grace > 0 {
		if err := d.ask(ctx, r, grace); err != nil {
			return err
		}
	}
	if err := d.clear(ctx, id); err != nil {
		return err
	}
	r.run = runState{}
	return d.saveRun(r)
}

// ask sends the machine's first process a termination signal and gives it time.
func (d *Driver) ask(ctx context.Context, r *machineRecord, grace time.Duration) error {
	w, err := d.follow(r.MachineID, r.run.Process)
	if err != nil || w == nil {
		return err
	}
	w.Ordered()
	if err := w.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrClosed) {
		return errors.Wrap(err, errors.Internal, "cannot signal the machine")
	}
	if err := d.group(r.MachineID).Thaw(); err != nil { // a frozen process takes no signal
		return err
	}
	timer := time.NewTimer(grace)
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
		r := &machineRecord{facts: facts{MachineID: id}, run: runState{Phase: phaseDeleting}}
		if err := d.saveRun(r); err != nil {
			return err
		}
	}
	if err := d.clear(ctx, id); err != nil {
		return err
	}
	if err := d.layers.forget(ctx, id); err != nil {
		return err
	}
	if err := d.cfg.Volumes.Delete(ctx, p.volume); err != nil {
		return err
	}
	if err := d.cfg.Network.Release(ctx, id); err != nil {
		return err
	}
	for _, file := range []string{p.exit, p.facts, p.run} {
		if err := record.Remove(file); err != nil {
			return err
		}
	}
	return nil
}
