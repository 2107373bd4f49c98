package network_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd"
	"github.com/aetherium/aetherium/services/core/pkg/network/networktest"
)

// Every test has a host of its own: the test binary runs itself again in new
// network, mount and process namespaces. Nothing in there has a route out.
const insideEnv = "AETHERIUM_NETWORK_TEST"

func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == "netd": // the manager under test starts it by this name
		if err := netd.Main(context.Background(), os.Args[1:], slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
			os.Exit(1)
		}
	case os.Getenv(workerEnv) != "":
		worker(os.Getenv(workerEnv))
	case os.Getenv(insideEnv) != "":
		// What is put into /run goes with the mount namespace.
		err := errors.Join(unix.Mount("proc", "/proc", "proc", 0, ""), unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
		if err != nil {
			fmt.Fprintln(os.Stderr, "mounts:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	default:
		os.Exit(m.Run())
	}
}

// isolated reports whether the caller is on its own host already. If not, it
// runs the test there and reports how it went.
func isolated(t testing.TB) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("namespaces and links need root")
	}
	if p, ok := t.(*testing.T); ok {
		p.Parallel()
	}
	args := []string{"-test.v", "-test.run=^" + t.Name() + "$"}
	if _, ok := t.(*testing.B); ok {
		args = []string{"-test.run=^$", "-test.bench=^" + t.Name() + "$", "-test.benchtime=200x"}
	}
	low, high := networktest.IDs(t)
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d-%d", insideEnv, low, high))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("on its own host: %v", err)
	}
	t.Logf("%s", out)
	return false
}

// The addresses of the lab. All of them live in namespaces without a route out.
var (
	hostIP     = netip.MustParseAddr("198.51.100.2")
	routerIP   = netip.MustParseAddr("198.51.100.1")
	publicIP   = netip.MustParseAddr("203.0.113.10")
	secondIP   = netip.MustParseAddr("203.0.113.11") // another public one
	resolverIP = netip.MustParseAddr("203.0.113.53")
	metadataIP = netip.MustParseAddr("169.254.169.254")
	privateIPs = []netip.Addr{netip.MustParseAddr("10.99.0.1"), netip.MustParseAddr("192.168.77.1"), netip.MustParseAddr("100.64.9.9")}
)

const (
	webPort  = 8080
	talkPort = 8081
	dataPort = 9000
)

// lab is a host with a fake internet behind its only uplink.
type lab struct {
	t    testing.TB
	inet string // the internet's network namespace

	mu    sync.Mutex
	hits  []string // "dst <- src" of each connection that the internet or the host saw
	asked []string // "name. TYPE" of each question that the resolver got
	data  chan string
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, data: make(chan string, 1024)}
	holder := exec.Command("cat")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	stdin, err := holder.StdinPipe()
	l.must(err)
	l.must(holder.Start())
	t.Cleanup(func() { _ = stdin.Close(); _ = holder.Wait() })
	l.inet = fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)

	upLoopback(t)
	l.in(l.inet, func(host int) error {
		upLoopback(t)
		err := netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "down0", MTU: 1400}, PeerName: "up0", PeerNamespace: netlink.NsFd(host), PeerMTU: 1400,
		})
		if err != nil {
			return err
		}
		addresses := []string{routerIP.String() + "/24"}
		for _, ip := range append(privateIPs, publicIP, secondIP, resolverIP, metadataIP) {
			addresses = append(addresses, ip.String()+"/32")
		}
		return up("down0", addresses...)
	})
	l.must(up("up0", hostIP.String()+"/24"))
	l.must(netlink.RouteAdd(&netlink.Route{Gw: routerIP.AsSlice()}))

	l.in(l.inet, func(int) error {
		l.serve("inet")
		return l.serveDNS()
	})
	l.serve("host")
	return l
}

func upLoopback(t testing.TB) {
	t.Helper()
	if err := up("lo"); err != nil {
		t.Fatal(err)
	}
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
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
	}
	return netlink.LinkSetUp(link)
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// in runs fn in a network namespace.
func (l *lab) in(netns string, fn func(host int) error) {
	l.t.Helper()
	l.must(nspair.InNet(netns, fn))
}

