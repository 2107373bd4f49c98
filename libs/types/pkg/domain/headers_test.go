package domain_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

func TestHeaderRules(t *testing.T) {
	t.Parallel()
	p, err := domain.EgressPolicy{Rules: []domain.HeaderRule{
		{Host: "*.Below.Test.", Headers: map[string]string{"x-a": " v "}}, {Host: "api.test", Headers: map[string]string{"authorization": "Bearer secret-1", "X-B": ""}},
	}}.Normal("egress")
	if err != nil || p.IsZero() || len(p.Rules) != 2 || p.Rules[0].Host != "*.below.test" || p.Rules[0].Headers["X-A"] != "v" || p.Rules[1].Headers["Authorization"] != "Bearer secret-1" {
		t.Fatalf("%+v %v", p, err)
	}
	if bare := p.WithoutValues(); strings.Contains(fmt.Sprint(bare), "secret-1") || len(bare.Rules[1].Headers) != 2 || p.Rules[1].Headers["Authorization"] == "" {
		t.Errorf("%+v of %+v", bare, p)
	}
	one := func(name, value string) []domain.HeaderRule {
		return []domain.HeaderRule{{Host: "a.test", Headers: map[string]string{name: value}}}
	}
	many := map[string]string{}
	for i := range domain.MaxRuleHeaders + 1 {
		many[fmt.Sprintf("X-%d", i)] = "v"
	}
	hosts := make([]domain.HeaderRule, domain.MaxHeaderRules+1)
	for i := range hosts {
		hosts[i] = domain.HeaderRule{Host: fmt.Sprintf("h%d.test", i), Headers: map[string]string{"X": "v"}}
	}
	for what, rules := range map[string][]domain.HeaderRule{
		"everything": {{Host: "*", Headers: map[string]string{"X": "v"}}}, "an address": {{Host: "203.0.113.7", Headers: map[string]string{"X": "v"}}},
		"a top-level domain": {{Host: "*.com", Headers: map[string]string{"X": "v"}}}, "a port": {{Host: "a.test:443", Headers: map[string]string{"X": "v"}}},
		"a host twice": append(one("X", "v"), domain.HeaderRule{Host: "A.test", Headers: map[string]string{"Y": "v"}}), "no headers": {{Host: "a.test"}},
		"a header twice": {{Host: "a.test", Headers: map[string]string{"x-a": "secret-2", "X-A": "secret-2"}}},
		"no name":        one("", "secret-2"), "a name with a line": one("X\r\nY", "secret-2"), "a name with a blank": one("X Y", "secret-2"),
		"a second line": one("X", "secret-2\r\nHost: b.test"), "a bare line feed": one("X", "secret-2\nY: z"), "a NUL": one("X", "secret-2\x00"),
		"Host": one("host", "secret-2"), "its length": one("content-length", "2"), "its coding": one("Transfer-Encoding", "chunked"), "its connection": one("connection", "X"),
		"too large": one("X", "secret-2"+strings.Repeat("v", domain.MaxRuleHeaderBytes)), "many headers": {{Host: "a.test", Headers: many}}, "many hosts": hosts,
	} {
		if _, err := domain.NormalHeaderRules("rules", rules); err == nil || strings.Contains(err.Error(), "secret-2") {
			t.Errorf("%s: %.200v", what, err)
		}
	}
}

// What is hidden stays what it was, for the same host and the same user of the
// same proxy: it is not sent to another.
func TestHiddenValuesStay(t *testing.T) {
	t.Parallel()
	was := domain.EgressPolicy{
		Rules: []domain.HeaderRule{{Host: "a.test", Headers: map[string]string{"X": "x", "Y": "y"}}},
		Proxy: &domain.EgressProxy{Address: "p.test:1", Username: "u", Password: "secret"},
	}
	with := func(host, header, value, proxy, user string) domain.EgressPolicy {
		return domain.EgressPolicy{
			Rules: []domain.HeaderRule{{Host: host, Headers: map[string]string{header: value}}},
			Proxy: &domain.EgressProxy{Address: proxy, Username: user, Password: domain.Hidden},
		}
	}
	asked := with("a.test", "X", domain.Hidden, "p.test:1", "u")
	got, err := asked.Keeping("egress", was)
	if err != nil || got.Rules[0].Headers["X"] != "x" || len(got.Rules[0].Headers) != 1 || got.Proxy.Password != "secret" {
		t.Errorf("%+v, %v", got, err)
	}
	if asked.Rules[0].Headers["X"] != domain.Hidden || asked.Proxy.Password != domain.Hidden || was.Rules[0].Headers["X"] != "x" {
		t.Error("the arguments were changed")
	}
	if got, err := with("b.test", "X", "new", "p.test:1", "u").Keeping("egress", was); err != nil || got.Rules[0].Headers["X"] != "new" {
		t.Errorf("%+v, %v", got, err)
	}
	for name, p := range map[string]domain.EgressPolicy{
		"another host":   with("b.test", "X", domain.Hidden, "p.test:1", "u"),
		"another header": with("a.test", "Z", domain.Hidden, "p.test:1", "u"),
		"another proxy":  with("a.test", "X", domain.Hidden, "q.test:1", "u"),
		"another user":   with("a.test", "X", domain.Hidden, "p.test:1", "v"),
	} {
		if _, err := p.Keeping("egress", was); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
