package domain_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

func TestEgressPolicyNormal(t *testing.T) {
	t.Parallel()
	p, err := domain.EgressPolicy{
		Allow: []string{" Example.COM. ", "example.com", "*.A.example.com", "10.1.2.3/24", "1.2.3.4/32", "1.2.3.4"}, Deny: []string{"0.0.0.0/0", "*"}, Learn: true,
	}.Normal("egress")
	want := []string{"example.com", "*.a.example.com", "10.1.2.0/24", "1.2.3.4"}
	if err != nil || !slices.Equal(p.Allow, want) || !slices.Equal(p.Deny, []string{"*"}) || !p.Learn {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{
		"", ".", "com", "*.com.", "*", "a..com", "*.*.com", "a.*.com", "-a.com", "a-.com", "exämple.com", "::1", "::/0", "1.2.3.4/33", "1.2.3", "1.2.3.4:80",
		"http://a.com", "a.com/", "a.com:443", strings.Repeat("a.", 127) + "com", "a b.com", "a.com\n", "1.2.3.4.5", "0x7f.1",
	} {
		_, err := domain.NormalEgressEntry("egress.allow", bad)
		if ok := bad == "*" || bad == "a.com\n"; ok != (err == nil) || err != nil && errors.Public(err).Field != "egress.allow" {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := (domain.EgressPolicy{Deny: make([]string, domain.MaxEgressEntries+1)}).Normal("e"); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("too many: %v", err)
	}
}

func TestNormalSecretUses(t *testing.T) {
	t.Parallel()
	got, err := domain.NormalSecretUses("secrets", []domain.SecretUse{{Name: "gh", Env: "GH_TOKEN", Hosts: []string{"API.github.com.", "*.GitHub.com"}}, {Name: "gh", Env: "PLAIN"}})
	if err != nil || !slices.Equal(got[0].Hosts, []string{"api.github.com", "*.github.com"}) {
		t.Errorf("%+v, %v", got, err)
	}
	for field, bad := range map[string][]domain.SecretUse{
		"secrets":       make([]domain.SecretUse, domain.MaxSecretUses+1),
		"secrets.name":  {{Env: "A"}},
		"secrets.env":   {{Name: "a", Env: "1"}},
		"secrets.hosts": {{Name: "a", Env: "A", Hosts: []string{"10.0.0.1"}}},
	} {
		if _, err := domain.NormalSecretUses("secrets", bad); errors.Public(err).Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := domain.NormalSecretUses("secrets", []domain.SecretUse{{Name: "a", Env: "A"}, {Name: "b", Env: "A"}}); err == nil {
		t.Error("one variable, two secrets")
	}
}
