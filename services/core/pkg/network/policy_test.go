package network_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

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
