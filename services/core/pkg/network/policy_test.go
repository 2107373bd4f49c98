package network_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
)

func setEgress(t *testing.T, m *network.Manager, machine string, p domain.EgressPolicy, secrets ...domain.BoundSecret) {
	t.Helper()
	normal, err := p.Normal("egress")
	if err == nil {
		err = m.SetEgress(context.Background(), machine, domain.Egress{Policy: normal, Secrets: secrets})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// reaches checks which of the lab's public addresses a machine reaches.
func (l *lab) reaches(a network.Attachment, what string, public, second bool) {
	l.t.Helper()
	for _, want := range []struct {
		ip netip.Addr
		ok bool
	}{{publicIP, public}, {secondIP, second}} {
		_, err := l.dialFrom(a.NetNS, at(want.ip))
		switch {
		case want.ok && err != nil:
			l.t.Errorf("%s: %s: %v", what, want.ip, err)
		case !want.ok:
			refused(l.t, fmt.Sprintf("%s: %s", what, want.ip), err)
		}
	}
}

func TestAPolicyOfAddressesIsTheKernels(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	m := open(t, config(t, "one"))
	// Said before the machine has a network, it is in force from the first packet.
	setEgress(t, m, "a", domain.EgressPolicy{Allow: []string{publicIP.String()}, Deny: []string{"*"}})
	a, b := acquire(t, m, "a", domain.NetworkNAT), acquire(t, m, "b", domain.NetworkNAT)
	l.reaches(a, "allowed one only", true, false)
	l.reaches(b, "the neighbour without a policy", true, true)

	// Nothing leaves in questions either, where nothing is allowed by name.
	for _, transport := range []string{"udp", "tcp"} {
		if answer, err := l.ask(a.NetNS, a.DNS[0], transport, "c2VjcmV0.tunnel.test.", dns.TypeTXT); err != nil || answer.Rcode != dns.RcodeRefused {
			t.Errorf("a question by %s: %v %v", transport, answer, err)
		}
	}
	l.mu.Lock()
	if len(l.asked) > 0 {
		t.Error("got out:", l.asked)
	}
	l.mu.Unlock()
	if answer, err := l.ask(b.NetNS, b.DNS[0], "udp", "example.test.", dns.TypeA); err != nil || len(answer.Answer) != 1 {
		t.Errorf("the neighbour's question: %v %v", answer, err)
	}

	setEgress(t, m, "a", domain.EgressPolicy{Deny: []string{publicIP.String() + "/32"}})
	l.reaches(a, "denied one", false, true)
	setEgress(t, m, "a", domain.EgressPolicy{Deny: []string{"203.0.113.0/24"}, Allow: []string{"203.0.113.11/32"}})
	l.reaches(a, "allow beats deny", false, true)
	// No policy opens what the operator refuses.
	setEgress(t, m, "a", domain.EgressPolicy{Allow: []string{"*", "10.0.0.0/8", metadataIP.String()}})
	for _, ip := range append(privateIPs, metadataIP, hostIP, a.Gateway, b.Address.Addr()) {
		_, err := l.dialFrom(a.NetNS, at(ip))
		refused(t, "allowed by the machine's own policy: "+ip.String(), err)
	}
	setEgress(t, m, "a", domain.EgressPolicy{})
	l.reaches(a, "without a policy", true, true)
}

func TestAChangedPolicyCutsWhatItRefuses(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	m := open(t, config(t, "one"))
	a := acquire(t, m, "a", domain.NetworkNAT)
	var cut, kept net.Conn
	l.in(a.NetNS, func(int) (err error) {
		if cut, err = net.Dial("tcp4", netip.AddrPortFrom(publicIP, talkPort).String()); err != nil {
			return err
		}
		kept, err = net.Dial("tcp4", netip.AddrPortFrom(secondIP, talkPort).String())
		return err
	})
	defer func() { _ = cut.Close(); _ = kept.Close() }()
	talk := func(c net.Conn) error {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 1))
		return err
	}
	for _, c := range []net.Conn{cut, kept} {
		if err := talk(c); err != nil {
			t.Fatal(err)
		}
	}
	setEgress(t, m, "a", domain.EgressPolicy{Deny: []string{publicIP.String()}})
	if err := talk(cut); err == nil {
		t.Error("an open connection to a denied address goes on")
	}
	if err := talk(kept); err != nil {
		t.Errorf("an allowed connection was cut: %v", err)
	}
}

