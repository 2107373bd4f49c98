package domain

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// EgressPolicy says what a VM with network nat may reach. The zero policy is
// everything but what the operator refuses: private and special ranges, the
// host and other VMs. No policy reaches those: it only ever takes away.
//
// An entry is an IPv4 address, a network (CIDR), a domain, a domain with a
// wildcard in front (*.example.com: every name below it, at any depth, not
// example.com itself), or AnyDestination. Allow beats Deny; what neither names
// is allowed.
type EgressPolicy struct {
	Allow []string `json:"allow,omitempty"`
	Deny  []string `json:"deny,omitempty"`
	// Learn lets everything pass that the policy would refuse, and notes it, so
	// that the allowlist that a run needs can be told from its log.
	Learn bool `json:"learn,omitempty"`
	// DNS are the servers (IPv4, port 53) that the VM's names are asked of, in
	// order, in the place of the installation's. Only questions that the policy
	// allows go there; those that the operator refuses are not asked.
	DNS []string `json:"dns,omitempty"`
	// Rules set headers on the way. Their values are stored apart, encrypted:
	// in a VM's spec they are empty.
	Rules []HeaderRule `json:"rules,omitempty"`
	// Proxy, if set, is what TCP connections go through.
	Proxy *EgressProxy `json:"proxy,omitempty"`
}

// AnyDestination as an entry is every address and every name.
const AnyDestination = "*"

// The bounds on egress policies.
const (
	MaxEgressEntries = 256 // in each list
	MaxDNSServers    = 10
	MaxSecretUses    = 32
	MaxSecretHosts   = 32
	MaxSecretBytes   = 64 << 10
	maxDomainBytes   = 253 // RFC 1035 §2.3.4
)

// domainNameForm is LDH labels (RFC 5890 §2.3.1) and underscores, which
// service names have; at least two labels, so that no typing error allows a
// whole top-level domain.
var domainNameForm = regexp.MustCompile(`^(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$`)

// IsZero reports whether the policy takes nothing away and asks for nothing.
func (p EgressPolicy) IsZero() bool {
	return len(p.Allow) == 0 && len(p.Deny) == 0 && !p.Learn && len(p.DNS) == 0 && len(p.Rules) == 0 && p.Proxy == nil
}

// Normal gives the policy with each entry in its one form (lower case, no root
// dot, networks without host bits, a single address as one, 0.0.0.0/0 as
// AnyDestination), without repetitions, in the order given.
// Returns InvalidArgument with the entry's field.
func (p EgressPolicy) Normal(field string) (EgressPolicy, error) {
	out := EgressPolicy{Learn: p.Learn}
	for _, l := range []struct {
		name string
		from []string
		to   *[]string
	}{{"allow", p.Allow, &out.Allow}, {"deny", p.Deny, &out.Deny}} {
		if len(l.from) > MaxEgressEntries {
			return out, invalid(field+"."+l.name, "%d entries, at most %d are allowed", len(l.from), MaxEgressEntries)
		}
		for _, text := range l.from {
			e, err := NormalEgressEntry(field+"."+l.name, text)
			if err != nil {
				return out, err
			}
			if !slices.Contains(*l.to, e) {
				*l.to = append(*l.to, e)
			}
		}
	}
	var err error
	if out.DNS, err = NormalDNSServers(field+".dns", p.DNS); err != nil {
		return out, err
	}
	if out.Rules, err = NormalHeaderRules(field+".rules", p.Rules); err != nil || p.Proxy == nil {
		return out, err
	}
	proxy, err := p.Proxy.Normal(field + ".proxy")
	out.Proxy = &proxy
	return out, err
}

