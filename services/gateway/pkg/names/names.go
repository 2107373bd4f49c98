// Package names is a small name server: it answers for one domain, and all
// below it, with the addresses where previews are served. It is for hosts whose
// resolver can be told to ask it for that domain.
package names

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	ttl            = 60 // seconds
	maxConnections = 64
	idle           = 10 * time.Second
	maxQuestions   = 128 // of one connection
)

// Server answers for a domain. It serves from [Listen] on until [Server.Close].
type Server struct {
	zone    string // with its final dot
	answers []netip.Addr
	udp     *dns.Server
	tcp     *dns.Server
	ended   chan error
}

// Listen serves a domain at one port of UDP and TCP, and answers with
// addresses. Returns Unavailable when the port is taken.
func Listen(ctx context.Context, address, domain string, answers []netip.Addr) (*Server, error) {
	failed := func(err error) (*Server, error) {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot serve names on %s", address).WithHint("is another name server running there?")
	}
	var lc net.ListenConfig
	stream, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return failed(err)
	}
	// The same port, also where any was asked for.
	packets, err := lc.ListenPacket(ctx, "udp", stream.Addr().String())
	if err != nil {
		_ = stream.Close()
		return failed(err)
	}
	s := &Server{zone: dns.Fqdn(strings.ToLower(domain)), answers: answers, ended: make(chan error, 2)}
	s.udp = &dns.Server{PacketConn: packets, Handler: s, UDPSize: dns.MinMsgSize}
	s.tcp = &dns.Server{
		Listener: netutil.LimitListener(stream, maxConnections), Handler: s,
		ReadTimeout: idle, WriteTimeout: idle, MaxTCPQueries: maxQuestions, IdleTimeout: func() time.Duration { return idle },
	}
	started := make(chan struct{}, 2)
	for _, d := range []*dns.Server{s.udp, s.tcp} {
		d.NotifyStartedFunc = func() { started <- struct{}{} }
		go func() { s.ended <- d.ActivateAndServe() }()
	}
	for range 2 {
		select {
		case <-started:
		case err := <-s.ended:
			_ = packets.Close()
			_ = stream.Close()
			return failed(err)
		}
	}
	return s, nil
}

// Addr is where it serves.
func (s *Server) Addr() net.Addr { return s.udp.PacketConn.LocalAddr() }

// Close ends serving.
func (s *Server) Close() error {
	err := errors.Join(s.udp.Shutdown(), s.tcp.Shutdown())
	for range 2 {
		err = errors.Join(err, <-s.ended)
	}
	return err
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	switch {
	case q.Opcode != dns.OpcodeQuery:
		m.SetRcode(q, dns.RcodeNotImplemented)
	case len(q.Question) != 1:
		m.SetRcode(q, dns.RcodeFormatError)
	case q.Question[0].Qclass != dns.ClassINET || !dns.IsSubDomain(s.zone, strings.ToLower(q.Question[0].Name)):
		m.SetRcode(q, dns.RcodeRefused) // it speaks for one domain, and asks nobody
	default:
		m.SetReply(q)
		m.Authoritative = true
		s.answer(m, q.Question[0])
	}
	_ = w.WriteMsg(m) // a client that has gone asks again
}

// answer gives the addresses of the kind that is asked for; of another kind
// there are none, which is said so that it can be remembered (RFC 2308).
func (s *Server) answer(m *dns.Msg, q dns.Question) {
	header := func(kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
	}
	for _, a := range s.answers {
		switch {
		case q.Qtype == dns.TypeA && a.Is4():
			m.Answer = append(m.Answer, &dns.A{Hdr: header(dns.TypeA), A: slices.Clone(a.AsSlice())})
		case q.Qtype == dns.TypeAAAA && a.Is6():
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(dns.TypeAAAA), AAAA: slices.Clone(a.AsSlice())})
		}
	}
	if len(m.Answer) == 0 {
		soa := &dns.SOA{Ns: s.zone, Mbox: "hostmaster." + s.zone, Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl}
		soa.Hdr = dns.RR_Header{Name: s.zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl}
		if q.Qtype == dns.TypeSOA && strings.EqualFold(q.Name, s.zone) {
			m.Answer = append(m.Answer, soa)
			return
		}
		m.Ns = append(m.Ns, soa)
	}
}
