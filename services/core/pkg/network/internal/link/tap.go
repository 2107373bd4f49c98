package link

import (
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/hostlease"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
)

// Tap puts a tap in the place of the machine's end: whoever opens it is, to
// the bridge, what a process in the namespace was. The namespace itself has no
// address any more and sends nothing. Both are joined by redirection of what
// comes in, which neither copies a frame nor looks at it: its checksum and
// segments may still be for the other side to make (virtio's offloads). owner is
// the user and the group that may open the tap. A tap of another owner is made
// anew; a right one is left alone, with whoever has it open.
func Tap(p Port, name string, owner uint32) error {
	err := nspair.InNet(p.NetNS, func(int) error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		eth, err := h.LinkByName(p.Guest)
		if err != nil {
			return fmt.Errorf("the machine's end: %w", err)
		}
		if err := silence(h, eth); err != nil {
			return err
		}
		tap, err := ensureTap(h, name, owner)
		if err != nil {
			return err
		}
		if err := h.LinkSetMTU(tap, p.MTU); err != nil {
			return fmt.Errorf("tap: %w", err)
		}
		if err := silence(h, tap); err != nil {
			return err
		}
		for _, way := range [][2]netlink.Link{{eth, tap}, {tap, eth}} {
			if err := redirect(h, way[0], way[1]); err != nil {
				return fmt.Errorf("redirection of %s: %w", way[0].Attrs().Name, err)
			}
		}
		return h.LinkSetUp(tap)
	})
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot make a machine's tap").
			WithHint("the kernel needs tun, sch_ingress, cls_u32 and act_mirred: modprobe tun sch_ingress cls_u32 act_mirred")
	}
	return nil
}

// silence takes everything off a link that the kernel would answer or send for.
func silence(h *netlink.Handle, l netlink.Link) error {
	name := l.Attrs().Name
	_ = hostlease.WriteSetting("net.ipv6.conf."+name+".disable_ipv6", "1") // absent without IPv6
	if err := h.LinkSetARPOff(l); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	routes, err := whole(func() ([]netlink.Route, error) { return h.RouteList(l, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return h.AddrList(l, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	neighbours, err := whole(func() ([]netlink.Neigh, error) { return h.NeighList(l.Attrs().Index, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, r := range routes {
		// One route's end may be another's: that through the gateway needs the one to it.
		if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("%s: route: %w", name, err)
		}
	}
	for _, a := range addrs {
		if err := h.AddrDel(l, &a); err != nil {
			return fmt.Errorf("%s: address: %w", name, err)
		}
	}
	for _, n := range neighbours {
		if err := h.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: neighbour: %w", name, err)
		}
	}
	return nil
}

// ensureTap makes the tap as monitors want it: persistent, of one queue, with
// virtio's header before each frame.
func ensureTap(h *netlink.Handle, name string, owner uint32) (netlink.Link, error) {
	l, err := h.LinkByName(name)
	if err == nil {
		have, ok := l.(*netlink.Tuntap)
		if ok && have.Mode == netlink.TUNTAP_MODE_TAP && have.Owner == owner && have.Group == owner && !have.NonPersist {
			return l, nil
		}
		err = h.LinkDel(l)
	} else if errors.As(err, new(netlink.LinkNotFoundError)) {
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("tap: %w", err)
	}
	// It is open while it is made. A program that is started meanwhile would have it
	// open as well, until it begins, and no monitor could open it.
	syscall.ForkLock.RLock()
	err = h.LinkAdd(&netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP, Owner: owner, Group: owner,
		Flags: netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_NO_PI | netlink.TUNTAP_TUN_EXCL,
	})
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("tap: %w", err)
	}
	return h.LinkByName(name)
}

// redirect makes all that comes in at one link go out of another. u32 is the
// classifier that every kernel has: matchall is left out of some.
func redirect(h *netlink.Handle, from, to netlink.Link) error {
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: from.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
	has, err := redirects(h, from, to)
	if has || err != nil {
		return err
	}
	// Half of it is what a crash left.
	if err := h.QdiscDel(ingress); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err := h.QdiscAdd(ingress); err != nil {
		return err
	}
	return h.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: from.Attrs().Index, Parent: ingress.Handle, Priority: 1, Protocol: unix.ETH_P_ALL},
		Actions:     []netlink.Action{netlink.NewMirredAction(to.Attrs().Index)},
	})
}

func redirects(h *netlink.Handle, from, to netlink.Link) (bool, error) {
	filters, err := whole(func() ([]netlink.Filter, error) { return h.FilterList(from, netlink.MakeHandle(0xffff, 0)) })
	if err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return false, nil // no ingress yet
		}
		return false, err
	}
	for _, f := range filters {
		if u, ok := f.(*netlink.U32); ok && len(u.Actions) == 1 {
			if m, ok := u.Actions[0].(*netlink.MirredAction); ok && m.Ifindex == to.Attrs().Index {
				return true, nil
			}
		}
	}
	return false, nil
}
