package docker

import (
	"context"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/record"
)

// Stop ends a machine and keeps its disk. See [vmm.Driver].
func (d *Driver) Stop(ctx context.Context, id string, grace time.Duration) error {
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	return d.end(ctx, id, grace)
}

// end ends a machine's run; none is success.
func (d *Driver) end(ctx context.Context, id string, grace time.Duration) error {
	c, err := d.inspect(ctx, id)
	if errors.HasCode(err, errors.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.State.Running {
		w, err := d.follow(id, c)
		if err != nil {
			return err
		}
		w.ordered.Store(true)
		if err := d.kill(ctx, w, c.State.Paused, grace); err != nil {
			return err
		}
	}
	return record.Remove(d.cfg.paths(id).run)
}

func (d *Driver) kill(ctx context.Context, w *watch, paused bool, grace time.Duration) error {
	if paused { // a frozen process takes no signal
		if _, err := d.engine.ContainerUnpause(ctx, w.container, client.ContainerUnpauseOptions{}); err != nil && !over(err) {
			return said(err, "cannot let the machine go on")
		}
	}
	signals := []string{"SIGTERM", "SIGKILL"}
	if grace <= 0 {
		signals = signals[1:]
	}
	for _, signal := range signals {
		if _, err := d.engine.ContainerKill(ctx, w.container, client.ContainerKillOptions{Signal: signal}); err != nil && !over(err) {
			return said(err, "cannot signal the machine")
		}
		var limit <-chan time.Time
		if signal == "SIGTERM" {
			timer := time.NewTimer(grace)
			defer timer.Stop()
			limit = timer.C
		}
		select {
		case <-w.done:
			return nil
		case <-limit:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// over reports that the container does not run, or is no more.
func over(err error) bool { return errdefs.IsConflict(err) || errdefs.IsNotFound(err) }

// Delete removes a machine and all that was made for it. See [vmm.Driver].
// Its files go last, so that a Delete cut short is seen and made again.
func (d *Driver) Delete(ctx context.Context, id string) error {
	if !idForm.MatchString(id) {
		return nil // never ours
	}
	ctx, done, err := d.turns.Begin(ctx, id, true)
	if err != nil {
		return err
	}
	defer done()
	c, err := d.inspect(ctx, id)
	switch {
	case errors.HasCode(err, errors.NotFound):
	case err != nil:
		return err
	default:
		if w := d.watched(id); w != nil {
			w.ordered.Store(true)
		}
		if err := d.remove(ctx, c); err != nil {
			return err
		}
	}
	if err := d.cfg.Network.Release(ctx, id); err != nil {
		return err
	}
	p := d.cfg.paths(id)
	if err := record.Remove(p.run); err != nil {
		return err
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return fault.Of(err, "cannot remove the machine's files")
	}
	return d.trySweep(ctx)
}

func (d *Driver) remove(ctx context.Context, c *container.InspectResponse) error {
	if c.State.Paused { // some engines do not end what is paused
		if _, err := d.engine.ContainerUnpause(ctx, c.ID, client.ContainerUnpauseOptions{}); err != nil && !over(err) {
			return said(err, "cannot let the machine go on")
		}
	}
	_, err := d.engine.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if errdefs.IsConflict(err) { // somebody else removes it
		result := d.engine.ContainerWait(ctx, c.ID, client.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
		select {
		case <-result.Result:
			return nil
		case err = <-result.Error:
		}
	}
	if errdefs.IsNotFound(err) {
		return nil
	}
	return said(err, "cannot remove the machine's container")
}
