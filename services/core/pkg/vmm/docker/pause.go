package docker

import (
	"context"

	"github.com/moby/moby/client"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Pause freezes a machine in mode freeze. See [vmm.Pauser].
func (d *Driver) Pause(ctx context.Context, id string, mode domain.PauseMode) error {
	if mode != domain.PauseFreeze {
		return errors.New(errors.Unsupported, "the %s driver pauses by freezing only", Name)
	}
	return d.setPaused(ctx, id, true)
}

// Resume lets a frozen machine go on. See [vmm.Pauser].
func (d *Driver) Resume(ctx context.Context, id string) error { return d.setPaused(ctx, id, false) }

func (d *Driver) setPaused(ctx context.Context, id string, want bool) error {
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	c, err := d.running(ctx, id)
	if err != nil {
		return err
	}
	w, err := d.follow(id, c)
	if err != nil {
		return err
	}
	if c.State.Paused != want {
		ctx, cancel := wholly(ctx)
		defer cancel()
		if want {
			_, err = d.engine.ContainerPause(ctx, c.ID, client.ContainerPauseOptions{})
		} else {
			_, err = d.engine.ContainerUnpause(ctx, c.ID, client.ContainerUnpauseOptions{})
		}
		if err != nil {
			return said(err, "the Docker engine cannot freeze the machine or let it go on")
		}
	}
	w.paused.Store(want)
	return nil
}
