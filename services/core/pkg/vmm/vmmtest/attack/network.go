package attack

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

var networkAttacks = map[string]func(*testing.T, *bed, *machine){
	"addresses":         attackAddresses,
	"names":             attackNames,
	"ports of the host": attackPorts,
	"forged frames":     attackFrames,
	"sockets": func(t *testing.T, b *bed, m *machine) {
		c, err := new(net.Dialer).DialContext(limited(t), "unix", abstractName) // the host gets there
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadAll(c)
		_ = c.Close()
		b.Lab.Hits()
		if !b.Shared {
			m.permit("the kernel is the machine's own", "take an interface down:", "netlink:")
		}
		m.intrude(t, 6, "sockets", abstractName, abstractName+"packet")
		b.untouched(t)
	},
}

type target struct{ What, Network, Address string }

func (b *bed) connect(t *testing.T, m *machine, targets []target) {
	t.Helper()
	text, err := json.Marshal(targets)
	if err != nil {
		t.Fatal(err)
	}
	m.intrude(t, len(targets), "connect", string(text))
}

// untouched checks that nothing reached a server of the lab but what may.
func (b *bed) untouched(t *testing.T) {
	t.Helper()
	for _, h := range b.Lab.Hits() {
		if !strings.Contains(h, "inet "+"["+"::ffff:"+publicIP.String()) && !strings.Contains(h, "inet "+publicIP.String()) {
			t.Error("a server was reached:", h)
		}
	}
}

// attackAddresses tries everything that has an address: the host on each of its
// interfaces, metadata, private networks and the neighbour, by both versions of IP.
func attackAddresses(t *testing.T, b *bed, m *machine) {
	neighbour := b.boot(t)
	own, other := b.Attachment(m.id), b.Attachment(neighbour.id)
	b.Lab.Hits()
	targets := []target{{"open: the public address", "tcp", netip.AddrPortFrom(publicIP, webPort).String()}}
	forbidden := slices.Concat(metadataIPs, privateIPs, ipv6s, []netip.Addr{own.Gateway, routerIP, other.Address.Addr(), netip.MustParseAddr("0.0.0.0")}, hostAddresses(t))
	for _, ip := range forbidden {
		for _, network := range []string{"tcp", "udp"} {
			port := uint16(webPort)
			if network == "udp" {
				port = dataPort
			}
			targets = append(targets, target{fmt.Sprintf("%s by %s", ip, network), network, netip.AddrPortFrom(ip, port).String()})
		}
		if ip.Is4() {
			targets = append(targets, target{ip.String() + " as IPv6", "tcp", netip.AddrPortFrom(netip.AddrFrom16(ip.As16()), webPort).String()})
		}
	}
	for _, at := range []string{"[fe80::1%eth0]", "[ff02::1%eth0]", "224.0.0.1", "255.255.255.255", "[::1]"} {
		targets = append(targets, target{at, "udp", at + ":" + strconv.Itoa(dataPort)})
	}
	b.connect(t, m, targets)
	b.untouched(t)
}

func hostAddresses(t *testing.T) []netip.Addr {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var ips []netip.Addr
	for _, a := range all {
		// Loopback is the machine's own; link-local addresses are tried by interface.
		if ip, ok := netip.AddrFromSlice(a.(*net.IPNet).IP); ok && !ip.IsLoopback() && !ip.Unmap().IsLoopback() && !ip.IsLinkLocalUnicast() {
			ips = append(ips, ip.Unmap())
		}
	}
	if len(ips) < 3 {
		t.Fatalf("the host has only %v", ips)
	}
	return ips
}

// attackNames tries names that lead where no guest may go.
func attackNames(t *testing.T, b *bed, m *machine) {
	b.Lab.Hits()
	targets := []target{{"open: a public name", "tcp", fmt.Sprintf("public.test:%d", webPort)}}
	for name := range names() {
		if name != "public.test" {
			targets = append(targets, target{name, "tcp", fmt.Sprintf("%s:%d", name, webPort)})
		}
	}
	for _, name := range []string{"localhost", "gateway", "host.docker.internal", "metadata.google.internal", "instance-data"} {
		targets = append(targets, target{name, "tcp", fmt.Sprintf("%s:%d", name, webPort)})
	}
	b.connect(t, m, targets)
	b.untouched(t)
}

// attackPorts looks for what listens on the gateway's address apart from DNS.
func attackPorts(t *testing.T, b *bed, m *machine) {
	gateway := b.Attachment(m.id).Gateway.String()
	b.connect(t, m, []target{{"open: DNS", "tcp", gateway + ":53"}})
	m.intrude(t, 0, "scan", gateway, "53")
	m.intrude(t, 0, "scan", hostIP.String())
}

// attackFrames forges frames by hand and looks at what comes to a neighbour's
// wire, until what the host itself sends comes there: the wire keeps the order.
func attackFrames(t *testing.T, b *bed, m *machine) {
	neighbour := b.boot(t)
	own, other := b.Attachment(m.id), b.Attachment(neighbour.id)
	const last = "the host's last word"
	sniffer := neighbour.begin(t, "sniff", last)
	sniffer.until("ready")
	m.intrude(t, 0, "frames", own.MAC.String(), own.Address.Addr().String(), other.MAC.String(), other.Address.Addr().String(),
		bridgeMAC(t, own.Gateway), own.Gateway.String())
	c, err := new(net.Dialer).DialContext(limited(t), "udp4", netip.AddrPortFrom(other.Address.Addr(), dataPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(last)); err != nil {
		t.Fatal(err)
	}
	text, _ := sniffer.end()
	neighbour.verdict(t, 0, text)
	b.untouched(t)
	// The bridge still knows who is where: the neighbour goes out and gets its answers.
	b.connect(t, neighbour, []target{{"open: the public address", "tcp", netip.AddrPortFrom(publicIP, webPort).String()}})
}

func bridgeMAC(t *testing.T, gateway netip.Addr) string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		addrs, _ := netlink.AddrList(l, netlink.FAMILY_V4)
		for _, a := range addrs {
			if a.IP.Equal(gateway.AsSlice()) {
				return l.Attrs().HardwareAddr.String()
			}
		}
	}
	t.Fatalf("no interface has %s", gateway)
	return ""
}
