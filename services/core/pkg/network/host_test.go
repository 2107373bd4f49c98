package network_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
)

func TestOtherFirewallsLetMachinesThrough(t *testing.T) {
	if !isolated(t) {
		return
	}
	iptables, err := exec.LookPath("iptables-nft")
	if err != nil {
		t.Skip("iptables-nft is not installed")
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(iptables, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("iptables %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	l := newLab(t)
	// What Docker and ufw do.
	run("-P", "FORWARD", "DROP")
	run("-P", "INPUT", "DROP")
	run("-N", "DOCKER-USER")
	run("-A", "INPUT", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
	run("-A", "FORWARD", "-j", "DOCKER-USER")
	run("-A", "DOCKER-USER", "-j", "RETURN")
	before := run("-S")
	m := open(t, config(t, "one"))
	a := acquire(t, m, "a", domain.NetworkNAT)
	bridge := bridgeOf(t)
	if _, err := l.dialFrom(a.NetNS, at(publicIP)); err != nil {
		t.Errorf("outside: %v", err)
	}
	if answer, err := l.ask(a.NetNS, a.Gateway, "udp", "example.test.", dns.TypeA); err != nil || len(answer.Answer) != 1 {
		t.Errorf("DNS: %v", err)
	}
	for _, to := range []netip.Addr{metadataIP, hostIP, privateIPs[0]} {
		_, err := l.dialFrom(a.NetNS, at(to))
		refused(t, to.String(), err)
	}
	want := []string{"-A DOCKER-USER -i " + bridge + " -j ACCEPT", "-A DOCKER-USER -o " + bridge + " -j ACCEPT", "-A INPUT -i " + bridge + " -j ACCEPT"}
	rules := run("-S")
	for _, w := range want {
		if strings.Count(rules, w) != 1 {
			t.Errorf("iptables does not show %q once:\n%s", w, rules)
		}
	}
	if err := m.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if after := run("-S"); after != before {
		t.Errorf("iptables after:\n%s\nbefore:\n%s", after, before)
	}
}

func TestForwardingStaysOnForOthers(t *testing.T) {
	if !isolated(t) {
		return
	}
	newLab(t)
	read := func() string {
		raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(raw))
	}
	for _, tc := range []struct{ start, foreign, end string }{{"0", "", "0"}, {"1", "", "1"}, {"0", "docker0", "1"}} {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(tc.start), 0); err != nil {
			t.Fatal(err)
		}
		m := open(t, config(t, "one"))
		acquire(t, m, "a", domain.NetworkNAT)
		if read() != "1" {
			t.Errorf("%+v: forwarding is off while machines run", tc)
		}
		if tc.foreign != "" {
			if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: tc.foreign}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Teardown(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := read(); got != tc.end {
			t.Errorf("%+v: forwarding is %s after teardown", tc, got)
		}
	}
}

func TestSubnetsThatTheHostHasAreAvoided(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	cfg := config(t, "one")
	cfg.Subnets, cfg.SubnetBits = []netip.Prefix{netip.MustParsePrefix("10.50.0.0/22")}, 24
	l.must(addRoute(netip.MustParsePrefix("10.50.0.0/23"), routerIP))
	l.must(addRoute(netip.MustParsePrefix("10.50.3.64/26"), routerIP))
	m := open(t, cfg)
	if a := acquire(t, m, "a", domain.NetworkNAT); a.Address.Masked().String() != "10.50.2.0/24" {
		t.Errorf("the machine is in %s, not in the only free subnet", a.Address)
	}
	full := config(t, "two")
	full.Subnets, full.SubnetBits = cfg.Subnets, cfg.SubnetBits
	_, err := open(t, full).Acquire(context.Background(), "b", domain.NetworkNAT, "")
	if !errors.HasCode(err, errors.CapacityExhausted) {
		t.Errorf("no subnet is left: %v", err)
	}
}

func TestSmallSubnetRunsFullAndEmptiesAgain(t *testing.T) {
	if !isolated(t) {
		return
	}
	newLab(t)
	cfg := config(t, "one")
	cfg.SubnetBits, cfg.PoolNAT = 29, -1 // five machines
	m := open(t, cfg)
	for i := range 5 {
		acquire(t, m, fmt.Sprintf("m%d", i), domain.NetworkNAT)
	}
	if _, err := m.Acquire(context.Background(), "one-too-many", domain.NetworkNAT, ""); !errors.HasCode(err, errors.CapacityExhausted) {
		t.Errorf("the sixth of five: %v", err)
	}
	if err := m.Release(context.Background(), "m3"); err != nil {
		t.Fatal(err)
	}
	acquire(t, m, "in-its-place", domain.NetworkNAT)
}

func TestCheckSaysWhatIsWrong(t *testing.T) {
	if !isolated(t) {
		return
	}
	newLab(t)
	before := footprint(t)
	cfg := config(t, "one")
	for _, f := range network.Check(context.Background(), cfg) {
		if !f.OK {
			t.Errorf("%s: %s (%s)", f.Name, f.Detail, f.Hint)
		}
	}
	cfg.NetdPath = "/does/not/exist"
	if out, err := exec.Command("nft", "add table inet foreign; add chain inet foreign others { type filter hook forward priority 0; policy drop; }").CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	var failed []string
	for _, f := range network.Check(context.Background(), cfg) {
		if !f.OK {
			failed = append(failed, f.Name)
			if f.Hint == "" {
				t.Errorf("%s has no hint: %s", f.Name, f.Detail)
			}
		}
	}
	if !slices.Equal(failed, []string{"netd", "firewalls"}) {
		t.Errorf("failed: %v", failed)
	}
	if out, err := exec.Command("nft", "delete table inet foreign").CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	sameFootprint(t, before)
}
