package network_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
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

	said := make(chan string, 64)
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

	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	low, _ := ids()
	own := fmt.Sprint(low)
	if want := "Uid:\t" + strings.Repeat(own+"\t", 3) + own + "\n"; !strings.Contains(string(status), want) {
		t.Errorf("netd does not run as %s:\n%s", own, status)
	}

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
	sameFootprint(t, before)
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
		sameFootprint(t, before)
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
	acquire(t, m1, "a", domain.NetworkNAT)
	if err := m1.Release(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	m2 := open(t, two)
	b := acquire(t, m2, "b", domain.NetworkNAT)
	a := acquire(t, m1, "a", domain.NetworkNAT)
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
	sameFootprint(t, start)
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
	if err := m.Teardown(context.Background()); !errors.HasCode(err, errors.Conflict) || !strings.Contains(err.Error(), "1 machines still live: "+strconv.Itoa(cmd.Process.Pid)+" (") {
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
