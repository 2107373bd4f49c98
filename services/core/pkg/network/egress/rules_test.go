package egress_test

import (
	"net/netip"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
)

func rules(t *testing.T, p domain.EgressPolicy, secrets ...egress.Secret) *egress.Rules {
	t.Helper()
	n, err := p.Normal("egress")
	if err != nil {
		t.Fatal(err)
	}
	return egress.New(n, secrets)
}

func TestConnection(t *testing.T) {
	t.Parallel()
	listed := domain.EgressPolicy{Allow: []string{"example.com", "*.Pypi.org.", "8.8.8.0/24"}, Deny: []string{"0.0.0.0/0"}}
	open := domain.EgressPolicy{Deny: []string{"*.evil.com", "evil.com", "9.9.9.9/32", "9.9.0.0/16"}, Allow: []string{"good.evil.com", "9.9.9.0/24"}}
	for _, tc := range []struct {
		policy domain.EgressPolicy
		name   string
		to     string
		want   egress.Decision
		byName bool
	}{
		{domain.EgressPolicy{}, "", "8.8.8.8", egress.Decision{Allow: true}, false},
		{domain.EgressPolicy{}, "a.com", "8.8.8.8", egress.Decision{Allow: true}, true},
		{listed, "example.com", "1.1.1.1", egress.Decision{Allow: true, Rule: "example.com"}, true},
		{listed, "www.example.com", "1.1.1.1", egress.Decision{Rule: "*", Reason: "policy"}, true},
		{listed, "a.b.pypi.org", "1.1.1.1", egress.Decision{Allow: true, Rule: "*.pypi.org"}, true},
		{listed, "pypi.org", "1.1.1.1", egress.Decision{Rule: "*", Reason: "policy"}, true},
		{listed, "notpypi.org", "1.1.1.1", egress.Decision{Rule: "*", Reason: "policy"}, true},
		{listed, "evil.com", "8.8.8.8", egress.Decision{Allow: true, Rule: "8.8.8.0/24"}, false},
		{listed, "", "8.8.8.8", egress.Decision{Allow: true, Rule: "8.8.8.0/24"}, false},
		{listed, "", "8.8.9.8", egress.Decision{Rule: "*", Reason: "policy"}, false},
		{open, "a.evil.com", "8.8.8.8", egress.Decision{Rule: "*.evil.com", Reason: "policy"}, true},
		{open, "good.evil.com", "8.8.8.8", egress.Decision{Allow: true, Rule: "good.evil.com"}, true},
		{open, "", "9.9.9.9", egress.Decision{Allow: true, Rule: "9.9.9.0/24"}, false},
		{open, "", "9.9.8.1", egress.Decision{Rule: "9.9.0.0/16", Reason: "policy"}, false},
		{open, "other.com", "9.9.8.1", egress.Decision{Allow: true}, true},
		{domain.EgressPolicy{Deny: []string{"*"}, Learn: true}, "a.com", "8.8.8.8", egress.Decision{Allow: true, Rule: "*", Learned: true}, true},
		{domain.EgressPolicy{Deny: []string{"*"}, Allow: []string{"*"}}, "a.com", "8.8.8.8", egress.Decision{Allow: true, Rule: "*"}, true},
	} {
		d, byName := rules(t, tc.policy).Connection(tc.name, netip.MustParseAddr(tc.to))
		if d != tc.want || byName != tc.byName {
			t.Errorf("%v %q %s: %+v %t, want %+v %t", tc.policy, tc.name, tc.to, d, byName, tc.want, tc.byName)
		}
	}
}

func TestResolvedAddressesAreDecidedToo(t *testing.T) {
	t.Parallel()
	r := rules(t, domain.EgressPolicy{Deny: []string{"9.9.9.9"}, Allow: []string{"listed.com"}})
	bad := netip.MustParseAddr("9.9.9.9")
	if d := r.Resolved(r.Name("other.com"), bad); d.Allow {
		t.Errorf("a name nobody listed led to a denied address: %+v", d)
	}
	if d := r.Resolved(r.Name("listed.com"), bad); !d.Allow {
		t.Errorf("allow must beat deny: %+v", d)
	}
}

func TestWhoIsProxied(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		rules *egress.Rules
		want  bool
	}{
		{rules(t, domain.EgressPolicy{}), false},
		{rules(t, domain.EgressPolicy{Deny: []string{"*"}, Allow: []string{"1.2.3.4", "8.0.0.0/8"}}), false},
		{rules(t, domain.EgressPolicy{Allow: []string{"a.com"}}), true},
		{rules(t, domain.EgressPolicy{Deny: []string{"*.a.com"}}), true},
		{rules(t, domain.EgressPolicy{Learn: true}), true},
		{rules(t, domain.EgressPolicy{}, egress.Secret{Placeholder: "p", Value: "v", Hosts: []string{"a.com"}}), true},
	} {
		if got := tc.rules.Proxied(); got != tc.want {
			t.Errorf("%+v: %t", tc.rules, got)
		}
	}
}

func TestSecretsAreBoundToTheirHosts(t *testing.T) {
	t.Parallel()
	r := rules(t, domain.EgressPolicy{}, egress.Secret{Placeholder: "p", Value: "v", Hosts: []string{"api.a.com", "*.b.com"}})
	for host, want := range map[string]int{"api.a.com": 1, "a.com": 0, "x.api.a.com": 0, "x.b.com": 1, "b.com": 0, "xb.com": 0} {
		if got := r.SecretsFor(host); len(got) != want {
			t.Errorf("%s: %v", host, got)
		}
	}
}
