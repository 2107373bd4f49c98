package network_test

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// ownResolver is a machine's own server of names: it has every name at one address.
type ownResolver struct {
	mu    sync.Mutex
	asked []string
}

func (l *lab) ownResolver(at, says netip.Addr) *ownResolver {
	l.t.Helper()
	r := &ownResolver{}
	l.in(l.inet, func(int) error {
		packets, err := net.ListenPacket("udp4", netip.AddrPortFrom(at, 53).String())
		if err != nil {
			return err
		}
		s := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			r.mu.Lock()
			r.asked = append(r.asked, q.Question[0].Name)
			r.mu.Unlock()
			a := new(dns.Msg).SetReply(q)
			a.Answer = append(a.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: says.AsSlice()})
			_ = w.WriteMsg(a)
		})}
		go func() { _ = s.ActivateAndServe() }()
		l.t.Cleanup(func() { _ = s.Shutdown() })
		return nil
	})
	return r
}

func (r *ownResolver) got(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.asked {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// A machine's names are asked of its own servers, the proxy's for it too; what
// they say is the machine's alone, and they hear only what the policy allows.
func TestAMachinesOwnResolvers(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	own := w.ownResolver(secondIP, secondIP)
	m := open(t, w.named(t))
	mine := domain.EgressPolicy{Allow: onlyAllowed.Allow, Deny: []string{"*"}, DNS: []string{"203.0.113.99", secondIP.String()}} // the first does not answer
	setEgress(t, m, "a", mine)
	setEgress(t, m, "b", onlyAllowed)
	setEgress(t, m, "c", domain.EgressPolicy{DNS: []string{secondIP.String()}}) // and no names in it
	a, b, c := acquire(t, m, "a", domain.NetworkNAT), acquire(t, m, "b", domain.NetworkNAT), acquire(t, m, "c", domain.NetworkNAT)
	for _, tc := range []struct {
		what  string
		ip    netip.Addr
		from  func() (netip.Addr, error)
		fetch func() (int, string, error)
	}{
		{"own", secondIP, func() (netip.Addr, error) { return w.lookup(a, "allowed.test") }, func() (int, string, error) { return fetch(w.guest(a, w.pool), "https://allowed.test/") }},
		{"the neighbour's", publicIP, func() (netip.Addr, error) { return w.lookup(b, "allowed.test") }, func() (int, string, error) { return fetch(w.guest(b, w.pool), "https://allowed.test/") }},
		{"own, no names in the policy", secondIP, func() (netip.Addr, error) { return w.lookup(c, "anything.test") }, func() (int, string, error) { return fetch(w.guest(c, w.pool), "http://anything.test/") }},
	} {
		if ip, err := tc.from(); err != nil || ip != tc.ip {
			t.Errorf("%s: resolved to %s, %v", tc.what, ip, err)
		}
		if status, text, err := tc.fetch(); err != nil || status != 200 || !strings.HasPrefix(text, tc.ip.String()+" ") {
			t.Errorf("%s: %d %q %v", tc.what, status, text, err)
		}
	}
	if _, err := w.lookup(a, "c2VjcmV0.refused.test"); err == nil || own.got("c2VjcmV0.refused.test.") {
		t.Errorf("a question for a refused name: %v, asked %v", err, own.asked)
	}
	// Without the servers the machine's names are the installation's again, and the other way round.
	setEgress(t, m, "a", onlyAllowed)
	setEgress(t, m, "b", mine)
	if ip, err := w.lookup(a, "allowed.test"); err != nil || ip != publicIP {
		t.Errorf("without servers of its own: %s, %v", ip, err)
	}
	if status, text, err := fetch(w.guest(b, w.pool), "https://allowed.test/"); err != nil || status != 200 || !strings.HasPrefix(text, secondIP.String()+" ") {
		t.Errorf("with servers of its own: %d %q %v", status, text, err)
	}
}

// Servers are no way to what the operator refuses: neither are they asked
// there, though netd may ask anywhere, nor do their answers lead there.
func TestResolversThatLeadInward(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	m := open(t, config(t, "one"))
	setEgress(t, m, "a", domain.EgressPolicy{})
	a := acquire(t, m, "a", domain.NetworkNAT)
	for _, ip := range privateIPs {
		r := l.ownResolver(ip, publicIP)
		setEgress(t, m, "a", domain.EgressPolicy{DNS: []string{ip.String()}})
		if answer, err := l.ask(a.NetNS, a.DNS[0], "udp", "a.test.", dns.TypeA); err != nil || answer.Rcode != dns.RcodeServerFailure || r.got("a.test.") {
			t.Errorf("asked %s: %v %v", ip, answer, err)
		}
	}
	for _, ip := range []netip.Addr{hostIP, a.Gateway} {
		setEgress(t, m, "a", domain.EgressPolicy{DNS: []string{ip.String()}})
		if answer, err := l.ask(a.NetNS, a.DNS[0], "udp", "a.test.", dns.TypeA); err != nil || answer.Rcode != dns.RcodeServerFailure {
			t.Errorf("asked %s: %v %v", ip, answer, err)
		}
	}
	l.ownResolver(secondIP, metadataIP)
	setEgress(t, m, "a", domain.EgressPolicy{DNS: []string{secondIP.String()}})
	if answer, err := l.ask(a.NetNS, a.DNS[0], "udp", "a.test.", dns.TypeA); err != nil || len(answer.Answer) != 0 {
		t.Errorf("led to metadata: %v %v", answer, err)
	}
}
