package oci

import (
	"context"
	"net"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/inside"
)

// Dial connects to the agent or to a TCP port in a machine. See [vmm.Driver].
// A paused machine is Conflict: it would never answer.
func (d *Driver) Dial(ctx context.Context, id string, port uint32) (net.Conn, error) {
	if port == 0 || port > 65535 {
		return nil, errors.New(errors.InvalidArgument, "port %d does not exist", port)
	}
	r, err := d.running(id)
	if err != nil {
		return nil, err
	}
	if r.run.Paused && d.group(id).Frozen() {
		return nil, errors.New(errors.Conflict, "the machine is paused")
	}
	if port != vmm.AgentPort {
		return d.dialPort(ctx, id, port)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", d.cfg.paths(id).socket)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "the machine's agent does not listen")
	}
	return conn, nil
}

// dialPort connects from within the machine's network.
func (d *Driver) dialPort(ctx context.Context, id string, port uint32) (net.Conn, error) {
	att, ok, err := d.cfg.Network.Lookup(ctx, id)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errors.New(errors.Conflict, "the machine has no network")
	}
	return inside.Dial(ctx, att.NetNS, port)
}
