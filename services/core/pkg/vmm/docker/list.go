package docker

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
)

// List tells what there is of machines here: every container with the
// instance's label, and whatever else was made for one. See [vmm.Driver].
func (d *Driver) List(ctx context.Context) ([]vmm.State, error) {
	ids, err := d.traces(ctx)
	if err != nil {
		return nil, err
	}
	states := make([]vmm.State, 0, len(ids))
	for _, id := range ids {
		c, err := d.inspect(ctx, id)
		switch {
		case errors.HasCode(err, errors.NotFound):
			states = append(states, vmm.State{MachineID: id, Status: vmm.StatusBroken})
		case err != nil:
			return nil, err
		default:
			states = append(states, d.state(id, c))
		}
	}
	return states, nil
}

func (d *Driver) state(id string, c *container.InspectResponse) vmm.State {
	s := vmm.State{MachineID: id, Status: status(c), Handle: handle(c)}
	if at, err := time.Parse(time.RFC3339Nano, c.Created); err == nil {
		s.CreatedAt = at.UTC()
	}
	if c.State.Running && !d.booked(id, c) {
		s.Status = vmm.StatusCreated // a start that was cut short can be made again
	}
	if s.Status == vmm.StatusRunning || s.Status == vmm.StatusPaused {
		s.PID = c.State.Pid
	}
	return s
}

func status(c *container.InspectResponse) vmm.Status {
	switch c.State.Status {
	case container.StateCreated, container.StateExited:
		return vmm.StatusCreated
	case container.StatePaused:
		return vmm.StatusPaused
	case container.StateRunning, container.StateRestarting:
		return vmm.StatusRunning
	case container.StateRemoving, container.StateDead:
	}
	return vmm.StatusBroken
}

// traces finds every machine that anything is left of.
func (d *Driver) traces(ctx context.Context) ([]string, error) {
	list, err := d.engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: d.mine()})
	if err != nil {
		return nil, said(err, "cannot list the containers")
	}
	ids, err := d.cfg.Network.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range list.Items {
		ids = append(ids, c.Labels[labelMachine])
	}
	for _, dir := range []string{"m", "p"} {
		entries, err := os.ReadDir(d.cfg.RuntimeDir + "/" + dir)
		if err != nil {
			return nil, fault.Of(err, "cannot list the runtime directory")
		}
		for _, e := range entries {
			ids = append(ids, strings.TrimPrefix(e.Name(), "."))
		}
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return !idForm.MatchString(id) })
	slices.Sort(ids)
	return slices.Compact(ids), nil
}
