package link

import (
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Survey is what the host's network looks like, for choosing what to make.
type Survey struct {
	Networks []netip.Prefix // every IPv4 route and address but the default route
	MTU      int            // the smallest among the default routes' interfaces; 0: no default route
	Bridges  []string       // the names of the bridges
	Names    []string       // the names of all links
}

// Look surveys the host.
func Look() (Survey, error) {
	var s Survey
	links, err := whole(netlink.LinkList)
	if err != nil {
		return s, errors.Wrap(err, errors.Unavailable, "cannot list the host's links")
	}
	mtu := map[int]int{}
	for _, l := range links {
		a := l.Attrs()
		mtu[a.Index] = a.MTU
		s.Names = append(s.Names, a.Name)
		if l.Type() == "bridge" {
			s.Bridges = append(s.Bridges, a.Name)
		}
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return s, errors.Wrap(err, errors.Unavailable, "cannot list the host's addresses")
	}
	for _, a := range addrs {
		if p, ok := prefix(a.IPNet.IP, a.IPNet.Mask); ok {
			s.Networks = append(s.Networks, p)
		}
	}
	// All tables: policy routing (VPNs) counts too.
	routes, err := whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return s, errors.Wrap(err, errors.Unavailable, "cannot list the host's routes")
	}
	for _, r := range routes {
		if r.Dst != nil {
			if p, ok := prefix(r.Dst.IP, r.Dst.Mask); ok && p.Bits() > 0 {
				s.Networks = append(s.Networks, p)
				continue
			}
		}
		if m := mtu[r.LinkIndex]; m > 0 && (s.MTU == 0 || m < s.MTU) {
			s.MTU = m
		}
	}
	return s, nil
}

// Taken reports whether a link's name begins with the prefix.
func (s Survey) Taken(namePrefix string) bool {
	for _, n := range s.Names {
		if strings.HasPrefix(n, namePrefix) {
			return true
		}
	}
	return false
}

func prefix(ip []byte, mask []byte) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(ip)
	if !ok || len(mask) == 0 {
		return netip.Prefix{}, false
	}
	bits := 0
	for _, b := range mask[max(0, len(mask)-4):] {
		for ; b&0x80 != 0; b <<= 1 {
			bits++
		}
	}
	return netip.PrefixFrom(a.Unmap(), bits).Masked(), a.Unmap().Is4()
}

// Try makes a bridge with an isolated port in the calling thread's network
// namespace, to see that the kernel can. It leaves both there.
func Try(b Bridge, iface string) error {
	if err := b.Ensure(); err != nil {
		return err
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: iface, MTU: b.MTU, TxQLen: -1}, PeerName: "peer"}
	if err := netlink.LinkAdd(veth); err != nil {
		return errors.Wrap(err, errors.Unsupported, "cannot make a veth pair on this host").
			WithHint("the kernel needs the veth module: modprobe veth")
	}
	peer, err := netlink.LinkByName("peer")
	if err == nil {
		err = netlink.LinkSetUp(peer)
	}
	if err != nil {
		return errors.Wrap(err, errors.Unsupported, "cannot use a veth pair on this host")
	}
	return Plug(Port{Bridge: b, Interface: iface, Address: netip.PrefixFrom(b.Gateway.Addr().Next(), b.Gateway.Bits()), MTU: b.MTU})
}