func TestAPolicyOutlivesTheWorker(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	cfg := config(t, "one")
	cfg.SubnetBits, cfg.PoolNAT = 29, -1 // five addresses, used again soon
	m := open(t, cfg)
	a := acquire(t, m, "a", domain.NetworkNAT)
	setEgress(t, m, "a", domain.EgressPolicy{Allow: []string{publicIP.String()}, Deny: []string{"*"}})
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	l.reaches(a, "while no worker runs", true, false)
	m = open(t, cfg)
	l.reaches(a, "before it is said again", true, false)
	// Whoever gets the address later does not get the policy with it.
	if err := m.Release(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		b := acquire(t, m, fmt.Sprint("b", i), domain.NetworkNAT)
		l.reaches(b, "a later machine", true, true)
		if b.Address == a.Address {
			return
		}
	}
	t.Error("the address was never used again")
}

func TestMachinesWithoutANetworkTakeAnyPolicy(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	m := open(t, config(t, "one"))
	setEgress(t, m, "a", domain.EgressPolicy{Allow: []string{"*"}})
	a := acquire(t, m, "a", domain.NetworkNone)
	setEgress(t, m, "a", domain.EgressPolicy{Allow: []string{publicIP.String()}})
	if _, err := l.dialShort(a.NetNS, at(publicIP)); err == nil {
		t.Error("a machine without a network reached something")
	}
}

// A live change reaches connections that the proxy carries, too.
func TestAChangedPolicyCutsWhatTheProxyCarries(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	m := open(t, w.named(t))
	both := domain.EgressPolicy{Allow: []string{"allowed.test", secondIP.String()}, Deny: []string{"*"}}
	setEgress(t, m, "a", both)
	a := acquire(t, m, "a", domain.NetworkNAT)
	var named, numbered net.Conn
	w.in(a.NetNS, func(int) (err error) {
		if named, err = net.Dial("tcp4", netip.AddrPortFrom(publicIP, 443).String()); err != nil {
			return err
		}
		numbered, err = net.Dial("tcp4", netip.AddrPortFrom(secondIP, talkPort).String())
		return err
	})
	defer func() { _ = named.Close(); _ = numbered.Close() }()
	secure := tls.Client(named, &tls.Config{RootCAs: w.pool, ServerName: "allowed.test", NextProtos: []string{"http/1.1"}})
	ask := func() error {
		_ = named.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(secure, "GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n"); err != nil {
			return err
		}
		_, err := secure.Read(make([]byte, 4096))
		return err
	}
	talk := func() error {
		_ = numbered.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := numbered.Write([]byte("x")); err != nil {
			return err
		}
		_, err := numbered.Read(make([]byte, 1))
		return err
	}
	if err := ask(); err != nil {
		t.Fatal("TLS:", err)
	}
	if err := talk(); err != nil {
		t.Fatal("TCP:", err)
	}
	setEgress(t, m, "a", domain.EgressPolicy{Allow: []string{"other.test", secondIP.String()}, Deny: []string{"*"}})
	if err := ask(); err == nil {
		t.Error("a connection to a name that is refused now goes on")
	}
	if err := talk(); err != nil {
		t.Errorf("a connection that is still allowed was cut: %v", err)
	}
	setEgress(t, m, "a", domain.EgressPolicy{Deny: []string{"203.0.113.0/24"}}) // no names: no proxy
	if err := talk(); err == nil {
		t.Error("a connection to an address that is refused now goes on")
	}
}

// When netd dies, machines with names in their policies reach nothing until
// another one has been told the policies again; then they reach what they did.
func TestNetdsDeathOpensNothing(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	cfg := w.named(t)
	m := open(t, cfg)
	setEgress(t, m, "a", onlyAllowed, bound(secretValue))
	a := acquire(t, m, "a", domain.NetworkNAT)
	b := acquire(t, m, "b", domain.NetworkNAT)
	trust := w.pool.Clone()
	trust.AppendCertsFromPEM(cfg.EgressCA.Certificate)
	if err := m.Close(); err != nil { // nobody starts it again
		t.Fatal(err)
	}
	if status, _, err := fetch(w.guest(a, trust), "http://allowed.test/"); err != nil || status != 200 {
		t.Fatalf("without a worker: %d %v", status, err)
	}
	kill(t, cfg)
	for _, to := range []netip.AddrPort{netip.AddrPortFrom(publicIP, 80), netip.AddrPortFrom(publicIP, webPort)} {
		_, err := w.dialFrom(a.NetNS, to.String())
		refused(t, "without netd: "+to.String(), err)
	}
	if _, err := w.dialFrom(b.NetNS, at(publicIP)); err != nil {
		t.Errorf("a machine without a policy: %v", err)
	}
	// The worker comes back: policies are on record, secrets are said again.
	m = open(t, cfg)
	if status, _, err := fetch(w.guest(a, trust), "http://allowed.test/"); err != nil || status != 200 {
		t.Errorf("after the restart: %d %v", status, err)
	}
	if err := w.hello(a, publicIP, 443, "refused.test"); err == nil {
		t.Error("after the restart a refused name is reached")
	}
	setEgress(t, m, "a", domain.EgressPolicy{Allow: []string{"api.test"}, Deny: []string{"*"}}, bound(secretValue))
	if _, text, err := fetch(w.guest(a, trust), "https://api.test/", "Authorization", placeholder); err != nil || !strings.HasSuffix(text, "auth="+secretValue+"\n") {
		t.Errorf("the secret after the restart: %q %v", text, err)
	}
	// While the worker lives it starts netd again by itself.
	kill(t, cfg)
	for deadline := time.Now().Add(time.Minute); ; {
		status, _, err := fetch(w.guest(a, trust), "http://203.0.113.10/", "Host", "api.test")
		if err == nil && status == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("netd did not come back: %d %v", status, err)
		}
	}
}

