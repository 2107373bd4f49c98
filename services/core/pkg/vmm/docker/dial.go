package docker

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
	w := d.watched(id)
	if w == nil || port != vmm.AgentPort {
		c, err := d.running(ctx, id)
		if err != nil {
			return nil, err
		}
		if c.State.Paused {
			return nil, errPaused()
		}
		if port != vmm.AgentPort {
			ns, err := d.namespace(ctx, id, c, "net")
			if err != nil {
				return nil, err
			}
			defer func() { _ = ns.Close() }()
			return inside.Dial(ctx, pathOf(ns), port)
		}
		if w, err = d.follow(id, c); err != nil {
			return nil, err
		}
	}
	if w.paused.Load() {
		return nil, errPaused()
	}
	return w.dial(ctx)
}

func errPaused() error { return errors.New(errors.Conflict, "the machine is paused") }

// dial connects to the agent, as soon as it is there.
func (w *watch) dial(ctx context.Context) (net.Conn, error) {
	dialing, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-w.done:
			cancel()
		case <-stop:
		}
	}()
	conn, err := w.channel.Dial(dialing)
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case w.ended():
		return nil, errors.New(errors.Conflict, "the machine does not run any more")
	}
	return nil, err
}
