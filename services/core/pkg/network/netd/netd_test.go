package netd_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd"
)

// resolver is an upstream on loopback with a handler of the test's.
func resolver(t *testing.T, handler dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	packets, stream := sockets(t)
	at := packets.LocalAddr().(*net.UDPAddr).AddrPort()
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: stream, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return at
}

// sockets are one of each transport that have the same port. A port that is
// free for the one may be in use of the other, as by a connection of another
// process: it is looked for until one is free for both.
func sockets(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 100 {
		packets, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		stream, err := net.Listen("tcp4", packets.LocalAddr().String())
		if err == nil {
			return packets, stream
		}
		_ = packets.Close()
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
	t.Fatal("no port of loopback is free for UDP and TCP")
	return nil, nil
}

// serve runs netd on a loopback address of its own; last is that address's last octet.
func serve(t *testing.T, last byte, change func(*netd.Config)) netip.AddrPort {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("port 53 needs root")
	}
	cfg := netd.Config{
		Listen: netip.AddrFrom4([4]byte{127, 77, 53, last}), Clients: netip.MustParsePrefix("127.0.0.0/8"),
		LockFile: filepath.Join(t.TempDir(), "lock"), Control: filepath.Join(t.TempDir(), "control"), LogDir: t.TempDir(),
	}
	if err := os.WriteFile(cfg.LockFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	change(&cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- netd.Run(ctx, cfg, slog.New(slog.DiscardHandler), func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return netip.AddrPortFrom(cfg.Listen, 53)
}

func ask(t *testing.T, at netip.AddrPort, transport string, q *dns.Msg) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: transport, Timeout: 20 * time.Second}
	a, _, err := c.Exchange(q, at.String())
	if err != nil {
		t.Fatalf("%s: %v", transport, err)
	}
	return a
}

func TestOnlyTheQuestionGoesOut(t *testing.T) {
	t.Parallel()
	got := make(chan *dns.Msg, 1)
	up := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		got <- q
		a := new(dns.Msg).SetReply(q)
		a.Question[0].Name = strings.ToLower(a.Question[0].Name)
		_ = w.WriteMsg(a)
	})
	at := serve(t, 1, func(c *netd.Config) { c.Resolvers = []netip.AddrPort{up} })
	q := new(dns.Msg).SetQuestion("ExAmPle.test.", dns.TypeA)
	q.SetEdns0(4096, true)
	opt := q.IsEdns0()
	opt.Option = append(opt.Option, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 32, Address: net.IPv4(10, 0, 0, 1)})
	a := ask(t, at, "udp", q)
	seen := <-got
	if seen.Id == q.Id {
		t.Error("the machine's query ID went out")
	}
	if o := seen.IsEdns0(); o == nil || len(o.Option) != 0 || !o.Do() {
		t.Errorf("what went out has %v", o)
	}
	if a.Id != q.Id || a.Question[0].Name != "ExAmPle.test." {
		t.Errorf("the answer is not to the question: %v", a)
	}
}

func TestQueriesThatAreRefused(t *testing.T) {
	t.Parallel()
	up := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		t.Errorf("went out: %v", q.Question)
		_ = w.WriteMsg(new(dns.Msg).SetReply(q))
	})
	at := serve(t, 2, func(c *netd.Config) { c.Resolvers = []netip.AddrPort{up} })
	for name, tc := range map[string]struct {
		change func(*dns.Msg)
		rcode  int
	}{
		"ANY":           {func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeANY }, dns.RcodeRefused},
		"a zone":        {func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
		"Chaos":         {func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"two questions": {func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) }, dns.RcodeFormatError},
		"an update":     {func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
	} {
		q := new(dns.Msg).SetQuestion("example.test.", dns.TypeA)
		tc.change(q)
		if a := ask(t, at, "udp", q); a.Rcode != tc.rcode {
			t.Errorf("%s: %s", name, dns.RcodeToString[a.Rcode])
		}
	}
}

func TestTheNextResolverIsAsked(t *testing.T) {
	t.Parallel()
	good := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(203, 0, 113, 1)}}
		_ = w.WriteMsg(a)
	})
	failing := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
	})
	lying := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		a.Question[0].Name = "other.test."
		_ = w.WriteMsg(a)
	})
	at := serve(t, 3, func(c *netd.Config) { c.Resolvers = []netip.AddrPort{failing, lying, good} })
	if a := ask(t, at, "udp", new(dns.Msg).SetQuestion("example.test.", dns.TypeA)); len(a.Answer) != 1 {
		t.Errorf("%v", a)
	}
}

