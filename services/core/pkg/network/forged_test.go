package network_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
)

func addRoute(dst netip.Prefix, via netip.Addr) error {
	return netlink.RouteReplace(&netlink.Route{
		Dst: &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), 32)}, Gw: via.AsSlice(),
	})
}

// dialShort is for connections that are dropped without an answer.
func (l *lab) dialShort(netns, to string) (said string, err error) {
	l.t.Helper()
	l.in(netns, func(int) error {
		var c net.Conn
		if c, err = net.DialTimeout("tcp4", to, 500*time.Millisecond); err == nil {
			said = c.RemoteAddr().String()
			_ = c.Close()
		}
		return nil
	})
	return said, err
}

// wire is a raw socket on a machine's interface.
type wire struct{ fd, index int }

func (l *lab) wire(netns string) *wire {
	l.t.Helper()
	w := &wire{fd: -1}
	l.in(netns, func(int) (err error) {
		eth, err := net.InterfaceByName(network.GuestInterface)
		if err != nil {
			return err
		}
		w.index = eth.Index
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL))); err != nil {
			return err
		}
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: w.index})
	})
	l.t.Cleanup(func() { _ = unix.Close(w.fd) })
	return w
}

func (w *wire) send(t testing.TB, frame []byte) {
	t.Helper()
	if err := unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.index, Halen: 6}); err != nil {
		t.Fatal(err)
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func ethernet(dst, src net.HardwareAddr, kind uint16, payload []byte) []byte {
	f := append(append([]byte{}, dst...), src...)
	return append(binary.BigEndian.AppendUint16(f, kind), payload...)
}

// datagramIn makes an IPv4 UDP packet to the data port.
func datagramIn(src, dst netip.Addr, text string) []byte {
	udp := binary.BigEndian.AppendUint16(nil, 4321)
	udp = binary.BigEndian.AppendUint16(udp, dataPort)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(text)))
	udp = append(udp, 0, 0) // no checksum (RFC 768)
	udp = append(udp, text...)
	ip := []byte{0x45, 0}
	ip = binary.BigEndian.AppendUint16(ip, uint16(20+len(udp)))
	ip = append(ip, 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0)
	ip = append(append(ip, src.AsSlice()...), dst.AsSlice()...)
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	return append(ip, udp...)
}

func arpReply(mac net.HardwareAddr, ip netip.Addr, toMAC net.HardwareAddr, to netip.Addr) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, 0, 2}
	p = append(append(p, mac...), ip.AsSlice()...)
	return append(append(p, toMAC...), to.AsSlice()...)
}

