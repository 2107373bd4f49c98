package network

import (
	"context"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/link"
)

// Move puts the machine's end of its link, with its address and routes, into a
// network namespace that something else made for it, and waits until it carries
// frames. It may be called again when that namespace has ended, and the link
// with it. netns is the path of the namespace's file. The machine's user and
// network namespace from Acquire are then nobody's.
//
// Returns NotFound when the machine has no network or the namespace is not
// there; Conflict when its mode has no link, it is being released, or netns is
// the host's own.
func (m *Manager) Move(ctx context.Context, machineID, netns string) error {
	// Held open, so that the path means the same namespace to the end.
	f, err := os.Open(netns)
	if err != nil {
		return errors.Wrap(err, errors.NotFound, "the machine's network namespace is not there")
	}
	defer func() { _ = f.Close() }()
	var own, target unix.Stat_t
	if err := errors.Join(unix.Stat("/proc/thread-self/ns/net", &own), unix.Fstat(int(f.Fd()), &target)); err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot look at a network namespace")
	}
	if own.Ino == target.Ino && own.Dev == target.Dev {
		return errors.New(errors.Conflict, "the network namespace is the host's own")
	}
	return m.onLink(ctx, machineID, func(p *pair, nat *natNetwork) error {
		if !p.rec.Elsewhere {
			rec := p.rec
			rec.Elsewhere = true
			if err := m.save(rec); err != nil {
				return err
			}
			m.mu.Lock()
			p.rec.Elsewhere = true
			m.mu.Unlock()
		}
		port := m.port(nat, p.rec)
		port.NetNS = "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
		if err := link.PutGuest(port); err != nil {
			return err
		}
		return link.Plug(port)
	})
}
