package netd

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
)

// How long and how many answers are remembered for the proxy.
const (
	minTTL      = time.Second
	maxTTL      = 5 * time.Minute
	maxNames    = 8192
	maxAnswered = 16 // addresses of one name
)

// resolver gives the proxy the addresses of names.
type resolver struct {
	filtered *filtered
	now      func() time.Time

	mu    sync.Mutex
	known map[question]known
}

// question is a name and who was asked for it: what one machine's servers say
// is nothing to the others.
type question struct{ name, asked string }

type known struct {
	addrs []netip.Addr
	until time.Time
}

func newResolver(f *filtered) *resolver {
	return &resolver{filtered: f, now: time.Now, known: map[question]known{}}
}

// resolve gives a name's IPv4 addresses, for a machine with these rules. Returns NotFound where it has none,
// Unavailable where nobody says.
func (r *resolver) resolve(ctx context.Context, rules *egress.Rules, name string) ([]netip.Addr, error) {
	q := question{name: name}
	if own := rules.Resolvers(); len(own) > 0 {
		q.asked = fmt.Sprint(own)
	}
	r.mu.Lock()
	k, ok := r.known[q]
	r.mu.Unlock()
	if !ok || !r.now().Before(k.until) {
		var err error
		if k, err = r.ask(ctx, rules, name); err != nil {
			return nil, err
		}
		r.mu.Lock()
		if len(r.known) >= maxNames {
			clear(r.known)
		}
		r.known[q] = k
		r.mu.Unlock()
	}
	if len(k.addrs) == 0 {
		return nil, errors.New(errors.NotFound, "the name has no address")
	}
	return k.addrs, nil
}

func (r *resolver) ask(ctx context.Context, rules *egress.Rules, name string) (known, error) {
	answer := r.filtered.resolve(ctx, r.filtered.asked(rules), new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA), true)
	if answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError {
		return known{}, errors.New(errors.Unavailable, "no resolver answers")
	}
	var k known
	ttl := maxTTL
	for _, rr := range answer.Answer {
		ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
		if a, ok := rr.(*dns.A); ok && len(k.addrs) < maxAnswered {
			if ip, ok := netip.AddrFromSlice(a.A.To4()); ok {
				k.addrs = append(k.addrs, ip)
			}
		}
	}
	if len(k.addrs) == 0 {
		ttl = minTTL
	}
	k.until = r.now().Add(max(ttl, minTTL))
	return k, nil
}