func TestForgedFramesGoNowhere(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	m := open(t, config(t, "one"))
	a, b := acquire(t, m, "a", domain.NetworkNAT), acquire(t, m, "b", domain.NetworkNAT)
	l.in(b.NetNS, func(int) error { l.serve("b"); return nil })
	gateway, err := net.InterfaceByName(bridgeOf(t))
	if err != nil {
		t.Fatal(err)
	}
	gw := gateway.HardwareAddr
	ipA, ipB, macA, macB := a.Address.Addr(), b.Address.Addr(), a.MAC, b.MAC
	strange := net.HardwareAddr{0x02, 1, 2, 3, 4, 5}
	w := l.wire(a.NetNS)
	vlan := func(inner []byte) []byte { return append([]byte{0, 7, 8, 0}, inner...) } // 802.1Q tag 7, then IPv4
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	nd := make([]byte, 40) // an IPv6 header without a payload, from a link-local address
	copy(nd, []byte{0x60, 0, 0, 0, 0, 0, 59, 255, 0xfe, 0x80})
	copy(nd[24:], []byte{0xff, 0x02, 15: 1})

	// What arrives in the internet, on the host or at b carries its name. The
	// wire keeps the order, so once the honest datagram has come, what was sent before it never will.
	honest := func(name string) {
		t.Helper()
		w.send(t, ethernet(gw, macA, unix.ETH_P_IP, datagramIn(ipA, publicIP, "honest after "+name)))
		select {
		case got := <-l.data:
			if got != "inet honest after "+name {
				t.Errorf("%s arrived: %q", name, got)
				<-l.data
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("the honest datagram after %s did not arrive", name)
		}
	}
	honest("nothing")
	sniff := l.wire(b.NetNS)
	for name, frame := range map[string][]byte{
		"another machine's address":       ethernet(gw, macA, unix.ETH_P_IP, datagramIn(ipB, publicIP, "forged")),
		"the gateway's address":           ethernet(gw, macA, unix.ETH_P_IP, datagramIn(a.Gateway, publicIP, "forged")),
		"an address outside":              ethernet(gw, macA, unix.ETH_P_IP, datagramIn(metadataIP, publicIP, "forged")),
		"another machine's MAC":           ethernet(gw, macB, unix.ETH_P_IP, datagramIn(ipA, publicIP, "forged")),
		"a strange MAC":                   ethernet(gw, strange, unix.ETH_P_IP, datagramIn(ipA, publicIP, "forged")),
		"a tagged frame":                  ethernet(gw, macA, unix.ETH_P_8021Q, vlan(datagramIn(ipA, publicIP, "forged"))),
		"a frame to the other machine":    ethernet(macB, macA, unix.ETH_P_IP, datagramIn(ipA, ipB, "forged")),
		"a broadcast":                     ethernet(broadcast, macA, unix.ETH_P_IP, datagramIn(ipA, netip.MustParseAddr("255.255.255.255"), "forged")),
		"the other machine by gateway":    ethernet(gw, macA, unix.ETH_P_IP, datagramIn(ipA, ipB, "forged")),
		"the host's uplink":               ethernet(gw, macA, unix.ETH_P_IP, datagramIn(ipA, hostIP, "forged")),
		"IPv6":                            ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, macA, unix.ETH_P_IPV6, nd),
		"IPv6 to the other machine":       ethernet(macB, macA, unix.ETH_P_IPV6, nd),
		"ARP for the gateway, to all":     ethernet(broadcast, macA, unix.ETH_P_ARP, arpReply(macA, a.Gateway, macB, ipB)),
		"ARP for the gateway, to one":     ethernet(macB, macA, unix.ETH_P_ARP, arpReply(macA, a.Gateway, macB, ipB)),
		"ARP for the other machine":       ethernet(gw, macA, unix.ETH_P_ARP, arpReply(macA, ipB, gw, a.Gateway)),
		"ARP with two sender MACs":        ethernet(gw, macA, unix.ETH_P_ARP, arpReply(strange, ipA, gw, a.Gateway)),
		"a spanning tree frame as b":      ethernet(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, macB, 38, make([]byte, 46)),
		"a frame of an unknown type":      ethernet(macB, macA, 0x88b5, []byte("forged")),
		"an LLDP frame as the other's":    ethernet(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0x0e}, macB, 0x88cc, make([]byte, 46)),
		"a multicast of an unknown group": ethernet(net.HardwareAddr{1, 0, 0x5e, 1, 2, 3}, macA, unix.ETH_P_IP, datagramIn(ipA, netip.MustParseAddr("239.1.2.3"), "forged")),
	} {
		w.send(t, frame)
		honest(name)
	}

	// The bridge still sends b's frames to b.
	c, err := net.Dial("udp4", netip.AddrPortFrom(ipB, dataPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte("from the host")); err != nil {
		t.Fatal(err)
	}
	if got := <-l.data; got != "b from the host" {
		t.Errorf("b got %q", got)
	}
	// And b's wire has carried nothing of a's.
	buf := make([]byte, 2048)
	for {
		n, err := unix.Read(sniff.fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(buf[:n]), "from the host") {
			break
		}
		if net.HardwareAddr(buf[6:12]).String() == macA.String() || strings.Contains(string(buf[:n]), "forged") {
			t.Errorf("b's wire carried % x", buf[:n])
		}
	}
}

// links lists the host's links. A list that changed while it was read, as when a
// pool fills, is read again.
func links(t testing.TB) []netlink.Link {
	t.Helper()
	for {
		all, err := netlink.LinkList()
		if err == nil {
			return all
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			t.Fatal(err)
		}
	}
}

// bridgeOf finds the only bridge.
func bridgeOf(t testing.TB) string {
	t.Helper()
	for _, l := range links(t) {
		if l.Type() == "bridge" {
			return l.Attrs().Name
		}
	}
	t.Fatal(fmt.Errorf("there is no bridge"))
	return ""
}
