package attack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/services/core/pkg/network"
)

// The addresses of the lab. All of them live in namespaces without a route out.
var (
	hostIP     = netip.MustParseAddr("198.51.100.2")
	routerIP   = netip.MustParseAddr("198.51.100.1")
	publicIP   = netip.MustParseAddr("203.0.113.10")
	resolverIP = netip.MustParseAddr("203.0.113.53")
	dockerIP   = netip.MustParseAddr("172.17.0.1") // another bridge of the host
	// What clouds answer about an instance at, and hosts of private networks.
	metadataIPs = []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("169.254.170.2"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("192.0.0.192")}
	privateIPs  = []netip.Addr{netip.MustParseAddr("10.99.0.1"), netip.MustParseAddr("172.16.5.5"), netip.MustParseAddr("192.168.77.1"), netip.MustParseAddr("100.64.9.9"), netip.MustParseAddr("198.18.0.1")}
	ipv6s       = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("2001:db8::10")}
)

const webPort, dataPort, echoPort = 8080, 9000, 7

// abstractName is a socket of the host in the abstract namespace.
const abstractName = "@aetherium-lab-host"

// Lab is a host with a fake internet behind its only uplink: metadata
// addresses, private hosts, a public one, and a resolver whose names lead to
// all of them. Whoever reaches one of its servers is written down.
type Lab struct {
	t    testing.TB
	inet string // the internet's network namespace

	mu    sync.Mutex
	asked []string      // each name that the resolver was asked for
	hits  []string      // "where to <- from" of each connection and datagram
	came  chan struct{} // closed and made anew with each
}

// NewLab makes the lab in the calling process's network namespace.
func NewLab(t testing.TB) *Lab {
	t.Helper()
	l := &Lab{t: t, came: make(chan struct{})}
	holder := exec.CommandContext(context.WithoutCancel(t.Context()), "cat")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	stdin, err := holder.StdinPipe()
	l.must(err)
	l.must(holder.Start())
	t.Cleanup(func() { _ = stdin.Close(); _ = holder.Wait() })
	l.inet = fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)

	l.must(up("lo"))
	l.in(func(host int) error {
		if err := up("lo"); err != nil {
			return err
		}
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "down0"}, PeerName: "up0", PeerNamespace: netlink.NsFd(host)})
		if err != nil {
			return err
		}
		addresses := []string{routerIP.String() + "/24", "2001:db8:1::1/64"}
		for _, ip := range slices.Concat(metadataIPs, privateIPs, []netip.Addr{publicIP, resolverIP}) {
			addresses = append(addresses, ip.String()+"/32")
		}
		for _, ip := range ipv6s {
			addresses = append(addresses, ip.String()+"/128")
		}
		return up("down0", addresses...)
	})
	l.must(up("up0", hostIP.String()+"/24", "2001:db8:1::2/64"))
	l.must(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0"}}))
	l.must(up("docker0", dockerIP.String()+"/16"))
	t.Cleanup(func() { // for the next lab
		for _, name := range []string{"up0", "docker0"} {
			if link, err := netlink.LinkByName(name); err == nil {
				l.must(netlink.LinkDel(link))
			}
		}
	})
	l.must(netlink.RouteAdd(&netlink.Route{Gw: routerIP.AsSlice()}))
	if hasIPv6() {
		l.must(netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("2001:db8:1::1")}))
	}

	l.in(func(int) error {
		l.serve("inet")
		return errors.Join(l.serveDNS(), l.serveWeb())
	})
	l.serve("host")
	for _, network := range []string{"unix", "unixpacket"} {
		s, err := listen(network, abstractName+strings.TrimPrefix(network, "unix"))
		l.must(err)
		l.accept("host", s)
	}
	return l
}

func up(name string, addresses ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			if !hasIPv6() {
				continue
			}
			addr.Flags = unix.IFA_F_NODAD // at once
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// hasIPv6 reports whether the kernel speaks it (ipv6.disable=1: it does not).
func hasIPv6() bool {
	_, err := os.Stat("/proc/net/if_inet6")
	return err == nil
}

func (l *Lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// in runs f in the internet's network namespace, on a thread that is not used again.
func (l *Lab) in(f func(host int) error) {
	l.t.Helper()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- err
			return
		}
		defer home.Close()
		target, err := os.Open(l.inet)
		if err != nil {
			result <- err
			return
		}
		defer target.Close()
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- f(int(home.Fd()))
	}()
	l.must(<-result)
}

// serve listens on all addresses of the calling thread's network namespace.
func (l *Lab) serve(where string) {
	l.t.Helper()
	web, err := listen("tcp", fmt.Sprintf(":%d", webPort))
	l.must(err)
	l.accept(where, web)
	data, err := listenPacket("udp", fmt.Sprintf(":%d", dataPort))
	l.must(err)
	l.t.Cleanup(func() { _ = data.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := data.ReadFrom(buf)
			if err != nil {
				return
			}
			l.hit("%s udp <- %s: %.64q", where, from, buf[:n])
			_, _ = data.WriteTo(buf[:n], from)
		}
	}()
}

// listen is at once: it needs no context of anybody's.
func listen(network, at string) (net.Listener, error) {
	return new(net.ListenConfig).Listen(context.Background(), network, at)
}

