package egress

import (
	"slices"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Learned adds what a log's entries show that a machine needed to a policy
// that allows just that: the names of what it connected to, and the addresses
// of what told no name. Names that were only asked for are not needed.
func Learned(p domain.EgressPolicy, entries []domain.EgressEntry) domain.EgressPolicy {
	p.Deny, p.Learn = []string{domain.AnyDestination}, false
	have := make(map[string]bool, len(p.Allow)) // a machine can name very many
	for _, e := range p.Allow {
		have[e] = true
	}
	for _, e := range entries {
		need := e.Name
		if need == "" {
			need = e.Addr
		}
		if e.Verdict != domain.EgressAllow || e.Proto == "dns" || need == "" || have[need] {
			continue
		}
		if _, err := domain.NormalEgressEntry("allow", need); err == nil {
			have[need] = true
			p.Allow = append(p.Allow, need)
		}
	}
	slices.Sort(p.Allow)
	return p
}
