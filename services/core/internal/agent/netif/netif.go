// Package netif sets up the network of a machine whose kernel is its own: the
// loopback interface and the one device that leads out.
package netif

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Name is what the machine's interface is called.
const Name = "eth0"

// Interface is the machine's one interface. Its address stands alone:
// everything goes through the gateway.
type Interface struct {
	MAC        net.HardwareAddr
	Address    netip.Addr
	Gateway    netip.Addr
	GatewayMAC net.HardwareAddr // nil: the machine asks for it
	MTU        int              // 0: as the device has it
}

// Check reports what cannot be an interface. Returns InvalidArgument.
func (i Interface) Check() error {
	switch {
	case !unicast(i.MAC):
		return errors.New(errors.InvalidArgument, "%.32q is no hardware address of one device", i.MAC.String()).WithField("interface.mac")
	case !usable(i.Address):
		return errors.New(errors.InvalidArgument, "the machine's address is not one IPv4 address").WithField("interface.address")
	case !usable(i.Gateway) || i.Gateway == i.Address:
		return errors.New(errors.InvalidArgument, "the gateway is not another IPv4 address").WithField("interface.gateway")
	case i.GatewayMAC != nil && !unicast(i.GatewayMAC):
		return errors.New(errors.InvalidArgument, "%.32q is no hardware address of one device", i.GatewayMAC.String()).WithField("interface.gateway_mac")
	case i.MTU != 0 && (i.MTU < 68 || i.MTU > 65535): // RFC 791's least, and what IP can carry
		return errors.New(errors.InvalidArgument, "an MTU of %d is not possible", i.MTU).WithField("interface.mtu")
	}
	return nil
}

func unicast(mac net.HardwareAddr) bool {
	return len(mac) == 6 && mac[0]&1 == 0 && !bytes.Equal(mac, make([]byte, 6))
}

func usable(a netip.Addr) bool {
	return a.Is4() && a.IsGlobalUnicast()
}

// Loopback brings the loopback interface up. Returns Internal.
func Loopback() error {
	err := raise("lo")
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the loopback interface cannot be set up: %s", err)
	}
	return nil
}

// raise has a device be up (netdevice(7)).
func raise(name string) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request); err != nil {
		return os.NewSyscallError("SIOCGIFFLAGS", err)
	}
	if request.Uint16()&unix.IFF_UP != 0 {
		return nil
	}
	request.SetUint16(request.Uint16() | unix.IFF_UP)
	return os.NewSyscallError("SIOCSIFFLAGS", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request))
}

// SetUp makes the machine's device what i says, whatever it was before: under
// [Name] and with i's hardware address, with one address, the gateway's
// routes and neighbour, and up. What is so already is left alone, so that
// connections last. Returns NotFound where no device can be meant, Internal.
func SetUp(i Interface) error {
	err := with(func(h *netlink.Handle) error {
		link, err := find(h, i.MAC)
		if err != nil {
			return err
		}
		return i.apply(h, link)
	})
	if err != nil && !errors.HasCode(err, errors.NotFound) {
		return errors.Wrap(err, errors.Internal, "the machine's network interface cannot be set up: %s", err)
	}
	return err
}

func with(do func(*netlink.Handle) error) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	return do(h)
}

// find finds the device by its address; else the one that an earlier name or
// the lack of others tells, as in a fork, whose device was its origin's.
// Devices that programs make (bridges, tunnels) have a kind and come last.
func find(h *netlink.Handle, mac net.HardwareAddr) (netlink.Link, error) {
	all, err := h.LinkList()
	if err != nil {
		return nil, err
	}
	var fitting, named, hardware, others []netlink.Link
	for _, l := range all {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || a.EncapType != "ether" {
			continue
		}
		_, isDevice := l.(*netlink.Device)
		if bytes.Equal(a.HardwareAddr, mac) {
			if isDevice {
				fitting = append([]netlink.Link{l}, fitting...)
			} else {
				fitting = append(fitting, l)
			}
		}
		if a.Name == Name {
			named = append(named, l)
		}
		if isDevice {
			hardware = append(hardware, l)
		} else {
			others = append(others, l)
		}
	}
	switch {
	case len(fitting) > 0:
		return fitting[0], nil
	case len(named) > 0:
		return named[0], nil
	case len(hardware) == 1:
		return hardware[0], nil
	case len(hardware) == 0 && len(others) == 1:
		return others[0], nil
	}
	return nil, errors.New(errors.NotFound, "the machine has no network device %s", mac).WithField("interface.mac")
}

