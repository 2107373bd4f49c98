package microvm

import (
	"context"
	"net"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Dial connects to the agent, or by way of it to a TCP port in a machine. See
// [vmm.Driver]. A paused machine is Conflict: it would never answer.
func (d *Driver) Dial(ctx context.Context, id string, port uint32) (net.Conn, error) {
	if port == 0 || port > 65535 {
		return nil, errors.New(errors.InvalidArgument, "port %d does not exist", port)
	}
	m, err := d.talking(id)
	switch {
	case err != nil:
		return nil, err
	case port == vmm.AgentPort:
		return d.engine.Dial(ctx, *m.run.Guest)
	}
	client, err := d.clientOf(id)
	if err != nil {
		return nil, err
	}
	return client.DialPort(ctx, uint16(port))
}

// dialAgent connects to the agent for the driver itself, which talks to it
// before the machine runs for others.
func (d *Driver) dialAgent(ctx context.Context, id string) (net.Conn, error) {
	m, err := d.load(id)
	if err == nil && (m.Suspended || !d.alive(m) || m.run.Paused) {
		m, err = d.talking(id) // which says why not
	}
	if err != nil {
		return nil, err
	}
	return d.engine.Dial(ctx, *m.run.Guest)
}

// talking loads a machine that can answer. Returns NotFound, Conflict.
func (d *Driver) talking(id string) (*machine, error) {
	m, err := d.running(id)
	if err == nil && m.run.Paused {
		return nil, errors.New(errors.Conflict, "the machine is paused")
	}
	return m, err
}
