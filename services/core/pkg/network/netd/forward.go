package netd

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// The bounds on what machines can make netd do.
const (
	maxQueries              = 512 // under way
	maxQueriesPerClient     = 64
	maxConnections          = 256
	maxConnectionsPerClient = 16

	streamIdle    = 5 * time.Second
	tryFor        = 2 * time.Second // one resolver, at most
	answerWithin  = 6 * time.Second // all of them
	maxResolvers  = 3               // MAXNS of resolv.conf(5)
	ednsSize      = 1232            // DNS Flag Day 2020: fits IPv6's minimum MTU
	minAnswerSize = dns.MinMsgSize
)

// forwarder answers a query with what a resolver says.
type forwarder struct {
	clients   netip.Prefix
	upstreams *upstreams
	queries   *limiter
}

func newForwarder(cfg Config, up *upstreams) *forwarder {
	return &forwarder{clients: cfg.Clients, upstreams: up, queries: newLimiter(maxQueries, maxQueriesPerClient)}
}

// ServeDNS implements [dns.Handler].
func (f *forwarder) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	client, stream, ok := clientOf(w.RemoteAddr())
	if !ok || !f.clients.Contains(client) {
		return // not one of ours: not even a no
	}
	var answer *dns.Msg
	if rcode := judge(query); rcode != dns.RcodeSuccess {
		answer = new(dns.Msg).SetRcode(query, rcode)
	} else if done, ok := f.queries.enter(client); !ok {
		answer = new(dns.Msg).SetRcode(query, dns.RcodeServerFailure)
	} else {
		answer = f.resolve(context.Background(), f.upstreams.now(), query, stream)
		done()
	}
	f.reply(w, query, stream, answer)
}

// reply sends an answer in the size that the client can take.
func (f *forwarder) reply(w dns.ResponseWriter, query *dns.Msg, stream bool, answer *dns.Msg) {
	size := dns.MaxMsgSize
	if !stream {
		size = minAnswerSize
		if opt := query.IsEdns0(); opt != nil {
			size = min(max(size, int(opt.UDPSize())), ednsSize)
		}
	}
	answer.Compress = true
	answer.Truncate(size)
	_ = w.WriteMsg(answer) // a client that went away misses its answer
}

// judge says what is wrong with a query. The library has refused responses,
// other operations and other counts of questions before.
func judge(query *dns.Msg) int {
	if len(query.Question) != 1 {
		return dns.RcodeFormatError
	}
	q := query.Question[0]
	if q.Qclass != dns.ClassINET {
		return dns.RcodeRefused
	}
	switch q.Qtype {
	case dns.TypeAXFR, dns.TypeIXFR, dns.TypeANY, dns.TypeMAILA, dns.TypeMAILB, dns.TypeTKEY, dns.TypeTSIG:
		return dns.RcodeRefused // whole zones and RFC 8482
	}
	return dns.RcodeSuccess
}

// resolve asks the resolvers in turn. What goes out is a new message with the
// question; what comes back gets the query's ID.
func (f *forwarder) resolve(ctx context.Context, resolvers []netip.AddrPort, query *dns.Msg, stream bool) *dns.Msg {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	out := new(dns.Msg)
	out.Id = dns.Id()
	out.RecursionDesired = query.RecursionDesired
	out.CheckingDisabled = query.CheckingDisabled
	out.AuthenticatedData = query.AuthenticatedData
	out.Question = query.Question
	edns := query.IsEdns0()
	out.SetEdns0(ednsSize, edns != nil && edns.Do())

	var last *dns.Msg
	wait := min(tryFor, answerWithin/time.Duration(max(1, len(resolvers)))) // the last one is asked too
	for _, to := range resolvers {
		answer, err := exchange(ctx, "udp", to, out, wait)
		if err == nil && answer.Truncated && stream {
			answer, err = exchange(ctx, "tcp", to, out, wait)
		}
		if err != nil {
			continue
		}
		last = answer
		if answer.Rcode != dns.RcodeServerFailure && answer.Rcode != dns.RcodeRefused {
			break
		}
	}
	if last == nil {
		return new(dns.Msg).SetRcode(query, dns.RcodeServerFailure)
	}
	last.Id = query.Id
	last.Question = query.Question // the client's own spelling (0x20)
	last.Extra = withoutOPT(last.Extra)
	if edns != nil {
		last.SetEdns0(ednsSize, edns.Do())
	}
	return last
}

// exchange asks one resolver. Each question goes out from a port of its own.
// An answer to another question is none.
func exchange(ctx context.Context, network string, to netip.AddrPort, out *dns.Msg, wait time.Duration) (*dns.Msg, error) {
	c := &dns.Client{Net: network, Timeout: wait, UDPSize: ednsSize}
	answer, _, err := c.ExchangeContext(ctx, out, to.String())
	if err != nil {
		return nil, err
	}
	q := out.Question[0]
	if !answer.Response || len(answer.Question) != 1 || answer.Question[0].Qtype != q.Qtype ||
		answer.Question[0].Qclass != q.Qclass || !strings.EqualFold(answer.Question[0].Name, q.Name) {
		return nil, dns.ErrId
	}
	return answer, nil
}

func withoutOPT(extra []dns.RR) []dns.RR {
	kept := extra[:0]
	for _, rr := range extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	return kept
}

func clientOf(a net.Addr) (ip netip.Addr, stream, ok bool) {
	switch a := a.(type) {
	case *net.UDPAddr:
		p := a.AddrPort()
		return p.Addr().Unmap(), false, true
	case *net.TCPAddr:
		p := a.AddrPort()
		return p.Addr().Unmap(), true, true
	}
	return netip.Addr{}, false, false
}
