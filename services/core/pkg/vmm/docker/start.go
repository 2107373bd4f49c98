package docker

import (
	"context"
	"fmt"
	"os"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/record"
)

// run is the record of a run that was wholly begun: a container that runs
// otherwise has no link yet, and Start goes on with it.
type run struct {
	Version   int    `json:"version"`
	Container string `json:"container"`
	StartedAt string `json:"started_at"`
}

const runVersion = 1

// booked reports whether the container's run was wholly begun.
func (d *Driver) booked(id string, c *container.InspectResponse) bool {
	var r run
	err := record.Read(d.cfg.paths(id).run, &r)
	return err == nil && r.Version == runVersion && r.Container == c.ID && r.StartedAt == c.State.StartedAt
}

// Start runs a machine. See [vmm.Driver].
func (d *Driver) Start(ctx context.Context, id string) error {
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	c, err := d.inspect(ctx, id)
	if err != nil {
		return err
	}
	switch {
	case c.State.Running && d.booked(id, c):
		return nil
	case c.State.Status == container.StateRemoving || c.State.Status == container.StateDead:
		return errors.New(errors.Conflict, "the machine is being deleted")
	}
	if err := d.launch(ctx, id, c); err != nil {
		// What was begun is undone; if that fails, the next start or Delete does it.
		undoing, cancel := wholly(ctx)
		defer cancel()
		return errors.Join(err, d.end(undoing, id, 0))
	}
	return nil
}

func (d *Driver) launch(ctx context.Context, id string, c *container.InspectResponse) error {
	hostname, err := d.hostname(id, c.Config.Hostname)
	if err != nil {
		return err
	}
	mode := domain.NetworkMode(c.Config.Labels[labelNetwork])
	// Also after a reboot: the addresses are others then.
	if _, err := d.furnish(ctx, id, mode, hostname); err != nil {
		return err
	}
	if _, err := d.agentBinary(); err != nil {
		return err
	}
	if !c.State.Running {
		if err := d.rested(ctx, id, c); err != nil {
			return err
		}
		if err := d.begin(ctx, c.ID); err != nil {
			return err
		}
		if c, err = d.running(ctx, id); err != nil {
			return endedAtOnce(err)
		}
	}
	if mode == domain.NetworkNAT {
		ns, err := d.namespace(ctx, id, c, "net")
		if err != nil {
			return err
		}
		err = d.cfg.Network.Move(ctx, id, pathOf(ns))
		_ = ns.Close()
		if err != nil {
			return err
		}
	}
	if hostname != c.Config.Hostname {
		if err := d.renameKernel(ctx, id, c, hostname); err != nil {
			return err
		}
	}
	w, err := d.follow(id, c)
	if err != nil {
		return err
	}
	if err := w.answers(ctx); err != nil {
		return err
	}
	return record.Write(d.cfg.paths(id).run, run{runVersion, c.ID, c.State.StartedAt})
}

func (d *Driver) begin(ctx context.Context, containerID string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := wholly(ctx)
	defer cancel()
	_, err := d.engine.ContainerStart(ctx, containerID, client.ContainerStartOptions{})
	return said(err, "the Docker engine cannot start the machine")
}

// endedAtOnce says what it means that a machine does not run that was just started.
func endedAtOnce(err error) error {
	if !errors.HasCode(err, errors.Conflict) && !errors.HasCode(err, errors.NotFound) {
		return err
	}
	return errors.Wrap(err, errors.GuestFault, "the guest agent ended as soon as it was started")
}

// answers waits until the agent is linked with this process.
func (w *watch) answers(ctx context.Context) error {
	conn, err := w.dial(ctx)
	if err != nil {
		return err
	}
	return conn.Close()
}

// namespace opens a namespace of the machine's first process.
func (d *Driver) namespace(ctx context.Context, id string, c *container.InspectResponse, kind string) (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", c.State.Pid, kind))
	if err != nil {
		return nil, errors.Wrap(err, errors.Conflict, "the machine does not run").
			WithHint("the Docker engine must run on this host, in the same process namespace")
	}
	// The process ID was not another's meanwhile if it is still that of this run.
	now, err := d.running(ctx, id)
	if err == nil && (now.State.Pid != c.State.Pid || now.State.StartedAt != c.State.StartedAt) {
		err = errors.New(errors.Conflict, "the machine does not run any more")
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// pathOf is a path to what a descriptor is open on, within this process.
func pathOf(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
