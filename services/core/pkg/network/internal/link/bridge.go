package link

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/hostlease"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
)

// Bridge is what an instance's machines hang on.
type Bridge struct {
	Name    string
	Gateway netip.Prefix // the host's address and the subnet
	MTU     int
}

// MAC is the bridge's hardware address. It is fixed: otherwise it would
// follow the lowest one among its ports.
func (b Bridge) MAC() net.HardwareAddr { return GuestMAC(b.Gateway.Addr()) }

// Ensure makes the bridge, or repairs one that stands. Returns Unsupported
// when the kernel cannot, Conflict when another kind of link has its name.
func (b Bridge) Ensure() error {
	existing, err := netlink.LinkByName(b.Name)
	switch {
	case errors.As(err, new(netlink.LinkNotFoundError)):
		off := false
		err = netlink.LinkAdd(&netlink.Bridge{
			LinkAttrs:         netlink.LinkAttrs{Name: b.Name, MTU: b.MTU, HardwareAddr: b.MAC(), TxQLen: -1},
			MulticastSnooping: &off,
		})
		if err != nil {
			return errors.Wrap(err, errors.Unsupported, "cannot make a bridge on this host").
				WithHint("the kernel needs the bridge module: modprobe bridge")
		}
		if existing, err = netlink.LinkByName(b.Name); err != nil {
			return errors.Wrap(err, errors.Unavailable, "the instance's bridge vanished")
		}
	case err != nil:
		return errors.Wrap(err, errors.Unavailable, "cannot look for the instance's bridge")
	case existing.Type() != "bridge":
		return errors.New(errors.Conflict, "a link named %s exists that is no bridge", b.Name)
	}
	if err := b.settings(); err != nil {
		return err
	}
	if err := b.configure(existing); err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot configure the instance's bridge")
	}
	return nil
}

// settings makes the bridge forward IPv4 and take part in nothing else.
func (b Bridge) settings() error {
	for _, s := range []struct {
		name, value string
		must        bool
	}{
		{"net.ipv6.conf.%s.disable_ipv6", "1", false}, // first: no link-local address, no router advertisement
		{"net.ipv4.conf.%s.accept_source_route", "0", true},
		{"net.ipv4.conf.%s.accept_redirects", "0", true},
		{"net.ipv4.conf.%s.send_redirects", "0", true},
		{"net.ipv4.conf.%s.rp_filter", "1", true},
		{"net.ipv4.conf.%s.arp_ignore", "1", true}, // machines learn no other address of the host
		{"net.ipv4.conf.%s.forwarding", "1", true},
	} {
		if err := hostlease.WriteSetting(fmt.Sprintf(s.name, b.Name), s.value); err != nil && s.must {
			return err
		}
	}
	return nil
}

func (b Bridge) configure(l netlink.Link) error {
	have, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V4) })
	if err != nil {
		return err
	}
	found := false
	for _, a := range have {
		if a.IPNet.String() == b.Gateway.String() {
			found = true
			continue
		}
		if err := netlink.AddrDel(l, &a); err != nil {
			return err
		}
	}
	if !found {
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(b.Gateway), Broadcast: broadcast(b.Gateway)}); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

// Plug makes the host's end of a port a member of the bridge. Repeating it
// repairs the port. The port is isolated: it exchanges frames with the bridge
// itself only, and it is ready for frames when Plug returns. It learns nothing: frames to reserved addresses
// (01:80:c2:00:00:0x) would teach the bridge a false place before any filter sees them.
func Plug(p Port) error {
	if err := p.plug(); err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot connect a machine to the bridge")
	}
	return nil
}