// NormalDNSServers gives servers in their one form, without repetitions, in
// the order given. Returns InvalidArgument.
func NormalDNSServers(field string, servers []string) ([]string, error) {
	if len(servers) > MaxDNSServers {
		return nil, invalid(field, "%d servers, at most %d are allowed", len(servers), MaxDNSServers)
	}
	var out []string
	for _, text := range servers {
		ip, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil || !ip.Is4() || !ip.IsGlobalUnicast() {
			return nil, invalid(field, "%q is not the IPv4 address of a server", clip(text, 64)).WithHint("such as 192.0.2.53; it is asked on port 53")
		}
		if s := ip.String(); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out, nil
}

// NormalEgressEntry gives an entry in its one form. Returns InvalidArgument.
func NormalEgressEntry(field, text string) (string, error) {
	e := strings.ToLower(strings.TrimSpace(text))
	if e == AnyDestination {
		return e, nil
	}
	if ip, err := netip.ParseAddr(e); err == nil {
		if !ip.Is4() {
			return "", invalid(field, "%q is an IPv6 address", clip(text, 64)).WithHint("VMs have IPv4 only: IPv6 is refused as a whole")
		}
		return ip.String(), nil
	}
	if strings.Contains(e, "/") {
		net, err := netip.ParsePrefix(e)
		if err != nil || !net.Addr().Is4() {
			return "", invalid(field, "%q is not an IPv4 network", clip(text, 64)).WithHint("such as 203.0.113.0/24, or a domain such as *.example.com")
		}
		switch net = net.Masked(); net.Bits() {
		case 0:
			return AnyDestination, nil
		case 32:
			return net.Addr().String(), nil
		}
		return net.String(), nil
	}
	name, ok := normalDomain(e)
	if !ok {
		return "", invalid(field, "%q is not an address, a network or a domain", clip(text, 64)).
			WithHint("such as 203.0.113.7, 203.0.113.0/24, example.com, *.example.com or *; names beyond ASCII in their xn-- form")
	}
	return name, nil
}

// normalDomain gives a domain name, or one with *. in front, in lower case and
// without root dot.
func normalDomain(text string) (string, bool) {
	whole := strings.TrimSuffix(strings.ToLower(strings.TrimSpace(text)), ".")
	name := strings.TrimPrefix(whole, "*.")
	return whole, len(name) <= maxDomainBytes && domainNameForm.MatchString(name)
}

// SecretUse is how a VM gets one of its project's stored secrets.
type SecretUse struct {
	// Name of the stored secret.
	Name string `json:"name"`
	// Env is the environment variable of executions that holds it: the value
	// itself, or, where Hosts are given, a placeholder.
	Env string `json:"env"`
	// Hosts, if any, bind the secret: its value never enters the VM. Requests
	// to these hosts (domains, with *. in front: all below) that carry the
	// placeholder in a header leave with the value in its place.
	Hosts []string `json:"hosts,omitempty"`
	// Placeholder is what the VM sees; made by the server.
	Placeholder string `json:"placeholder,omitempty"`
}

// NormalSecretUses checks how a VM wants secrets and gives hosts in their one
// form. Returns InvalidArgument.
func NormalSecretUses(field string, uses []SecretUse) ([]SecretUse, error) {
	if len(uses) > MaxSecretUses {
		return nil, invalid(field, "%d secrets, at most %d are allowed", len(uses), MaxSecretUses)
	}
	out := slices.Clone(uses)
	seen := map[string]bool{}
	for i := range out {
		u := &out[i]
		if err := ValidateSecretName(field+".name", u.Name); err != nil {
			return nil, err
		}
		if !envForm.MatchString(u.Env) {
			return nil, invalid(field+".env", "%q is not the name of an environment variable", clip(u.Env, 64))
		}
		if seen[u.Env] {
			return nil, invalid(field+".env", "two secrets are wanted as %s", u.Env)
		}
		seen[u.Env] = true
		if len(u.Hosts) > MaxSecretHosts {
			return nil, invalid(field+".hosts", "%d hosts, at most %d are allowed", len(u.Hosts), MaxSecretHosts)
		}
		u.Hosts = slices.Clone(u.Hosts)
		for j, h := range u.Hosts {
			name, ok := normalDomain(h)
			if !ok {
				return nil, invalid(field+".hosts", "%q is not a domain", clip(h, 64)).WithHint("such as api.example.com, or *.example.com for all below")
			}
			u.Hosts[j] = name
		}
	}
	return out, nil
}

// BoundSecret is a secret's value that leaves in the place of its placeholder,
// in requests to its hosts.
type BoundSecret struct {
	Placeholder string   `json:"placeholder"`
	Value       string   `json:"value"`
	Hosts       []string `json:"hosts"` // in their normal form
}

// Egress is what a machine may reach, and the secrets that its requests leave with.
type Egress struct {
	Policy  EgressPolicy  `json:"policy"` // in its normal form
	Secrets []BoundSecret `json:"secrets,omitempty"`
	Rules   []HeaderRule  `json:"rules,omitempty"` // those of the policy, with their values
	Proxy   *EgressProxy  `json:"proxy,omitempty"` // that of the policy, with its password
}

// IsZero reports whether it is the default.
func (e Egress) IsZero() bool {
	return e.Policy.IsZero() && len(e.Secrets) == 0 && len(e.Rules) == 0 && e.Proxy == nil
}

// ValidateSecretName checks the name of a stored secret.
func ValidateSecretName(field, name string) error {
	if name == "" {
		return invalid(field, "a name is needed")
	}
	return ValidateName(field, name)
}

// EgressEntry is one line of a VM's egress log: a connection, a name asked for,
// or a packet that began a flow.
type EgressEntry struct {
	Seq     int64  `json:"seq"`     // rises within a VM's log
	At      int64  `json:"at"`      // microseconds since 1970 UTC
	Verdict string `json:"verdict"` // "allow", "deny", "end", "gap"
	// Via is who decided: "kernel" by addresses, "dns", "tls", "http", or
	// "tcp" for a proxied connection that names no host.
	Via    string `json:"via"`
	Proto  string `json:"proto"`            // "tcp", "udp", "icmp", "dns", or the IP protocol's number
	Name   string `json:"name,omitempty"`   // the host asked for
	Addr   string `json:"addr,omitempty"`   // where it went or wanted to go
	Port   uint16 `json:"port,omitempty"`   // TCP and UDP
	Rule   string `json:"rule,omitempty"`   // the policy's entry that decided; empty: none did
	Reason string `json:"reason,omitempty"` // why it was denied: one of EgressReasons
	// Learned says that only learning let it pass.
	Learned bool  `json:"learned,omitempty"`
	Sent    int64 `json:"sent,omitempty"`     // bytes, of a connection's end
	Got     int64 `json:"received,omitempty"` // bytes, of a connection's end
	// Count is how many of the same came within a second; 0: one. Of a gap: how
	// many entries are missing.
	Count int `json:"count,omitempty"`
}

// The reasons of a denial.
const (
	EgressPolicyDenied = "policy"      // an entry of Deny
	EgressPrivate      = "private"     // the operator refuses the address: private, special, the host, another VM
	EgressQUIC         = "quic"        // UDP 443, which hides the host's name, of a VM whose policy has names
	EgressECH          = "ech"         // an encrypted ClientHello, which hides the host's name
	EgressNoName       = "no_name"     // names decide, and the connection tells none
	EgressMismatch     = "mismatch"    // a request names another host than its connection
	EgressUnresolved   = "unresolved"  // the name has no address
	EgressUnreachable  = "unreachable" // nobody answers there
	EgressDNSType      = "dns_type"    // a kind of question that is not passed on
	EgressBusy         = "busy"        // more connections than one VM may have
)

// The verdicts.
const (
	EgressAllow = "allow"
	EgressDeny  = "deny"
	EgressEnd   = "end" // of a proxied connection that was allowed
	EgressGap   = "gap" // entries were too many to be kept
)
