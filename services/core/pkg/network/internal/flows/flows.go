// Package flows ends connections that go through this host, by taking them out
// of the kernel's connection table: what comes next of them is judged as if it
// were the first packet.
package flows

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Flow is a connection as its origin sees it.
type Flow struct {
	To       netip.Addr
	Port     uint16
	Protocol uint8
	from     netip.Addr // who answers
}

// TCP reports whether it is one of TCP, UDP one of UDP.
func (f Flow) TCP() bool { return f.Protocol == unix.IPPROTO_TCP }

// UDP is TCP's sibling.
func (f Flow) UDP() bool { return f.Protocol == unix.IPPROTO_UDP }

// Proxied reports whether it was redirected to this host's address.
func (f Flow) Proxied(gateway netip.Addr) bool { return f.from == gateway && f.To != gateway }

// Cut ends the flows of a source that keep does not want to keep.
func Cut(source netip.Addr, keep func(Flow) bool) error {
	// A table that changed while it was read is read again: what was added
	// meanwhile was judged by rules that are in force already.
	for range 8 {
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, &filter{source, keep})
		if err == nil {
			return nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.ENOENT) {
			return errors.Wrap(err, errors.Unavailable, "connections cannot be cut")
		}
	}
	return errors.New(errors.Unavailable, "connections cannot be cut: the table changes too fast")
}

type filter struct {
	source netip.Addr
	keep   func(Flow) bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f *filter) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	source, ok := netip.AddrFromSlice(c.Forward.SrcIP.To4())
	if !ok || source != f.source {
		return false
	}
	to, _ := netip.AddrFromSlice(c.Forward.DstIP.To4())
	from, _ := netip.AddrFromSlice(c.Reverse.SrcIP.To4())
	return !f.keep(Flow{To: to, Port: c.Forward.DstPort, Protocol: c.Forward.Protocol, from: from})
}
