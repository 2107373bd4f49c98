package netd

import (
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// answers keeps what would be sent.
type answers struct {
	dns.ResponseWriter
	from net.Addr
	sent []*dns.Msg
}

func (a *answers) RemoteAddr() net.Addr        { return a.from }
func (a *answers) WriteMsg(m *dns.Msg) error   { a.sent = append(a.sent, m); return nil }
func (a *answers) Write(b []byte) (int, error) { return len(b), nil }

// Whatever a guest sends as a query gets one answer to it, of a size that it
// may have, or none.
func FuzzQuery(f *testing.F) {
	for _, q := range []*dns.Msg{
		new(dns.Msg).SetQuestion("example.com.", dns.TypeA),
		new(dns.Msg).SetQuestion(".", dns.TypeANY).SetEdns0(65535, true),
		new(dns.Msg).SetAxfr("example.com."),
		new(dns.Msg),
	} {
		wire, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Add([]byte{})
	cfg := Config{Clients: netip.MustParsePrefix("10.0.0.0/24")}
	up := newUpstreams([]netip.AddrPort{}, cfg.Clients, nil)
	forward := newForwarder(cfg, up)
	f.Fuzz(func(t *testing.T, wire []byte) {
		query := new(dns.Msg)
		if query.Unpack(wire) != nil {
			return
		}
		for name, from := range map[string]net.Addr{
			"udp": &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 1}, "tcp": &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 1},
		} {
			w := &answers{from: from}
			forward.ServeDNS(w, query)
			if len(w.sent) != 1 || w.sent[0].Id != query.Id || !w.sent[0].Response {
				t.Fatalf("%s: %v", name, w.sent)
			}
			out, err := w.sent[0].Pack()
			if err == nil && name == "udp" && len(out) > ednsSize {
				t.Errorf("an answer of %d bytes", len(out))
			}
		}
		stranger := &answers{from: &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}}
		forward.ServeDNS(stranger, query)
		if len(stranger.sent) > 0 {
			t.Error("a stranger got an answer")
		}
	})
}
