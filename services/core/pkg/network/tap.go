package network

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/link"
)

// TapInterface is the name of a machine's tap, in its network namespace.
const TapInterface = "tap0"

// Tap makes the link of a machine that has a kernel of its own: a tap in the
// network namespace that Acquire gave it, for a monitor that runs in there as
// owner, user and group alike. The machine's frames are the monitor's from then
// on, with virtio's header before each, and with the hardware and the IP address
// that Acquire named: no other passes the host's end. The namespace itself has
// no address any more and sends nothing. A tap that is there stays open where it is open.
//
// Returns NotFound when the machine has no network; Conflict when its mode has no
// link, its link is elsewhere ([Manager.Move]) or it is being released;
// Unavailable, with what the kernel lacks.
func (m *Manager) Tap(ctx context.Context, machineID string, owner uint32) (string, error) {
	err := m.onLink(ctx, machineID, func(p *pair, nat *natNetwork) error {
		if p.rec.Elsewhere {
			return errors.New(errors.Conflict, "the machine's link is in another network namespace")
		}
		return link.Tap(m.port(nat, p.rec), TapInterface, owner)
	})
	if err != nil {
		return "", err
	}
	return TapInterface, nil
}

// onLink calls fn for a machine whose link stands, while nothing else changes it.
func (m *Manager) onLink(_ context.Context, machineID string, fn func(*pair, *natNetwork) error) error {
	if !m.begin() {
		return errClosed()
	}
	defer m.tasks.Done()
	m.mu.Lock()
	p := m.machines[machineID]
	m.mu.Unlock()
	if p == nil {
		return errors.New(errors.NotFound, "the machine has no network")
	}
	p.op.Lock()
	defer p.op.Unlock()
	m.mu.Lock()
	rec := p.rec
	m.mu.Unlock()
	if rec.State != stateClaimed {
		return errors.New(errors.Conflict, "the machine's network is being released")
	}
	if rec.Mode != domain.NetworkNAT {
		return errors.New(errors.Conflict, "a machine with network mode %s has no link", rec.Mode)
	}
	nat, err := m.ensureNAT()
	if err != nil {
		return err
	}
	return fn(p, nat)
}
