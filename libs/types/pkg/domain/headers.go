package domain

import (
	"maps"
	"net/textproto"
	"regexp"
	"slices"
	"strings"
)

// HeaderRule sets headers of a VM's HTTPS requests to a host on their way, so
// that what they say never is in the VM.
type HeaderRule struct {
	// Host is a domain, or one with *. in front: every name below it. Of the
	// rules that match a host the exact one counts, else the one with the longest
	// domain; no other.
	Host string `json:"host"`
	// Headers, by name, take the place of those that a request has.
	Headers map[string]string `json:"headers"`
}

// The bounds on header rules.
const (
	MaxHeaderRules     = 64
	MaxRuleHeaders     = 32 // of one
	MaxRuleHeaderBytes = 64 << 10
)

// headerNameForm is a token (RFC 9110 §5.6.2).
var headerNameForm = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")

// unsettable reports whether a header is of the connection, or says where a
// request begins, ends or goes.
func unsettable(name string) bool {
	switch name {
	case "Connection", "Content-Length", "Expect", "Host", "Http2-Settings", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// NormalHeaderRules gives rules in their one form, in the order of their
// hosts. Returns InvalidArgument, without any value.
func NormalHeaderRules(field string, rules []HeaderRule) ([]HeaderRule, error) {
	if len(rules) > MaxHeaderRules {
		return nil, invalid(field, "%d hosts, at most %d are allowed", len(rules), MaxHeaderRules)
	}
	var out []HeaderRule
	size := 0
	for _, r := range rules {
		host, ok := normalDomain(r.Host)
		if !ok {
			return nil, invalid(field, "%q is not a domain", clip(r.Host, 64)).WithHint("such as api.example.com, or *.example.com for all below")
		}
		if slices.ContainsFunc(out, func(o HeaderRule) bool { return o.Host == host }) {
			return nil, invalid(field, "there are two rules for %s", host)
		}
		if len(r.Headers) == 0 || len(r.Headers) > MaxRuleHeaders {
			return nil, invalid(field, "%d headers for %s, 1 to %d are allowed", len(r.Headers), host, MaxRuleHeaders)
		}
		n := HeaderRule{Host: host, Headers: make(map[string]string, len(r.Headers))}
		for text, value := range r.Headers {
			name := textproto.CanonicalMIMEHeaderKey(text)
			if !headerNameForm.MatchString(name) || unsettable(name) {
				return nil, invalid(field, "%q is not a header that can be set", clip(text, 64))
			}
			if _, twice := n.Headers[name]; twice {
				return nil, invalid(field, "the header %s is set twice for %s", name, host)
			}
			if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
				return nil, invalid(field, "the value of the header %s has a control character", name)
			}
			n.Headers[name] = strings.Trim(value, " \t")
			size += len(name) + len(value)
		}
		out = append(out, n)
	}
	if size > MaxRuleHeaderBytes {
		return nil, invalid(field, "the headers have %d bytes, at most %d are allowed", size, MaxRuleHeaderBytes)
	}
	slices.SortFunc(out, func(a, b HeaderRule) int { return strings.Compare(a.Host, b.Host) })
	return out, nil
}

// WithoutValues gives the policy without what its headers say and its proxy's
// password: they are secret.
func (p EgressPolicy) WithoutValues() EgressPolicy {
	if p.Proxy != nil {
		p.Proxy = &EgressProxy{Address: p.Proxy.Address, Username: p.Proxy.Username}
	}
	p.Rules = slices.Clone(p.Rules)
	for i, r := range p.Rules {
		p.Rules[i].Headers = make(map[string]string, len(r.Headers))
		for name := range maps.Keys(r.Headers) {
			p.Rules[i].Headers[name] = ""
		}
	}
	return p
}

// Hidden stands for a secret value in a policy that is told, and in one that is
// set for the value that there is.
const Hidden = "***"

// Told gives the rule's headers without what they say.
func (r HeaderRule) Told() map[string]string {
	told := make(map[string]string, len(r.Headers))
	for name := range r.Headers {
		told[name] = Hidden
	}
	return told
}

// Keeping gives the policy with the values of another in the place of those that
// are hidden: of the same header for the same host, of the same user at the same
// proxy. Returns InvalidArgument where there is none.
func (p EgressPolicy) Keeping(field string, was EgressPolicy) (EgressPolicy, error) {
	p.Rules = slices.Clone(p.Rules)
	for i, r := range p.Rules {
		headers := maps.Clone(r.Headers)
		for name, value := range headers {
			if value != Hidden {
				continue
			}
			at := slices.IndexFunc(was.Rules, func(o HeaderRule) bool { return o.Host == r.Host })
			kept, ok := "", false
			if at >= 0 {
				kept, ok = was.Rules[at].Headers[name]
			}
			if !ok {
				return p, invalid(field+".rules", "the header %s for %s has no value that could stay", name, r.Host).
					WithHint("%s stands for the value that there is; give one", Hidden)
			}
			headers[name] = kept
		}
		p.Rules[i].Headers = headers
	}
	if p.Proxy != nil && p.Proxy.Password == Hidden {
		if was.Proxy == nil || was.Proxy.Address != p.Proxy.Address || was.Proxy.Username != p.Proxy.Username {
			return p, invalid(field+".proxy.password", "this user of this proxy has no password that could stay").
				WithHint("%s stands for the password that there is; give one", Hidden)
		}
		proxy := *p.Proxy
		proxy.Password = was.Proxy.Password
		p.Proxy = &proxy
	}
	return p, nil
}
