package names_test

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/gateway/pkg/names"
)

func serve(t *testing.T, answers ...string) *names.Server {
	t.Helper()
	var all []netip.Addr
	for _, a := range answers {
		all = append(all, netip.MustParseAddr(a))
	}
	s, err := names.Listen(t.Context(), "127.0.0.1:0", "vm.Example", all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// Resolvers get the addresses, by UDP and by TCP.
func TestResolvers(t *testing.T) {
	t.Parallel()
	s := serve(t, "127.0.0.1", "::1")
	for _, network := range []string{"udp", "tcp"} {
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, s.Addr().String())
		}}
		for _, name := range []string{"vm.example.", "api.vm.example.", "8080-abcdefghij0123456789.VM.example.", "a.b.vm.example."} {
			got, err := r.LookupHost(t.Context(), name)
			slices.Sort(got)
			if err != nil || !slices.Equal(got, []string{"127.0.0.1", "::1"}) {
				t.Errorf("%s: %s: %v, %v", network, name, got, err)
			}
		}
		if got, err := r.LookupHost(t.Context(), "vm.example.com."); err == nil {
			t.Errorf("%s: another's name: %v", network, got)
		}
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	s := serve(t, "10.1.2.3")
	for _, tc := range []struct {
		name          string
		kind          uint16
		rcode         int
		answers, soa  int
		authoritative bool
	}{
		{"x.vm.example.", dns.TypeA, dns.RcodeSuccess, 1, 0, true},
		{"x.vm.example.", dns.TypeAAAA, dns.RcodeSuccess, 0, 1, true},
		{"x.vm.example.", dns.TypeMX, dns.RcodeSuccess, 0, 1, true},
		{"x.vm.example.", dns.TypeANY, dns.RcodeSuccess, 0, 1, true},
		{"vm.example.", dns.TypeSOA, dns.RcodeSuccess, 1, 0, true},
		{"example.", dns.TypeA, dns.RcodeRefused, 0, 0, false},
		{"notvm.example.", dns.TypeA, dns.RcodeRefused, 0, 0, false},
		{".", dns.TypeNS, dns.RcodeRefused, 0, 0, false},
	} {
		q := new(dns.Msg).SetQuestion(tc.name, tc.kind)
		got, err := dns.ExchangeContext(t.Context(), q, s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if got.Rcode != tc.rcode || len(got.Answer) != tc.answers || len(got.Ns) != tc.soa || got.Authoritative != tc.authoritative || got.RecursionAvailable {
			t.Errorf("%s %s: %s", tc.name, dns.TypeToString[tc.kind], got)
		}
	}
	two := new(dns.Msg).SetQuestion("x.vm.example.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	update := new(dns.Msg).SetUpdate("vm.example.")
	for rcode, q := range map[int]*dns.Msg{dns.RcodeFormatError: two, dns.RcodeNotImplemented: update} {
		if got, err := dns.ExchangeContext(t.Context(), q, s.Addr().String()); err != nil || got.Rcode != rcode {
			t.Errorf("%s: %v, %v", dns.RcodeToString[rcode], got, err)
		}
	}
	if _, err := names.Listen(t.Context(), s.Addr().String(), "vm.example", nil); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("a port that is taken: %v", err)
	}
}
