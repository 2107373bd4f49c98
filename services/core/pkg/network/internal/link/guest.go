// Package link makes the links of an instance: its bridge, and for each
// machine a pair of veth ends, one a port of the bridge and one in the
// machine's network namespace. It speaks netlink and runs no program.
package link

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/hostlease"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
)

// Port is one machine's connection to the bridge.
type Port struct {
	Bridge    Bridge
	Interface string // the host's end
	Guest     string // the name of the machine's end
	NetNS     string // the pin of the machine's network namespace
	Address   netip.Prefix
	MTU       int
}

// GuestMAC is the address of the machine's end: locally administered unicast
// (IEEE 802, bit 1 of the first octet), unique in the instance as the IP address is.
func GuestMAC(ip netip.Addr) net.HardwareAddr { return mac(0x02, ip) }

// hostMAC is the address of the host's end. Addresses are always given:
// udev's MACAddressPolicy changes those that the kernel chose.
func hostMAC(ip netip.Addr) net.HardwareAddr { return mac(0x06, ip) }

func mac(first byte, ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{first, 0xae, b[0], b[1], b[2], b[3]}
}

// SetUpGuest configures the network namespace pinned at netns: the loopback
// interface and, if port is given, the machine's end of a new veth pair with
// its address, its routes and its gateway's hardware address. The host's end
// comes up with [Plug]. ids is the user namespace's range.
//
// The address has no network around it: even what is in the subnet goes to
// the gateway, which refuses it at once, instead of being asked for in vain.
func SetUpGuest(netns string, ids nspair.Range, port *Port) error {
	err := nspair.InNet(netns, func(host int) error {
		if err := guestSettings(ids); err != nil {
			return err
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
		if err := h.LinkSetUp(lo); err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
		if port == nil {
			return nil
		}
		return port.guestEnd(h, host)
	})
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot configure a machine's network namespace")
	}
	return nil
}

// guestSettings makes the namespace what programs expect of a machine of
// their own: low ports and ping without root. IPv6 is off on every interface
// to come; a root user in there can turn it on again, and the guard drops it.
func guestSettings(ids nspair.Range) error {
	for _, s := range []struct{ name, value string }{
		// The kernel reads the numbers as IDs of the writer's user namespace.
		{"net.ipv4.ping_group_range", fmt.Sprintf("%d %d", ids.Base, ids.Base+ids.Count-1)},
		{"net.ipv4.ip_unprivileged_port_start", "0"},
		{"net.ipv6.conf.default.disable_ipv6", "1"},
	} {
		err := hostlease.WriteSetting(s.name, s.value)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p Port) guestEnd(h *netlink.Handle, host int) error {
	veth := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: p.Guest, MTU: p.MTU, HardwareAddr: GuestMAC(p.Address.Addr()), TxQLen: -1},
		PeerName:         p.Interface,
		PeerHardwareAddr: hostMAC(p.Address.Addr()),
		PeerNamespace:    netlink.NsFd(host),
		PeerMTU:          uint32(p.MTU),
	}
	if err := h.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	eth, err := h.LinkByName(p.Guest)
	if err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(p.Address.Addr(), 32))}
	if err := h.AddrAdd(eth, addr); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if err := h.LinkSetUp(eth); err != nil {
		return fmt.Errorf("veth up: %w", err)
	}
	gateway := p.Bridge.Gateway.Addr()
	// Both sides know each other's hardware address, so nobody asks by broadcast.
	if err := h.NeighSet(&netlink.Neigh{
		LinkIndex: eth.Attrs().Index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT,
		IP: gateway.AsSlice(), HardwareAddr: p.Bridge.MAC(),
	}); err != nil {
		return fmt.Errorf("neighbour: %w", err)
	}
	for _, r := range []*netlink.Route{
		{LinkIndex: eth.Attrs().Index, Dst: ipNet(netip.PrefixFrom(gateway, 32)), Scope: netlink.SCOPE_LINK, Src: p.Address.Addr().AsSlice()},
		{LinkIndex: eth.Attrs().Index, Gw: gateway.AsSlice()},
	} {
		if err := h.RouteAdd(r); err != nil {
			return fmt.Errorf("route: %w", err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

func broadcast(p netip.Prefix) net.IP {
	b := p.Addr().As4()
	mask := net.CIDRMask(p.Bits(), 32)
	for i := range b {
		b[i] |= ^mask[i]
	}
	return net.IP(b[:])
}