func (i Interface) apply(h *netlink.Handle, link netlink.Link) error {
	a := link.Attrs()
	rename := a.Name != Name
	if rename {
		if _, err := h.LinkByName(Name); err == nil {
			rename = false // the guest gave the name to another one
		}
	}
	if newMAC := !bytes.Equal(a.HardwareAddr, i.MAC); rename || newMAC {
		// A device that is up has a name and an address that others rely on.
		if err := h.LinkSetDown(link); err != nil {
			return fmt.Errorf("down: %w", err)
		}
		if newMAC {
			if err := h.LinkSetHardwareAddr(link, i.MAC); err != nil {
				return fmt.Errorf("hardware address: %w", err)
			}
		}
		if rename {
			if err := h.LinkSetName(link, Name); err != nil {
				return fmt.Errorf("name: %w", err)
			}
			a.Name = Name
		}
	}
	if i.MTU != 0 && a.MTU != i.MTU {
		if err := h.LinkSetMTU(link, i.MTU); err != nil {
			return fmt.Errorf("MTU: %w", err)
		}
	}
	if err := i.addresses(h, link); err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	if err := i.neighbours(h, link); err != nil {
		return err
	}
	return i.routes(h, link)
}

func (i Interface) addresses(h *netlink.Handle, link netlink.Link) error {
	if err := h.AddrReplace(link, &netlink.Addr{IPNet: alone(i.Address)}); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	list, err := h.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	for _, old := range list {
		if ones, _ := old.Mask.Size(); ones == 32 && old.IP.Equal(i.Address.AsSlice()) {
			continue
		}
		if err := h.AddrDel(link, &old); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("old address: %w", err)
		}
	}
	return nil
}

func (i Interface) neighbours(h *netlink.Handle, link netlink.Link) error {
	list, err := h.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("neighbours: %w", err)
	}
	for _, old := range list {
		if old.State&netlink.NUD_NOARP != 0 {
			continue // multicast and broadcast: the kernel's own
		}
		if i.GatewayMAC != nil && old.IP.Equal(i.Gateway.AsSlice()) {
			continue // replaced below
		}
		if err := h.NeighDel(&old); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("old neighbour: %w", err)
		}
	}
	if i.GatewayMAC == nil {
		return nil
	}
	if err := h.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT,
		IP: i.Gateway.AsSlice(), HardwareAddr: i.GatewayMAC,
	}); err != nil {
		return fmt.Errorf("neighbour: %w", err)
	}
	return nil
}

func (i Interface) routes(h *netlink.Handle, link netlink.Link) error {
	index := link.Attrs().Index
	wanted := []*netlink.Route{
		{LinkIndex: index, Dst: alone(i.Gateway), Scope: netlink.SCOPE_LINK, Src: i.Address.AsSlice()},
		{LinkIndex: index, Gw: i.Gateway.AsSlice()},
	}
	for _, r := range wanted {
		if err := h.RouteReplace(r); err != nil {
			return fmt.Errorf("route: %w", err)
		}
	}
	list, err := h.RouteListFiltered(netlink.FAMILY_V4,
		&netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	for _, old := range list {
		if i.ours(old) {
			continue
		}
		if err := h.RouteDel(&old); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("old route: %w", err)
		}
	}
	return nil
}

// ours tells one of the two routes.
func (i Interface) ours(r netlink.Route) bool {
	if r.Priority != 0 {
		return false
	}
	if r.Dst == nil || r.Dst.IP.IsUnspecified() {
		return r.Gw.Equal(i.Gateway.AsSlice())
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 32 && r.Gw == nil && r.Dst.IP.Equal(i.Gateway.AsSlice()) && r.Src.Equal(i.Address.AsSlice())
}

func alone(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}
