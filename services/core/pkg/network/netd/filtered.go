package netd

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
)

// filtered answers machines whose policies have names in them, and only what
// these allow: a question for a refused name goes nowhere, so that nothing
// leaves in it. It answers REFUSED with an extended error (RFC 8914, Filtered),
// at which stub resolvers give up at once.
//
// There is no IPv6, so that AAAA is answered empty, and so are HTTPS and SVCB,
// which would offer QUIC and keys for an encrypted ClientHello. Addresses that
// the operator refuses are left out.
type filtered struct {
	*forwarder
	machines *machines
	floor    *floor
}

// ServeDNS implements [dns.Handler].
func (f *filtered) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	client, stream, ok := clientOf(w.RemoteAddr())
	if !ok || !f.clients.Contains(client) {
		return
	}
	f.reply(w, query, stream, f.answer(client, query, stream))
}

func (f *filtered) answer(client netip.Addr, query *dns.Msg, stream bool) *dns.Msg {
	m, known := f.machines.find(client)
	if !known {
		return new(dns.Msg).SetRcode(query, dns.RcodeRefused) // nobody said what it may ask
	}
	if rcode := judge(query); rcode != dns.RcodeSuccess {
		return new(dns.Msg).SetRcode(query, rcode)
	}
	q := query.Question[0]
	name := strings.TrimSuffix(strings.ToLower(q.Name), ".")
	d := m.Rules().Name(labels(name))
	note := func(verdict, reason string) {
		m.Note(domain.EgressEntry{Verdict: verdict, Via: "dns", Proto: "dns", Name: clipName(name), Rule: d.Rule, Reason: reason, Learned: d.Learned})
	}
	if !d.Allow {
		note(domain.EgressDeny, d.Reason)
		return refusal(query)
	}
	if !passes(q.Qtype) {
		note(domain.EgressDeny, domain.EgressDNSType)
		return refusal(query)
	}
	note(domain.EgressAllow, "")
	switch q.Qtype {
	case dns.TypeAAAA, dns.TypeHTTPS, dns.TypeSVCB:
		return new(dns.Msg).SetReply(query)
	}
	done, ok := f.queries.enter(client)
	if !ok {
		return new(dns.Msg).SetRcode(query, dns.RcodeServerFailure)
	}
	defer done()
	answer := f.resolve(context.Background(), f.asked(m.Rules()), query, stream)
	answer.Answer = f.reachable(answer.Answer)
	answer.Extra = f.reachable(answer.Extra)
	return answer
}

// asked gives whom a machine's names are asked of. Its own servers are held to
// what the operator lets it reach: to the kernel, netd may ask anybody.
func (f *filtered) asked(r *egress.Rules) []netip.AddrPort {
	own := r.Resolvers()
	if len(own) == 0 {
		return f.upstreams.now()
	}
	return slices.DeleteFunc(slices.Clone(own), func(s netip.AddrPort) bool { return f.floor.refuses(s.Addr()) })
}

// passes reports whether a kind of question is passed on.
func passes(t uint16) bool {
	switch t {
	case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeMX, dns.TypeTXT, dns.TypeSRV, dns.TypeNS, dns.TypeSOA, dns.TypePTR,
		dns.TypeCAA, dns.TypeHTTPS, dns.TypeSVCB, dns.TypeNAPTR, dns.TypeDS, dns.TypeDNSKEY, dns.TypeTLSA, dns.TypeURI:
		return true
	}
	return false
}

// reachable leaves out addresses that nobody reaches, and what there is no use for.
func (f *filtered) reachable(records []dns.RR) []dns.RR {
	kept := records[:0]
	for _, rr := range records {
		switch rr := rr.(type) {
		case *dns.A:
			if ip, ok := netip.AddrFromSlice(rr.A.To4()); !ok || f.floor.refuses(ip) {
				continue
			}
		case *dns.AAAA, *dns.HTTPS, *dns.SVCB:
			continue
		}
		kept = append(kept, rr)
	}
	return kept
}

// refusal says that a name is not to be asked for.
func refusal(query *dns.Msg) *dns.Msg {
	answer := new(dns.Msg).SetRcode(query, dns.RcodeRefused)
	if opt := query.IsEdns0(); opt != nil {
		answer.SetEdns0(ednsSize, opt.Do())
		answer.IsEdns0().Option = append(answer.IsEdns0().Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeFiltered, ExtraText: "refused by the egress policy"})
	}
	return answer
}

// labels gives a name as rules compare it: a byte that is escaped in a name's
// text, which could be a dot inside a label, is no dot there.
func labels(name string) string {
	if !strings.Contains(name, `\`) {
		return name
	}
	var out strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] != '\\' {
			out.WriteByte(name[i])
			continue
		}
		out.WriteByte('?')
		if rest := name[i+1:]; len(rest) >= 3 && strings.Trim(rest[:3], "0123456789") == "" {
			i += 3
		} else {
			i++
		}
	}
	return out.String()
}

// clipName keeps an entry's name within what a name can have.
func clipName(name string) string { return name[:min(len(name), 255)] }
