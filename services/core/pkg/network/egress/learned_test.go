package egress_test

import (
	"slices"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
)

// What a machine needed is told once, over pages of its log; what no policy
// can say, and what was only asked for or refused, is not.
func TestLearned(t *testing.T) {
	t.Parallel()
	page := []domain.EgressEntry{
		{Verdict: domain.EgressAllow, Proto: "tcp", Name: "b.test", Addr: "203.0.113.1"},
		{Verdict: domain.EgressAllow, Proto: "tcp", Name: "b.test", Addr: "203.0.113.2"},
		{Verdict: domain.EgressAllow, Proto: "udp", Addr: "203.0.113.9"},
		{Verdict: domain.EgressAllow, Proto: "tcp", Name: "\x1b[2J;--deny"},
		{Verdict: domain.EgressAllow, Proto: "dns", Name: "asked.test"},
		{Verdict: domain.EgressDeny, Proto: "tcp", Name: "refused.test"},
	}
	p := egress.Learned(domain.EgressPolicy{Learn: true}, page)
	p = egress.Learned(p, append(page, domain.EgressEntry{Verdict: domain.EgressAllow, Proto: "tcp", Name: "a.test"}))
	if want := []string{"203.0.113.9", "a.test", "b.test"}; !slices.Equal(p.Allow, want) || !slices.Equal(p.Deny, []string{"*"}) || p.Learn {
		t.Errorf("%+v", p)
	}
}