func (p Port) plug() error {
	bridge, err := netlink.LinkByName(p.Bridge.Name)
	if err != nil {
		return err
	}
	end, err := netlink.LinkByName(p.Interface)
	if err != nil {
		return err
	}
	if end.Attrs().MasterIndex != bridge.Attrs().Index {
		// Down until it is isolated.
		if err := netlink.LinkSetDown(end); err != nil {
			return err
		}
		_ = hostlease.WriteSetting("net.ipv6.conf."+p.Interface+".disable_ipv6", "1") // absent without IPv6
		if err := netlink.LinkSetMaster(end, bridge); err != nil {
			return err
		}
	}
	for _, flag := range []struct {
		set func(netlink.Link, bool) error
		on  bool
	}{
		{netlink.LinkSetIsolated, true}, {netlink.LinkSetLearning, false}, {netlink.LinkSetFlood, false},
	} {
		if err := flag.set(end, flag.on); err != nil {
			return err
		}
	}
	guest := GuestMAC(p.Address.Addr())
	if err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: end.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER,
		State: netlink.NUD_NOARP, HardwareAddr: guest,
	}); err != nil {
		return fmt.Errorf("forwarding entry: %w", err)
	}
	if err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: bridge.Attrs().Index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT,
		IP: p.Address.Addr().AsSlice(), HardwareAddr: guest,
	}); err != nil {
		return fmt.Errorf("neighbour: %w", err)
	}
	if end.Attrs().MasterIndex == bridge.Attrs().Index && end.Attrs().OperState == netlink.OperUp {
		return nil
	}
	return p.bringUp(end)
}

// bringUp sets the host's end up and waits until frames pass.
func (p Port) bringUp(end netlink.Link) error {
	host, err := watchLinks("")
	if err != nil {
		return err
	}
	defer host.close()
	guest, err := watchLinks(p.NetNS)
	if err != nil {
		return err
	}
	defer guest.close()
	if err := netlink.LinkSetUp(end); err != nil {
		return err
	}
	if err := host.up(p.Interface, func() bool { return isUp(p.Interface) }); err != nil {
		return err
	}
	if p.NetNS == "" {
		return nil
	}
	return guest.up(p.Guest, func() (up bool) {
		err := nspair.InNet(p.NetNS, func(int) error { up = isUp(p.Guest); return nil })
		return err == nil && up
	})
}

// Unplug removes a port from the host: both ends, and what the bridge and the
// kernel's connection tracking know of the address. Absent is success.
func Unplug(bridge, iface string, ip netip.Addr) error {
	if err := Remove(iface); err != nil {
		return err
	}
	if b, err := netlink.LinkByName(bridge); err == nil {
		err := netlink.NeighDel(&netlink.Neigh{LinkIndex: b.Attrs().Index, Family: netlink.FAMILY_V4, IP: ip.AsSlice()})
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
			return errors.Wrap(err, errors.Unavailable, "cannot remove a machine's neighbour entry")
		}
	}
	// The next machine with this address must not get packets of this one's connections.
	filter := &netlink.ConntrackFilter{}
	if err := filter.AddIP(netlink.ConntrackOrigSrcIP, ip.AsSlice()); err != nil {
		return errors.Wrap(err, errors.Internal, "cannot describe a machine's connections")
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.FAMILY_V4, filter); err != nil && !errors.Is(err, unix.ENOENT) {
		return errors.Wrap(err, errors.Unavailable, "cannot forget a machine's connections")
	}
	return nil
}

// Remove removes a link. Absent is success.
func Remove(name string) error {
	l, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return errors.Wrap(err, errors.Unavailable, "cannot remove the link %s", name)
	}
	return nil
}

// Exists reports whether a link of the name exists in this namespace.
func Exists(name string) bool {
	_, err := netlink.LinkByName(name)
	return err == nil
}

// Counters reads the bytes that the machine behind the host's end received
// and sent. Returns NotFound when the link is gone.
func Counters(name string) (received, sent int64, err error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, 0, errors.Wrap(err, errors.NotFound, "the machine's link is gone")
	}
	s := l.Attrs().Statistics
	if s == nil {
		return 0, 0, errors.New(errors.Unavailable, "the kernel counts nothing on the machine's link")
	}
	// The host's end sends what the machine receives.
	return int64(s.TxBytes), int64(s.RxBytes), nil
}
