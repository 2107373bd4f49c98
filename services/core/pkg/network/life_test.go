package network_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
)

func TestMachinesOutliveTheManager(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	before := footprint(t)
	cfg := config(t, "one")
	worker, lines := startWorker(t, "once")
	var natted, plain network.Attachment
	for _, a := range []*network.Attachment{&natted, &plain} {
		if err := lines.Decode(a); err != nil {
			t.Fatal(err)
		}
	}
	pid := readPID(t, cfg)
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = worker.Wait()

	works := func(when string) {
		t.Helper()
		if _, err := l.dialFrom(natted.NetNS, at(publicIP)); err != nil {
			t.Errorf("%s: outside: %v", when, err)
		}
		if _, err := l.dialFrom(natted.NetNS, at(metadataIP)); err == nil {
			t.Errorf("%s: metadata reached", when)
		}
		if answer, err := l.ask(natted.NetNS, natted.DNS[0], "udp", "example.test.", dns.TypeA); err != nil || len(answer.Answer) != 1 {
			t.Errorf("%s: DNS: %v %v", when, answer, err)
		}
	}
	works("without a manager")

	said := make(chan string, 16)
	cfg.Log = slog.New(listener{said})
	m := open(t, cfg)
	if got := readPID(t, cfg); got != pid {
		t.Errorf("netd was %s and is %s: not adopted", pid, got)
	}
	for id, want := range map[string]network.Attachment{"nat-0": natted, "none-0": plain} {
		if got, ok, err := m.Lookup(context.Background(), id); err != nil || !ok || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %+v %v %v, want %+v", id, got, ok, err, want)
		}
	}
	works("adopted")

	// A netd that dies is replaced.
	proc := pidOf(t, pid)
	if err := proc.Kill(); err != nil {
		t.Fatal(err)
	}
	for word := range said {
		if word == "netd started" {
			break
		}
	}
	works("with another netd")

	// Rules and bridge that someone took away are put back at the next start.
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	bridge, err := netlink.LinkByName(bridgeOf(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(bridge); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	m = open(t, cfg)
	works("repaired")
	if err := m.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if after := footprint(t); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
}

// listener is a log handler that passes the messages on.
type listener struct{ to chan string }

func (l listener) Enabled(context.Context, slog.Level) bool { return true }
func (l listener) Handle(_ context.Context, r slog.Record) error {
	select {
	case l.to <- r.Message:
	default:
	}
	return nil
}
func (l listener) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l listener) WithGroup(string) slog.Handler      { return l }

func readPID(t testing.TB, cfg network.Config) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(cfg.RuntimeDir, "netd.lock"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

func pidOf(t testing.TB, text string) *os.Process {
	t.Helper()
	var pid int
	if _, err := fmt.Sscan(text, &pid); err != nil {
		t.Fatal(err)
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNothingIsLeftAfterAKillAtAnyMoment(t *testing.T) {
	if !isolated(t) {
		return
	}
	newLab(t)
	before := footprint(t)
	cfg := config(t, "one")
	for round := range 12 {
		worker, lines := startWorker(t, "churn")
		// A different depth of work each time, and a different moment in it.
		for range round * 3 {
			var a network.Attachment
			if err := lines.Decode(&a); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Duration(round*700) * time.Microsecond)
		if err := worker.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = worker.Wait()
		if round%3 != 0 {
			continue // the next worker takes up what this one left
		}
		m := open(t, cfg)
		if err := m.Teardown(context.Background()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if after := footprint(t); after != before {
			t.Fatalf("round %d left behind:\n%s\nbefore:\n%s", round, after, before)
		}
		if left := stateLeft(t, cfg); len(left) > 0 {
			t.Fatalf("round %d left %v", round, left)
		}
	}
}

func TestInstancesLeaveEachOtherAlone(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	start := footprint(t)
	all := netip.MustParsePrefix("0.0.0.0/0")
	one, two := config(t, "one"), config(t, "two")
	// Even what the rules allow does not open one instance to the other.
	one.AllowCIDRs = []netip.Prefix{all}
	m1 := open(t, one)
	a := acquire(t, m1, "a", domain.NetworkNAT)
	if err := m1.Release(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	m2 := open(t, two)
	b := acquire(t, m2, "b", domain.NetworkNAT)
	a = acquire(t, m1, "a", domain.NetworkNAT)
	if a.Address.Overlaps(b.Address.Masked()) {
		t.Errorf("the subnets overlap: %s %s", a.Address, b.Address)
	}
	if a.IDBase>>21 == b.IDBase>>21 {
		t.Errorf("the blocks of IDs are one: %#x %#x", a.IDBase, b.IDBase)
	}
	l.in(b.NetNS, func(int) error { l.serve("b"); return nil })
	for _, ip := range []netip.Addr{b.Address.Addr(), b.Gateway} {
		if _, err := l.dialShort(a.NetNS, at(ip)); err == nil {
			t.Errorf("one instance reached %s of the other", ip)
		}
	}
	// With everything allowed, the host stays refused and a private host is reached.
	if _, err := l.dialFrom(a.NetNS, at(hostIP)); err == nil {
		t.Error("the host was reached")
	}
	if _, err := l.dialFrom(a.NetNS, at(privateIPs[0])); err != nil {
		t.Errorf("an allowed private host: %v", err)
	}

	if err := m1.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.dialFrom(b.NetNS, at(publicIP)); err != nil {
		t.Errorf("the other instance after a teardown: %v", err)
	}
	if answer, err := l.ask(b.NetNS, b.Gateway, "udp", "example.test.", dns.TypeA); err != nil || len(answer.Answer) != 1 {
		t.Errorf("DNS of the other instance after a teardown: %v", err)
	}
	if err := m2.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if end := footprint(t); end != start {
		t.Errorf("left behind:\n%s\nbefore:\n%s", end, start)
	}
}

func TestIDsWaitForTheLastProcess(t *testing.T) {
	if !isolated(t) {
		return
	}
	newLab(t)
	cfg := config(t, "one")
	m := open(t, cfg)
	a := acquire(t, m, "a", domain.NetworkNone)
	// A process that outlives its machine, as a user of the machine.
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: a.IDBase + 1000, Gid: a.IDBase + 1000}}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := m.Release(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := m.Teardown(context.Background()); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("teardown beside a living process: %v", err)
	}
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	m = open(t, cfg)
	if err := m.Teardown(context.Background()); err != nil {
		t.Error(err)
	}
	if left := stateLeft(t, cfg); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

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
	if after := footprint(t); after != before {
		t.Errorf("the check left:\n%s\nbefore:\n%s", after, before)
	}
}
