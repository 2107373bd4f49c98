package link

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/hostlease"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
)

// PutGuest makes the machine's end be in a network namespace that somebody else
// made and configures: the one at p.NetNS. An end that is there stays; one that
// is in another namespace, or went with it, is made anew together with the host's
// end, which comes up with [Plug].
func PutGuest(p Port) error {
	err := nspair.InNet(p.NetNS, func(host int) error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		hostSide, err := netlink.NewHandleAt(netns.NsHandle(host), unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer hostSide.Close()
		is, err := p.isWhole(h, hostSide)
		if is || err != nil {
			return err
		}
		if end, err := hostSide.LinkByName(p.Interface); err == nil {
			if err := hostSide.LinkDel(end); err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("the host's end: %w", err)
			}
		}
		// On every interface to come, so that the machine's never has an address of it.
		_ = hostlease.WriteSetting("net.ipv6.conf.default.disable_ipv6", "1") // absent without IPv6
		return p.guestEnd(h, host)
	})
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot put a machine's link into its network namespace")
	}
	return nil
}

// isWhole reports whether the machine's end is in the calling thread's
// namespace, the other end of the host's, with its last route: that comes last.
func (p Port) isWhole(h, hostSide *netlink.Handle) (bool, error) {
	end, err := hostSide.LinkByName(p.Interface)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	eth, err := h.LinkByName(p.Guest)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// Each end names the other by its index, in the other's namespace.
	if eth.Type() != "veth" || eth.Attrs().ParentIndex != end.Attrs().Index || end.Attrs().ParentIndex != eth.Attrs().Index ||
		eth.Attrs().HardwareAddr.String() != GuestMAC(p.Address.Addr()).String() {
		return false, nil
	}
	routes, err := whole(func() ([]netlink.Route, error) { return h.RouteList(eth, netlink.FAMILY_V4) })
	if err != nil {
		return false, err
	}
	for _, r := range routes {
		if r.Gw.Equal(p.Bridge.Gateway.Addr().AsSlice()) {
			return true, nil
		}
	}
	return false, nil
}
