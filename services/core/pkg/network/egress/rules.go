package egress

import (
	"net/netip"
	"strings"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Rules are a policy that is ready to decide. They do not change.
type Rules struct {
	allow, deny list
	learn       bool
	resolvers   []netip.AddrPort
	secrets     []bound
	headers     map[string]map[string]string // by entry of headed
	headed      list
	proxy       *domain.EgressProxy
}

// bound is a secret with its hosts ready to be matched.
type bound struct {
	Secret
	hosts list
}

// Secret is a value that leaves in the place of its placeholder.
type Secret = domain.BoundSecret

// list is one side of a policy.
type list struct {
	any  bool
	nets []netip.Prefix
	// names are by what the entry says after "*.", so that a name is found by
	// looking up itself and its parents.
	exact, below map[string]bool
}

// Decision is what the rules say about a destination.
type Decision struct {
	Allow bool
	// Rule is the entry that decided; empty: none did.
	Rule string
	// Reason of a denial: EgressPolicyDenied.
	Reason string
	// Learned says that only learning allows it.
	Learned bool
}

// New makes rules of a policy in its normal form (domain.EgressPolicy.Normal).
// Entries that are not in it decide nothing. The rules have their values.
func New(p domain.EgressPolicy, secrets []Secret, rules ...domain.HeaderRule) *Rules {
	r := &Rules{allow: newList(p.Allow), deny: newList(p.Deny), learn: p.Learn}
	for _, s := range p.DNS {
		if ip, err := netip.ParseAddr(s); err == nil {
			r.resolvers = append(r.resolvers, netip.AddrPortFrom(ip, dnsPort))
		}
	}
	for _, s := range secrets {
		r.secrets = append(r.secrets, bound{s, newList(s.Hosts)})
	}
	hosts := make([]string, len(rules))
	r.headers = make(map[string]map[string]string, len(rules))
	for i, rule := range rules {
		hosts[i], r.headers[rule.Host] = rule.Host, rule.Headers
	}
	r.headed = newList(hosts)
	return r
}

// dnsPort is where servers of names are asked (RFC 1035 §4.2).
const dnsPort = 53

func newList(entries []string) list {
	l := list{exact: map[string]bool{}, below: map[string]bool{}}
	for _, e := range entries {
		if e == domain.AnyDestination {
			l.any = true
		} else if p, err := netip.ParsePrefix(e); err == nil {
			l.nets = append(l.nets, p)
		} else if ip, err := netip.ParseAddr(e); err == nil {
			l.nets = append(l.nets, netip.PrefixFrom(ip, ip.BitLen()))
		} else if name, wild := strings.CutPrefix(e, "*."); wild {
			l.below[name] = true
		} else {
			l.exact[e] = true
		}
	}
	return l
}

func (l list) named() bool { return len(l.exact)+len(l.below) > 0 }

// name finds the entry that a name matches.
func (l list) name(name string) (entry string, ok bool) {
	if l.exact[name] {
		return name, true
	}
	for rest := name; ; {
		_, parent, more := strings.Cut(rest, ".")
		if !more {
			return "", false
		}
		if l.below[parent] {
			return "*." + parent, true
		}
		rest = parent
	}
}

// addr finds the narrowest network that an address is in.
func (l list) addr(ip netip.Addr) (entry string, ok bool) {
	best := -1
	for _, n := range l.nets {
		if n.Contains(ip) && n.Bits() > best {
			best, entry = n.Bits(), n.String()
			if n.IsSingleIP() {
				entry = n.Addr().String()
			}
		}
	}
	if best < 0 && l.any {
		return domain.AnyDestination, true
	}
	return entry, best >= 0
}

// Proxied reports whether names decide, so that connections must be looked into.
func (r *Rules) Proxied() bool {
	return r.learn || len(r.secrets) > 0 || len(r.headers) > 0 || r.proxy != nil || r.allow.named() || r.deny.named()
}

// Named reports whether names are allowed or denied, so that who hides one gains by it.
func (r *Rules) Named() bool { return r.allow.named() || r.deny.named() }

// AsksFewer reports whether the machine's questions for names must be looked
// at: where names decide, where everything is denied that is not allowed, so
// that nothing leaves in questions, and where others are asked than usual, so
// that nobody is until they are known.
func (r *Rules) AsksFewer() bool {
	return r.Proxied() || r.deny.any && !r.allow.any || len(r.resolvers) > 0
}

// Resolvers are who is asked for names, in order; empty: the installation's.
func (r *Rules) Resolvers() []netip.AddrPort { return r.resolvers }

// Addresses gives the networks that the policy allows and denies, for the
// kernel. Denied to all is 0.0.0.0/0.
func (r *Rules) Addresses() (allow, deny []netip.Prefix) {
	everything := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	allow, deny = r.allow.nets, r.deny.nets
	if r.allow.any {
		allow = []netip.Prefix{everything}
	}
	if r.deny.any {
		deny = []netip.Prefix{everything}
	}
	return allow, deny
}

// Learns reports whether what is denied passes and is noted.
func (r *Rules) Learns() bool { return r.learn }

// Name decides whether a name may be asked for, and connected to by its name.
// It is in lower case and has no root dot.
func (r *Rules) Name(name string) Decision {
	if e, ok := r.allow.name(name); ok {
		return Decision{Allow: true, Rule: e}
	}
	if r.allow.any {
		return Decision{Allow: true, Rule: domain.AnyDestination}
	}
	if e, ok := r.deny.name(name); ok {
		return r.denied(e)
	}
	if r.deny.any {
		return r.denied(domain.AnyDestination)
	}
	return Decision{Allow: true}
}

// Address decides about a destination that is known by its address only.
func (r *Rules) Address(ip netip.Addr) Decision {
	if e, ok := r.allow.addr(ip); ok {
		return Decision{Allow: true, Rule: e}
	}
	if e, ok := r.deny.addr(ip); ok {
		return r.denied(e)
	}
	return Decision{Allow: true}
}

// Resolved decides about an address that a name was resolved to, after [Rules.Name]
// has allowed the name by d: a name that an entry allows goes wherever it
// leads; one that nothing denies still must not lead to a denied address.
func (r *Rules) Resolved(d Decision, ip netip.Addr) Decision {
	if d.Rule != "" {
		return d
	}
	return r.Address(ip)
}

// Connection decides about a connection to an address that tells a name; empty:
// it tells none. With byName it goes to the name's own addresses, each of
// which [Rules.Resolved] must allow, whatever address the machine chose.
func (r *Rules) Connection(name string, to netip.Addr) (d Decision, byName bool) {
	if name == "" {
		return r.Address(to), false
	}
	d = r.Name(name)
	if !d.Allow || d.Learned {
		if e, ok := r.allow.addr(to); ok {
			return Decision{Allow: true, Rule: e}, false
		}
	}
	return d, true
}

func (r *Rules) denied(rule string) Decision {
	if r.learn {
		return Decision{Allow: true, Rule: rule, Learned: true}
	}
	return Decision{Rule: rule, Reason: domain.EgressPolicyDenied}
}

// Proxy is what TCP connections go through; nil: they go directly. It has its
// password.
func (r *Rules) Proxy() *domain.EgressProxy { return r.proxy }

// Headers are those that requests to a host get; nil: none. The caller does
// not change them.
func (r *Rules) Headers(host string) map[string]string {
	entry, _ := r.headed.name(host) // the longest of those that match
	return r.headers[entry]
}

// Intercepts reports whether requests to a host are changed on their way.
func (r *Rules) Intercepts(host string) bool {
	return len(r.Headers(host)) > 0 || len(r.SecretsFor(host)) > 0
}

// SecretsFor gives the secrets that are bound to a host.
func (r *Rules) SecretsFor(host string) []Secret {
	var out []Secret
	for _, s := range r.secrets {
		if _, ok := s.hosts.name(host); ok {
			out = append(out, s.Secret)
		}
	}
	return out
}