func listenPacket(network, at string) (net.PacketConn, error) {
	return new(net.ListenConfig).ListenPacket(context.Background(), network, at)
}

func (l *Lab) accept(where string, s net.Listener) {
	l.answer(s, func(c net.Conn) {
		l.hit("%s %s <- %s", where, c.LocalAddr(), c.RemoteAddr())
		_, _ = io.WriteString(c, "reached")
	})
}

// answer has each connection answered until the test ends.
func (l *Lab) answer(s net.Listener, with func(net.Conn)) {
	l.t.Cleanup(func() { _ = s.Close() })
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				with(c)
			}()
		}
	}()
}

// Echo starts a server on the public address that sends back what it reads, and
// gives its address and port.
func (l *Lab) Echo() string {
	l.t.Helper()
	at := netip.AddrPortFrom(publicIP, echoPort).String()
	l.in(func(int) error {
		s, err := listen("tcp", at)
		if err != nil {
			return err
		}
		l.answer(s, func(c net.Conn) { _, _ = io.Copy(c, c) })
		return nil
	})
	return at
}

func (l *Lab) hit(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hits = append(l.hits, fmt.Sprintf(format, args...))
	close(l.came)
	l.came = make(chan struct{})
}

// await waits until a datagram with a text reached a server, or none will.
func (l *Lab) await(t *testing.T, text string, never <-chan struct{}) {
	t.Helper()
	for ctx := limited(t); ; {
		l.mu.Lock()
		came := l.came
		found := slices.ContainsFunc(l.hits, func(h string) bool { return strings.Contains(h, text) })
		l.mu.Unlock()
		if found {
			return
		}
		select {
		case <-came:
		case <-never:
			return
		case <-ctx.Done():
			t.Fatalf("%q never reached a server", text)
		}
	}
}

// Hits gives what reached the lab's servers since the last call.
func (l *Lab) Hits() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	hits := l.hits
	l.hits = nil
	return hits
}

// names lead where no guest may go.
func names() map[string]netip.Addr {
	return map[string]netip.Addr{
		"public.test": publicIP, "metadata.test": metadataIPs[0], "container-metadata.test": metadataIPs[1], "other-metadata.test": metadataIPs[2],
		"private.test": privateIPs[0], "host.test": hostIP, "docker.test": dockerIP, "loopback.test": netip.MustParseAddr("127.0.0.1"),
		"metadata6.test": ipv6s[0], "mapped.test": netip.MustParseAddr("::ffff:169.254.169.254"), "any.test": netip.MustParseAddr("0.0.0.0"),
	}
}

func (l *Lab) serveDNS() error {
	at := netip.AddrPortFrom(resolverIP, 53).String()
	known := names()
	known[allowedName], known[refusedName] = publicIP, publicIP
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		name := q.Question[0].Name
		l.mu.Lock()
		l.asked = append(l.asked, strings.ToLower(name))
		l.mu.Unlock()
		ip, ok := known[strings.TrimSuffix(name, ".")]
		header := dns.RR_Header{Name: name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 0}
		switch {
		case !ok:
			a.Rcode = dns.RcodeNameError
		case q.Question[0].Qtype == dns.TypeA && ip.Is4():
			a.Answer = append(a.Answer, &dns.A{Hdr: header, A: ip.AsSlice()})
		case q.Question[0].Qtype == dns.TypeAAAA && ip.Is6():
			a.Answer = append(a.Answer, &dns.AAAA{Hdr: header, AAAA: ip.AsSlice()})
		}
		_ = w.WriteMsg(a)
	})
	packets, err := listenPacket("udp4", at)
	if err != nil {
		return err
	}
	s := &dns.Server{PacketConn: packets, Handler: handler}
	go func() { _ = s.ActivateAndServe() }()
	l.t.Cleanup(func() { _ = s.Shutdown() })
	return nil
}

// Questions gives what the resolver was asked for since the last call.
func (l *Lab) Questions() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := l.asked
	l.asked = nil
	return asked
}

// serveWeb serves HTTP where it is usually served, and on HTTPS's port answers
// whoever says anything.
func (l *Lab) serveWeb() error {
	plain, err := listen("tcp", ":80")
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		l.hit("inet %s <- %s for %s", r.Context().Value(http.LocalAddrContextKey), r.RemoteAddr, r.Host)
	})}
	go func() { _ = server.Serve(plain) }()
	l.t.Cleanup(func() { _ = server.Close() })
	secure, err := listen("tcp", ":443")
	if err != nil {
		return err
	}
	l.answer(secure, func(c net.Conn) {
		if n, _ := c.Read(make([]byte, 1)); n > 0 {
			l.hit("inet %s <- %s", c.LocalAddr(), c.RemoteAddr())
			_, _ = io.WriteString(c, "heard")
		}
	})
	return nil
}

// Resolvers are who the host asks.
func (l *Lab) Resolvers() []netip.AddrPort {
	return []netip.AddrPort{netip.AddrPortFrom(resolverIP, 53)}
}

// DenyCIDRs are the default rules, but that the lab's public network is none
// of the refused ones.
func (l *Lab) DenyCIDRs() []netip.Prefix {
	return slices.DeleteFunc(network.DefaultDeny(), func(p netip.Prefix) bool { return p.Contains(publicIP) })
}