// serve listens for TCP and UDP on every address of the calling thread's
// network namespace. A TCP client is told its own address.
func (l *lab) serve(where string) {
	l.t.Helper()
	web, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", webPort))
	l.must(err)
	l.t.Cleanup(func() { _ = web.Close() })
	go func() {
		for {
			c, err := web.Accept()
			if err != nil {
				return
			}
			l.hit(where, c.LocalAddr(), c.RemoteAddr())
			_, _ = io.WriteString(c, c.RemoteAddr().String())
			_ = c.Close()
		}
	}()
	talk, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", talkPort))
	l.must(err)
	l.t.Cleanup(func() { _ = talk.Close() })
	go func() {
		for {
			c, err := talk.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	// One socket for each address, so that an echo comes from where it was sent to.
	addrs, err := net.InterfaceAddrs()
	l.must(err)
	for _, a := range addrs {
		if ip := a.(*net.IPNet).IP; ip.To4() != nil {
			l.echo(where, ip.String())
		}
	}
}

func (l *lab) echo(where, ip string) {
	l.t.Helper()
	data, err := net.ListenPacket("udp4", fmt.Sprintf("%s:%d", ip, dataPort))
	l.must(err)
	l.t.Cleanup(func() { _ = data.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := data.ReadFrom(buf)
			if err != nil {
				return
			}
			l.data <- where + " " + string(buf[:n])
			_, _ = data.WriteTo(buf[:n], from)
		}
	}()
}

func (l *lab) hit(where string, to, from net.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hits = append(l.hits, fmt.Sprintf("%s %s <- %s", where, to, from))
}

// serveDNS answers every A question with the public address, or with that
// which the first label names; names that begin with "big" with so many TXT
// records that only TCP carries them.
func (l *lab) serveDNS() error {
	at := netip.AddrPortFrom(resolverIP, 53).String()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		name := q.Question[0].Name
		ip := publicIP
		switch first, _, _ := strings.Cut(name, "."); first {
		case "second":
			ip = secondIP
		case "private":
			ip = privateIPs[0]
		case "metadata":
			ip = metadataIP
		case "host":
			ip = hostIP
		case "loopback":
			ip = netip.MustParseAddr("127.0.0.1")
		}
		l.mu.Lock()
		l.asked = append(l.asked, strings.ToLower(name)+" "+dns.TypeToString[q.Question[0].Qtype])
		l.mu.Unlock()
		switch {
		case strings.HasPrefix(name, "big") && q.Question[0].Qtype == dns.TypeTXT:
			for range 40 {
				a.Answer = append(a.Answer, &dns.TXT{
					Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 5}, Txt: []string{strings.Repeat("x", 200)},
				})
			}
		case q.Question[0].Qtype == dns.TypeA:
			a.Answer = append(a.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}, A: ip.AsSlice(),
			})
		}
		if w.RemoteAddr().Network() == "udp" {
			a.Truncate(1232)
		}
		_ = w.WriteMsg(a)
	})
	packets, err := net.ListenPacket("udp4", at)
	if err != nil {
		return err
	}
	stream, err := net.Listen("tcp4", at)
	if err != nil {
		return err
	}
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: stream, Handler: handler}} {
		go func() { _ = s.ActivateAndServe() }()
		l.t.Cleanup(func() { _ = s.Shutdown() })
	}
	return nil
}

// config is an instance's configuration in the lab: the default rules, but
// that the fake public network is none of the refused ones.
func config(t testing.TB, instance string) network.Config {
	t.Helper()
	if err := os.MkdirAll(labDir, 0o755); err != nil {
		t.Fatal(err)
	}
	return configFor(instance)
}

const labDir = "/run/lab"

func configFor(instance string) network.Config {
	exe := filepath.Join(labDir, "netd")
	_ = os.Symlink("/proc/self/exe", exe)
	low, high := ids()
	deny := slices.DeleteFunc(network.DefaultDeny(), func(p netip.Prefix) bool { return p.Contains(publicIP) })
	return network.Config{
		Instance: instance, RuntimeDir: filepath.Join(labDir, instance), HostDir: filepath.Join(labDir, "host"),
		NetdPath: exe, DenyCIDRs: deny, Resolvers: []netip.AddrPort{netip.AddrPortFrom(resolverIP, 53)},
		PoolNone: 2, PoolNAT: 2, IDLow: low, IDHigh: high,
	}
}

// ids is the range of user IDs of the lab.
func ids() (low, high uint32) {
	if _, err := fmt.Sscanf(os.Getenv(insideEnv), "%d-%d", &low, &high); err != nil {
		panic(err)
	}
	return low, high
}

func open(t testing.TB, cfg network.Config) *network.Manager {
	t.Helper()
	m, err := network.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func acquire(t testing.TB, m *network.Manager, machine string, mode domain.NetworkMode) network.Attachment {
	t.Helper()
	a, err := m.Acquire(context.Background(), machine, mode, "host-"+machine)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// dialFrom connects from inside a namespace and gives what the server says.
func (l *lab) dialFrom(netns, to string) (string, error) {
	l.t.Helper()
	var said []byte
	var dialErr error
	l.in(netns, func(int) error {
		c, err := net.DialTimeout("tcp4", to, 10*time.Second)
		if err != nil {
			dialErr = err
			return nil
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		said, dialErr = io.ReadAll(c)
		return nil
	})
	return string(said), dialErr
}

// refused checks that a connection failed with a prompt no.
func refused(t testing.TB, what string, err error) {
	t.Helper()
	var timeout net.Error
	switch {
	case err == nil:
		t.Errorf("%s: reached", what)
	case errors.As(err, &timeout) && timeout.Timeout():
		t.Errorf("%s: no prompt refusal: %v", what, err)
	case !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH):
		t.Errorf("%s: not refused but %v", what, err)
	}
}

func (l *lab) ask(netns string, server netip.Addr, transport, name string, qtype uint16) (*dns.Msg, error) {
	l.t.Helper()
	var answer *dns.Msg
	var askErr error
	l.in(netns, func(int) error {
		q := new(dns.Msg).SetQuestion(name, qtype)
		c := &dns.Client{Net: transport, Timeout: 10 * time.Second}
		answer, _, askErr = c.Exchange(q, netip.AddrPortFrom(server, 53).String())
		return nil
	})
	return answer, askErr
}
