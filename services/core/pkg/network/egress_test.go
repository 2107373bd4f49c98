package network_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

func at(ip netip.Addr) string { return netip.AddrPortFrom(ip, webPort).String() }

func TestMachinesReachTheOutsideAndNothingElse(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	m := open(t, config(t, "one"))
	a, b := acquire(t, m, "a", domain.NetworkNAT), acquire(t, m, "b", domain.NetworkNAT)
	l.in(b.NetNS, func(int) error { l.serve("b"); return nil })

	from, err := l.dialFrom(a.NetNS, at(publicIP))
	if err != nil || !strings.HasPrefix(from, hostIP.String()+":") {
		t.Fatalf("the public address saw %q, %v; want the host's address", from, err)
	}
	if received, sent, err := m.Counters(context.Background(), "a"); err != nil || received == 0 || sent == 0 {
		t.Errorf("counters after traffic: %d %d %v", received, sent, err)
	}
	l.mu.Lock()
	l.hits = nil
	l.mu.Unlock()

	forbidden := map[string]netip.Addr{
		"metadata": metadataIP, "the gateway": a.Gateway, "the host's uplink": hostIP, "the other machine": b.Address.Addr(),
		"the host's router": routerIP, // TEST-NET-2 is refused
	}
	for i, ip := range privateIPs {
		forbidden[fmt.Sprintf("private host %d", i)] = ip
	}
	// Datagrams are refused by ICMP, which the kernel rations: one answer is waited for.
	refused(t, "metadata by UDP", l.datagram(a.NetNS, metadataIP, "forbidden", true))
	for what, ip := range forbidden {
		_, err := l.dialFrom(a.NetNS, at(ip))
		refused(t, what, err)
		if err := l.datagram(a.NetNS, ip, "forbidden", false); err != nil {
			t.Error(err)
		}
	}
	if err := l.datagram(a.NetNS, publicIP, "allowed", true); err != nil {
		t.Error("a datagram to the public address:", err)
	}
	l.mu.Lock()
	for _, h := range l.hits {
		t.Error("a forbidden connection arrived:", h)
	}
	l.mu.Unlock()
	if got := <-l.data; got != "inet allowed" {
		t.Error("a forbidden datagram arrived:", got)
	}

	// From outside, nothing new comes in, though the route is known there.
	l.in(l.inet, func(int) error { return addRoute(a.Address.Masked(), hostIP) })
	in, err := l.dialShort(l.inet, at(b.Address.Addr()))
	if err == nil {
		t.Errorf("the outside reached a machine: %q", in)
	}
}

// datagram sends one and, if asked to, waits for the echo or the refusal.
func (l *lab) datagram(netns string, to netip.Addr, text string, wait bool) (err error) {
	l.t.Helper()
	l.in(netns, func(int) error {
		c, dialErr := net.Dial("udp4", netip.AddrPortFrom(to, dataPort).String())
		if dialErr != nil {
			return dialErr
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err = c.Write([]byte(text)); err == nil && wait {
			_, err = c.Read(make([]byte, 64))
		}
		return nil
	})
	return err
}

func TestDNSGoesThroughNetd(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	m := open(t, config(t, "one"))
	a := acquire(t, m, "a", domain.NetworkNAT)
	for _, transport := range []string{"udp", "tcp"} {
		answer, err := l.ask(a.NetNS, a.DNS[0], transport, "example.test.", dns.TypeA)
		if err != nil || len(answer.Answer) != 1 || !answer.Answer[0].(*dns.A).A.Equal(publicIP.AsSlice()) {
			t.Errorf("%s: %v %v", transport, answer, err)
		}
	}
	if answer, err := l.ask(a.NetNS, a.DNS[0], "udp", "big.test.", dns.TypeTXT); err != nil || !answer.Truncated {
		t.Errorf("a big answer by UDP must be truncated: %v", err)
	}
	if answer, err := l.ask(a.NetNS, a.DNS[0], "tcp", "big.test.", dns.TypeTXT); err != nil || len(answer.Answer) != 40 {
		t.Errorf("a big answer by TCP must be whole: %v", err)
	}
	if answer, err := l.ask(a.NetNS, a.DNS[0], "udp", "zone.test.", dns.TypeANY); err != nil || answer.Rcode != dns.RcodeRefused {
		t.Errorf("ANY must be refused: %v %v", answer, err)
	}
	// netd is for machines: neither the host's neighbours nor the host itself get an answer.
	l.in(l.inet, func(int) error { return addRoute(a.Address.Masked(), hostIP) })
	if _, err := l.dialShort(l.inet, netip.AddrPortFrom(a.Gateway, 53).String()); err == nil {
		t.Error("the outside reached netd")
	}
}

func TestPlainSettingsOfAMachine(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	cfg := config(t, "one")
	m := open(t, cfg)
	a := acquire(t, m, "a", domain.NetworkNAT)
	if a.MTU != 1400 {
		t.Errorf("the MTU is %d, not the uplink's 1400", a.MTU)
	}
	l.in(a.NetNS, func(int) error {
		eth, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := eth.Addrs()
		if err != nil {
			return err
		}
		// No IPv6 address beside it.
		if len(addrs) != 1 || addrs[0].String() != a.Address.Addr().String()+"/32" || eth.MTU != 1400 || eth.HardwareAddr.String() != a.MAC.String() {
			t.Errorf("eth0 has %v, MTU %d, %s; want %s, 1400, %s", addrs, eth.MTU, eth.HardwareAddr, a.Address, a.MAC)
		}
		// Ping from a plain user of the guest: the range of groups is the pair's.
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
		if err == nil {
			_ = unix.Close(fd)
		}
		return nil
	})
	bridgeHasNoIPv6(t)
}

func bridgeHasNoIPv6(t *testing.T) {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range links {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if ip, _, _ := net.ParseCIDR(a.String()); strings.HasPrefix(i.Name, "ae") && ip.To4() == nil {
				t.Errorf("%s has %s", i.Name, a)
			}
		}
	}
}
