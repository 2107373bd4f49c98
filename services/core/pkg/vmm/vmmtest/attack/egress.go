package attack

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// egressAttacks are ways around a policy that allows one name and nothing else,
// by way of the machine's own network stack.
var egressAttacks = map[string]func(*testing.T, *bed, *machine){
	"requests in others":     attackRequests,
	"hidden names":           attackHidden,
	"questions":              attackQuestions,
	"the proxy itself":       attackProxy,
	"names that lead inward": attackInward,
}

// allowedName is the only one that the policy allows, refusedName is another's.
const (
	allowedName = "allowed.test"
	refusedName = "refused.test"
)

// policed puts a machine under a policy and gives the way through its network stack.
func (b *bed) policed(t *testing.T, m *machine, p domain.EgressPolicy) *relay {
	t.Helper()
	normal, err := p.Normal("egress")
	if err != nil {
		t.Fatal(err)
	}
	c, ok := b.Driver.(vmm.EgressController)
	if !ok {
		t.Fatal("the driver has the capability and no way to say a policy")
	}
	if err := c.SetEgress(limited(t), m.id, domain.Egress{Policy: normal}); err != nil {
		t.Fatal(err)
	}
	m.begin(t, "relay", fmt.Sprint(relayPort)).until("ready")
	return &relay{t: t, m: m}
}

func onlyAllowed() domain.EgressPolicy {
	return domain.EgressPolicy{Allow: []string{allowedName}, Deny: []string{"*"}}
}

const relayPort = 1080

// relay makes connections from inside a machine.
type relay struct {
	t *testing.T
	m *machine
}

// errRefused: the machine's kernel did not connect.
var errRefused = errors.New("no connection")