func TestOneClientCannotTakeAll(t *testing.T) {
	t.Parallel()
	let := make(chan struct{})
	up := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if strings.HasPrefix(q.Question[0].Name, "slow") {
			<-let
		}
		_ = w.WriteMsg(new(dns.Msg).SetReply(q))
	})
	at := serve(t, 4, func(c *netd.Config) { c.Resolvers = []netip.AddrPort{up} })
	// More than one client may have: those beyond the bound are told so at once.
	const n = 100
	refused := make(chan struct{}, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			a := ask(t, at, "udp", new(dns.Msg).SetQuestion(fmt.Sprintf("slow%d.test.", i), dns.TypeA))
			if a.Rcode == dns.RcodeServerFailure {
				refused <- struct{}{}
			}
		})
	}
	for range n - 64 {
		<-refused
	}
	// Another client is served meanwhile.
	c := &dns.Client{Timeout: 20 * time.Second, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 99)}}}
	if a, _, err := c.Exchange(new(dns.Msg).SetQuestion("quick.test.", dns.TypeA), at.String()); err != nil || a.Rcode != dns.RcodeSuccess {
		t.Errorf("another client: %v %v", a, err)
	}
	close(let)
	wg.Wait()
	// On a host that is slow all of those may have waited for too long; now nothing waits.
	if a := ask(t, at, "udp", new(dns.Msg).SetQuestion("slow.test.", dns.TypeA)); a.Rcode != dns.RcodeSuccess {
		t.Errorf("nothing is answered: %v", a)
	}
}

func TestASecondNetdDoesNotServe(t *testing.T) {
	t.Parallel()
	var first netd.Config
	serve(t, 5, func(c *netd.Config) { first = *c })
	raw, err := os.ReadFile(first.LockFile)
	if err != nil || string(raw) != fmt.Sprintf("%d\n", os.Getpid()) {
		t.Errorf("the lock file says %q, %v", raw, err)
	}
	first.Listen = netip.MustParseAddr("127.77.53.6")
	err = netd.Run(context.Background(), first, slog.New(slog.DiscardHandler), func() { t.Error("ready") })
	if !errors.HasCode(err, errors.Conflict) {
		t.Errorf("%v", err)
	}
	gone := first
	gone.LockFile += "-gone"
	err = netd.Run(context.Background(), gone, slog.New(slog.DiscardHandler), func() { t.Error("ready") })
	if !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("%v", err)
	}
}

func TestStrangersGetNoAnswer(t *testing.T) {
	t.Parallel()
	up := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetReply(q)) })
	at := serve(t, 7, func(c *netd.Config) {
		c.Resolvers, c.Clients = []netip.AddrPort{up}, netip.MustParsePrefix("127.0.0.2/32")
	})
	// One socket asks as a stranger, then another as a client: netd reads in order.
	stranger, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 3)}, net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Close() }()
	q, err := new(dns.Msg).SetQuestion("example.test.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Write(q); err != nil {
		t.Fatal(err)
	}
	c := &dns.Client{Timeout: 20 * time.Second, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}}}
	if _, _, err := c.Exchange(new(dns.Msg).SetQuestion("example.test.", dns.TypeA), at.String()); err != nil {
		t.Fatal(err)
	}
	_ = stranger.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := stranger.Read(make([]byte, 512)); err == nil {
		t.Errorf("a stranger got %d bytes", n)
	}
}

func TestNameservers(t *testing.T) {
	t.Parallel()
	conf := "# comment\nnameserver 127.0.0.53\nsearch example.test\nnameserver 192.0.2.1\nnameserver\nnameserver bad\nnameserver 2001:db8::1\n"
	if got := fmt.Sprint(netd.Nameservers([]byte(conf))); got != "[192.0.2.1 2001:db8::1]" {
		t.Error(got)
	}
}

func TestConfigIsJSON(t *testing.T) {
	t.Parallel()
	want := netd.Config{
		Listen: netip.MustParseAddr("10.1.0.1"), Clients: netip.MustParsePrefix("10.1.0.0/20"), LockFile: "/l", User: 7,
		Resolvers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")},
	}
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got netd.Config
	if err := json.Unmarshal(raw, &got); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v %v", got, err)
	}
	for field, bad := range map[string]netd.Config{
		"listen": {Clients: want.Clients, LockFile: "/l"}, "clients": {Listen: want.Listen, LockFile: "/l"}, "lock_file": {Listen: want.Listen, Clients: want.Clients},
	} {
		if e := errors.Public(bad.Validate()); e.Field != field {
			t.Errorf("%s: %v", field, e)
		}
	}
}