// kill ends an instance's netd.
func kill(t *testing.T, cfg network.Config) {
	t.Helper()
	raw, err := os.ReadFile(cfg.RuntimeDir + "/netd.lock")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != nil {
		t.Fatal(err)
	}
}

// What a machine did is in its log, by whoever decided.
func TestTheLogTellsEverything(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	m := open(t, w.named(t))
	a := acquire(t, m, "a", domain.NetworkNAT)
	if _, err := w.dialFrom(a.NetNS, at(publicIP)); err != nil {
		t.Fatal(err)
	}
	_, err := w.dialFrom(a.NetNS, at(metadataIP))
	refused(t, "metadata", err)
	w.log(m, "a", "allowed by the kernel", func(e domain.EgressEntry) bool {
		return e.Verdict == domain.EgressAllow && e.Via == "kernel" && e.Proto == "tcp" && e.Addr == publicIP.String() && e.Port == webPort
	})
	w.log(m, "a", "denied by the kernel", func(e domain.EgressEntry) bool {
		return e.Verdict == domain.EgressDeny && e.Via == "kernel" && e.Addr == metadataIP.String() && e.Reason == domain.EgressPrivate
	})
	setEgress(t, m, "a", domain.EgressPolicy{Deny: []string{"203.0.113.8/29"}})
	_, err = w.dialFrom(a.NetNS, at(publicIP))
	refused(t, "denied", err)
	w.log(m, "a", "denied by the policy", func(e domain.EgressEntry) bool {
		return e.Verdict == domain.EgressDeny && e.Reason == domain.EgressPolicyDenied && e.Rule == "203.0.113.8/29"
	})
	// Learning lets it pass, and says what was needed.
	setEgress(t, m, "a", domain.EgressPolicy{Deny: []string{"*"}, Learn: true})
	c := w.guest(a, w.pool)
	for _, url := range []string{"https://needed.test/", "http://also.test/"} {
		if status, _, err := fetch(c, url); err != nil || status != 200 {
			t.Errorf("%s: %d %v", url, status, err)
		}
	}
	if _, err := w.dialFrom(a.NetNS, netip.AddrPortFrom(secondIP, webPort).String()); err != nil {
		t.Error(err)
	}
	_, err = w.dialFrom(a.NetNS, at(metadataIP))
	if err == nil {
		t.Error("learning opened the metadata address")
	}
	c.CloseIdleConnections()
	for _, name := range []string{"needed.test", "also.test"} {
		w.log(m, "a", name, func(e domain.EgressEntry) bool {
			return e.Verdict == domain.EgressAllow && e.Name == name && e.Learned && e.Via != "dns"
		})
		w.log(m, "a", "the end of "+name, func(e domain.EgressEntry) bool {
			return e.Verdict == domain.EgressEnd && e.Name == name && e.Sent > 0 && e.Got > 0
		})
	}
	w.log(m, "a", "an address", func(e domain.EgressEntry) bool { return e.Learned && e.Addr == secondIP.String() && e.Via == "tcp" })
	entries, err := m.EgressLog(context.Background(), "a", 0, 1000, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		if e.Seq != int64(i)+1 {
			t.Errorf("entry %d has number %d", i, e.Seq)
		}
	}
	// It outlives the machine, until it is forgotten.
	if err := m.Release(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	if again, err := m.EgressLog(context.Background(), "a", 0, 1000, 0); err != nil || len(again) < len(entries) {
		t.Errorf("%d of %d entries, %v", len(again), len(entries), err)
	}
	if err := m.ForgetEgressLog("a"); err != nil {
		t.Error(err)
	}
	if again, err := m.EgressLog(context.Background(), "a", 0, 1000, 0); err != nil || len(again) != 0 {
		t.Errorf("%d entries, %v", len(again), err)
	}
}
