package oci

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// freezeTimeout bounds how long processes may take to stand still: those that
// wait for the disk do so first.
const freezeTimeout = 10 * time.Second

// Pause freezes a machine in mode freeze. See [vmm.Pauser].
func (d *Driver) Pause(ctx context.Context, id string, mode domain.PauseMode) error {
	if mode != domain.PauseFreeze {
		return errors.New(errors.Unsupported, "the %s driver pauses by freezing only", Name)
	}
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	r, err := d.running(id)
	if err != nil {
		return err
	}
	if !r.run.Paused {
		r.run.Paused = true
		if err := d.saveRun(r); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, freezeTimeout)
	defer cancel()
	if err := d.group(id).Freeze(ctx); err != nil {
		r.run.Paused = false
		return errors.Join(err, d.saveRun(r))
	}
	return nil
}

// Resume lets a frozen machine go on. See [vmm.Pauser].
func (d *Driver) Resume(ctx context.Context, id string) error {
	_, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	r, err := d.running(id)
	if err != nil {
		return err
	}
	if err := d.group(id).Thaw(); err != nil {
		return err
	}
	if r.run.Paused {
		r.run.Paused = false
		return d.saveRun(r)
	}
	return nil
}
