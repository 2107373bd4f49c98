package netd

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// localFor is how long the host's addresses are taken to stay what they are.
// Reading them takes longer the more machines there are, and an answer for a
// name, whose size is its owner's choice, has each of its addresses looked at.
const localFor = time.Second

// floor is what the operator lets nobody connect to.
type floor struct {
	cfg  Config
	log  *slog.Logger
	list func() ([]net.Addr, error) // the host's addresses

	mu    sync.Mutex
	read  time.Time
	own   []netip.Addr
	known bool // own is all of them
}

func newFloor(cfg Config, log *slog.Logger) *floor {
	return &floor{cfg: cfg, log: log, list: net.InterfaceAddrs}
}

// refuses reports whether an address is out of everybody's reach. The kernel
// holds netd to the same.
func (f *floor) refuses(ip netip.Addr) bool {
	ip = ip.Unmap()
	// An address that begins with 0 is the host's, too, when it is connected to.
	if !ip.Is4() || ip.As4()[0] == 0 || ip.IsLoopback() || ip.IsMulticast() || f.cfg.Clients.Contains(ip) || ip == f.cfg.Listen {
		return true
	}
	in := func(p netip.Prefix) bool { return p.Contains(ip) }
	if !slices.ContainsFunc(f.cfg.Allow, in) && slices.ContainsFunc(f.cfg.Deny, in) {
		return true
	}
	return f.local(ip)
}

// local reports whether an address is the host's.
func (f *floor) local(ip netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); f.read.IsZero() || now.Sub(f.read) > localFor {
		f.read, f.own = now, nil
		addrs, err := f.list()
		if f.known = err == nil; !f.known {
			f.log.Warn("the host's addresses cannot be read; nothing is connected to", "err", err)
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if own, ok := netip.AddrFromSlice(n.IP); ok {
					f.own = append(f.own, own.Unmap())
				}
			}
		}
	}
	return !f.known || slices.Contains(f.own, ip)
}