// dial connects as root in the machine does.
func (r *relay) dial(to netip.AddrPort) (net.Conn, error) {
	r.t.Helper()
	ctx := limited(r.t)
	c, err := r.m.client.DialPort(ctx, relayPort)
	if err != nil {
		r.t.Fatalf("the way into the machine: %v", err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	end, _ := ctx.Deadline()
	_ = c.SetDeadline(end)
	if _, err := fmt.Fprintf(c, "tcp4 %s\n", to); err != nil {
		r.t.Fatal(err)
	}
	in := bufio.NewReader(c)
	line, err := in.ReadString('\n')
	if err != nil {
		r.t.Fatalf("the way into the machine: %v", err)
	}
	if line != "+\n" {
		return nil, fmt.Errorf("%w: %s", errRefused, strings.TrimSpace(line))
	}
	return &buffered{c, in}, nil
}

type buffered struct {
	net.Conn
	in *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// requests sends text and gives the statuses of what comes back until the end.
func (r *relay) requests(to netip.AddrPort, text string) (statuses []int) {
	r.t.Helper()
	c, err := r.dial(to)
	if err != nil {
		return nil
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		return nil
	}
	for in := bufio.NewReader(c); ; {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return statuses
		}
		statuses = append(statuses, resp.StatusCode)
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
}

// answered sends bytes and reports whether any came back.
func (r *relay) answered(to netip.AddrPort, raw []byte) bool {
	r.t.Helper()
	c, err := r.dial(to)
	if err != nil {
		return false
	}
	defer c.Close()
	if _, err := c.Write(raw); err != nil {
		return false
	}
	_, err = c.Read(make([]byte, 1))
	return err == nil
}

// attackRequests hides requests for another host in connections to an allowed one.
func attackRequests(t *testing.T, b *bed, m *machine) {
	r := b.policed(t, m, onlyAllowed())
	web := netip.AddrPortFrom(publicIP, 80)
	const good, other = "GET / HTTP/1.1\r\nHost: " + allowedName + "\r\n\r\n", "GET / HTTP/1.1\r\nHost: " + refusedName + "\r\n\r\n"
	const last = "GET / HTTP/1.1\r\nHost: " + allowedName + "\r\nConnection: close\r\n\r\n"
	post := func(headers, body string) string {
		return "POST / HTTP/1.1\r\nHost: " + allowedName + "\r\n" + headers + "\r\n" + body
	}
	b.Lab.Hits()
	for what, try := range map[string]struct{ text, want string }{
		"two that are allowed":        {good + last, "[200 200]"},
		"then another host":           {good + other, "[200 403]"},
		"absolute form":               {"GET http://" + refusedName + "/ HTTP/1.1\r\nHost: " + allowedName + "\r\n\r\n", "[403]"},
		"two hosts":                   {"GET / HTTP/1.1\r\nHost: " + allowedName + "\r\nHost: " + refusedName + "\r\n\r\n", "[400]"},
		"no host":                     {"GET / HTTP/1.1\r\n\r\n", "[400]"},
		"both lengths":                {post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+other), "[200 403] [400]"},
		"a length that hides another": {post("Content-Length: 0\r\nContent-Length: 44\r\n", other), "[400]"},
		"tunnel":                      {"CONNECT " + refusedName + ":443 HTTP/1.1\r\nHost: " + refusedName + ":443\r\n\r\n", "[405]"},
		"space before the colon":      {"GET / HTTP/1.1\r\nHost: " + allowedName + "\r\nHost : " + refusedName + "\r\n\r\n", "[400]"},
	} {
		if got := fmt.Sprint(r.requests(web, try.text)); !strings.Contains(try.want, got) {
			t.Errorf("%s: %s, not %s", what, got, try.want)
		}
	}
	// And where another server listens.
	if got := r.requests(netip.AddrPortFrom(publicIP, webPort), other); fmt.Sprint(got) != "[403]" {
		t.Errorf("another port: %v", got)
	}
	for _, h := range b.Lab.Hits() {
		if strings.Contains(h, refusedName) || !strings.Contains(h, ":80 ") {
			t.Error("a request got through:", h)
		}
	}
}

// attackHidden hides the name of a connection's other end.
func attackHidden(t *testing.T, b *bed, m *machine) {
	r := b.policed(t, m, onlyAllowed())
	secure := netip.AddrPortFrom(publicIP, 443)
	hello := clientHello(t, allowedName)
	for what, try := range map[string]struct {
		hello []byte
		open  bool
	}{
		"a plain hello":    {hello, true},
		"an encrypted one": {withExtension(hello, 0xfe0d, make([]byte, 64)), false}, // encrypted_client_hello
		"another's name":   {clientHello(t, refusedName), false},
		"no name":          {clientHello(t, ""), false},
		"no hello, a line": {[]byte("hello\r\n"), false},
	} {
		if got := r.answered(secure, try.hello); got != try.open {
			t.Errorf("%s: answered %v", what, got)
		}
	}
	// QUIC would hide it as well.
	b.connect(t, m, []target{{"QUIC", "udp", secure.String()}, {"a datagram", "udp", netip.AddrPortFrom(publicIP, dataPort).String()}})
	b.untouched(t)
}

// attackQuestions carries words out in names that are asked for.
func attackQuestions(t *testing.T, b *bed, m *machine) {
	r := b.policed(t, m, onlyAllowed())
	b.Lab.Questions()
	ask := func(server netip.Addr, name string, kind uint16) (*dns.Msg, error) {
		c, err := r.dial(netip.AddrPortFrom(server, 53))
		if err != nil {
			return nil, err
		}
		defer c.Close()
		conn := &dns.Conn{Conn: c}
		if err := conn.WriteMsg(new(dns.Msg).SetQuestion(name, kind)); err != nil {
			return nil, err
		}
		return conn.ReadMsg()
	}
	at := b.Attachment(m.id)
	if a, err := ask(at.DNS[0], allowedName+".", dns.TypeA); err != nil || a.Rcode != dns.RcodeSuccess {
		t.Fatalf("the allowed name: %v, %v", a, err)
	}
	// Whatever resolver is asked.
	for _, server := range []netip.Addr{at.DNS[0], resolverIP, metadataIPs[0]} {
		for _, kind := range []uint16{dns.TypeTXT, dns.TypeA, dns.TypeNULL, dns.TypeMX, dns.TypeCNAME, dns.TypeHTTPS} {
			if a, err := ask(server, "c2VjcmV0.tunnel.test.", kind); err == nil && a.Rcode != dns.RcodeRefused {
				t.Errorf("%s by %s: %v", dns.TypeToString[kind], server, a)
			}
		}
	}
	for _, q := range b.Lab.Questions() {
		if !strings.HasPrefix(q, allowedName+".") {
			t.Error("got out:", q)
		}
	}
}

// attackProxy speaks to the proxy's own ports.
func attackProxy(t *testing.T, b *bed, m *machine) {
	r := b.policed(t, m, onlyAllowed())
	at := b.Attachment(m.id)
	for _, port := range []uint16{9040, 9053} {
		if r.answered(netip.AddrPortFrom(at.Gateway, port), []byte("GET / HTTP/1.1\r\nHost: "+allowedName+"\r\n\r\n")) {
			t.Errorf("port %d answers who speaks to it itself", port)
		}
	}
}

// attackInward reaches for what the operator refuses by names that a policy allows.
func attackInward(t *testing.T, b *bed, m *machine) {
	r := b.policed(t, m, domain.EgressPolicy{Allow: append(slices.Collect(maps.Keys(names())), "*"), Deny: []string{"other.test"}})
	b.Lab.Hits()
	for name, to := range names() {
		if to == publicIP {
			continue
		}
		request := "GET / HTTP/1.1\r\nHost: " + name + "\r\nConnection: close\r\n\r\n"
		// By a name that it does not lead to, and by its own address.
		for _, ip := range []netip.Addr{publicIP, to.Unmap()} {
			if !ip.Is4() || ip.IsLoopback() || ip.IsUnspecified() {
				continue // the machine's own
			}
			got := r.requests(netip.AddrPortFrom(ip, 80), request)
			t.Logf("HTTP to %s for %s: %v", ip, name, got)
			if len(got) > 1 || len(got) == 1 && got[0] != http.StatusForbidden && got[0] != http.StatusBadGateway {
				t.Errorf("HTTP to %s for %s: %v", ip, name, got)
			}
		}
		if r.answered(netip.AddrPortFrom(publicIP, 443), clientHello(t, name)) {
			t.Errorf("TLS to %s is answered", name)
		}
	}
	for _, h := range b.Lab.Hits() {
		t.Error("a server was reached:", h)
	}
}

// clientHello is what a client would send first.
func clientHello(t *testing.T, name string) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		c := tls.Client(theirs, &tls.Config{ServerName: name, InsecureSkipVerify: name == ""}) //nolint:gosec // nobody answers
		_ = c.HandshakeContext(t.Context())
		_ = theirs.Close()
	}()
	_ = ours.SetDeadline(time.Now().Add(patience))
	raw := make([]byte, 16<<10)
	n, err := ours.Read(raw)
	if err != nil {
		t.Fatal(err)
	}
	return raw[:n]
}

// withExtension adds an extension to a ClientHello in one record (RFC 8446 §4.1.2).
func withExtension(record []byte, kind uint16, body []byte) []byte {
	const header = 5 + 4 // of the record, of the handshake
	b := append([]byte(nil), record...)
	at := header + 2 + 32
	at += 1 + int(b[at])                               // session ID
	at += 2 + int(binary.BigEndian.Uint16(b[at:at+2])) // cipher suites
	at += 1 + int(b[at])                               // compression
	add := binary.BigEndian.AppendUint16(nil, kind)
	add = append(binary.BigEndian.AppendUint16(add, uint16(len(body))), body...) //nolint:gosec // short
	b = append(b, add...)
	for _, length := range []int{at, 7, 3} { // of all extensions, of the handshake (its lower two bytes), of the record
		binary.BigEndian.PutUint16(b[length:], binary.BigEndian.Uint16(b[length:])+uint16(len(add))) //nolint:gosec // short
	}
	return b
}
