package microvm

import (
	"context"
	"net"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/network"
)

// lastBreath is how long a monitor may take to end after its connections have:
// far more than it does.
const lastBreath = 2 * time.Second

// introduce waits for a machine's agent and tells it who the machine is. That of
// a restored one is told at once: it has shaken hands in an earlier life, whose
// phases are of no interest, and what it is asked first takes longest.
func (d *Driver) introduce(caller context.Context, m *machine, att network.Attachment, restored bool, t *trace) error {
	err := d.whileAlive(caller, m, func(ctx context.Context, client *guest.Client) error {
		if !restored {
			agent, err := client.Handshake(ctx)
			if err != nil {
				return err
			}
			t.agent(agent)
		}
		return client.Assume(ctx, identity(m, att, m.Begun))
	})
	if err == nil {
		t.phase("identity")
	}
	return err
}

// heard waits for a machine's agent, and talks to it while its monitor lives.
func (d *Driver) heard(caller context.Context, m *machine, talk func(context.Context, *guest.Client, guest.Agent) error) error {
	return d.whileAlive(caller, m, func(ctx context.Context, client *guest.Client) error {
		agent, err := client.Handshake(ctx)
		if err != nil {
			return err
		}
		return talk(ctx, client, agent)
	})
}

// whileAlive talks to a machine's agent while its monitor lives.
func (d *Driver) whileAlive(caller context.Context, m *machine, talk func(context.Context, *guest.Client) error) error {
	ctx, cancel := context.WithCancel(caller)
	defer cancel()
	w := d.turns.Watched(m.MachineID)
	if w == nil {
		return errors.New(errors.GuestFault, "the machine's monitor ended as soon as it was started")
	}
	go func() {
		select {
		case <-w.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	err := talk(ctx, d.client(m.MachineID))
	if err == nil {
		return nil
	}
	if caller.Err() == nil {
		// A process that ends closes its connections first.
		select {
		case <-w.Done():
		case <-caller.Done():
		case <-time.After(lastBreath):
		}
	}
	if !d.alive(m) { // what a broken connection says is not why
		return errors.Wrap(err, errors.GuestFault, "the machine ended before its agent answered")
	}
	return err
}

// identity is who a machine is.
func identity(m *machine, att network.Attachment, fork bool) guest.Identity {
	id := guest.Identity{
		Hostname: m.hostname(), Fork: fork, Moved: m.Moved,
		Limits: guest.Limits{PIDs: m.Spec.Resources.PIDs, MilliCPU: m.Spec.Resources.MilliCPU},
	}
	if att.Address.IsValid() {
		id.Interface = &guest.Interface{
			MAC: att.MAC, Address: att.Address.Addr(), Gateway: att.Gateway, GatewayMAC: att.GatewayMAC, DNS: att.DNS, MTU: att.MTU,
		}
	}
	return id
}

// client is what this process talks to a machine's agent by, for whoever has its turn.
func (d *Driver) client(id string) *guest.Client {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clientLocked(id)
}

// clientOf is the client of a machine that runs, for whoever has not its turn: the
// machine may be deleted meanwhile, and what is made here after Delete has dropped its
// client stays. Returns NotFound, Conflict.
func (d *Driver) clientOf(id string) (*guest.Client, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.clients[id] == nil {
		if _, err := d.running(id); err != nil {
			return nil, err
		}
	}
	return d.clientLocked(id), nil
}

func (d *Driver) clientLocked(id string) *guest.Client {
	c := d.clients[id]
	if c == nil {
		c = guest.New(func(ctx context.Context) (net.Conn, error) { return d.dialAgent(ctx, id) }, guest.Options{
			CallTimeout: bootPatience, // the first call is made while its kernel boots
			Log:         d.log,
		})
		d.clients[id] = c
	}
	return c
}

// letGo drops the client of a machine that ends.
func (d *Driver) letGo(id string) {
	d.mu.Lock()
	c := d.clients[id]
	delete(d.clients, id)
	delete(d.traces, id)
	d.mu.Unlock()
	if c != nil {
		c.Close()
	}
}

// SetHostname renames a running machine. What it was named last needs nothing.
// See [vmm.Renamer]. Returns InvalidArgument, NotFound, Conflict.
func (d *Driver) SetHostname(ctx context.Context, id, hostname string) error {
	if !hostnameForm.MatchString(hostname) {
		return errors.New(errors.InvalidArgument, "this is not a hostname").WithField("hostname")
	}
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	m, err := d.running(id)
	if err != nil || m.hostname() == hostname {
		return err
	}
	att, _, err := d.cfg.Network.Lookup(ctx, id)
	if err != nil {
		return err
	}
	m.Hostname = hostname
	if err := d.client(id).Assume(ctx, identity(m, att, false)); err != nil {
		return err
	}
	return d.saveFacts(m)
}
