package agent_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/vishvananda/netlink"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
)

// inMachine runs the test again in a process whose name, network and /etc are
// its own, and is true there.
func inMachine(t *testing.T) bool {
	t.Helper()
	const inside = "AETHERIUM_TEST_IN_MACHINE"
	if os.Getenv(inside) != "" {
		for _, dir := range []string{"/etc", "/var/lib", "/sys/fs/cgroup"} {
			must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
		}
		return true
	}
	needRoot(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUTS | unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// ownKernel is an agent that may say who its machine is, and its host's client.
func ownKernel(t *testing.T) *guest.Client {
	t.Helper()
	c, _ := ownKernelAt(t)
	return c
}

func ownKernelAt(t *testing.T) (*guest.Client, guest.Dial) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	a := agent.New(agent.Options{Machine: &agent.OwnKernel{Settle: func(bool, bool) error { return nil }}})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, l) }()
	dial := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", l.Addr().String())
	}
	c := guest.New(dial, guest.Options{})
	t.Cleanup(func() {
		c.Close()
		a.Shutdown(0)
		cancel()
		must(t, <-served)
	})
	return c, dial
}

func mac(t *testing.T, text string) net.HardwareAddr {
	t.Helper()
	m, err := net.ParseMAC(text)
	must(t, err)
	return m
}

func aMachine(t *testing.T) guest.Identity {
	t.Helper()
	return guest.Identity{
		Hostname: "first",
		Interface: &guest.Interface{
			MAC: mac(t, "02:ae:0a:00:00:05"), Address: netip.MustParseAddr("10.0.0.5"),
			Gateway: netip.MustParseAddr("10.0.0.1"), GatewayMAC: mac(t, "06:ae:0a:00:00:01"),
			DNS: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, MTU: 1400,
		},
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	must(t, err)
	return string(raw)
}

// device adds a network device as a kernel names it, whose other end is nowhere.
func device(t *testing.T, name, hardware string) {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: mac(t, hardware), TxQLen: -1}, PeerName: name + "p",
	}))
	peer, err := netlink.LinkByName(name + "p")
	must(t, err)
	must(t, netlink.LinkSetUp(peer))
}

// network tells what eth0 has, a line each.
func network(t *testing.T) string {
	t.Helper()
	eth, err := netlink.LinkByName("eth0")
	must(t, err)
	var out strings.Builder
	a := eth.Attrs()
	out.WriteString("mac " + a.HardwareAddr.String() + "\n")
	if a.Flags&net.FlagUp != 0 {
		out.WriteString("up\n")
	}
	if a.MTU == 1400 {
		out.WriteString("mtu 1400\n")
	}
	addrs, err := netlink.AddrList(eth, netlink.FAMILY_ALL)
	must(t, err)
	for _, a := range addrs {
		out.WriteString("address " + a.IPNet.String() + "\n")
	}
	routes, err := netlink.RouteList(eth, netlink.FAMILY_ALL)
	must(t, err)
	for _, r := range routes {
		switch {
		case r.Gw != nil && (r.Dst == nil || r.Dst.IP.IsUnspecified()):
			out.WriteString("default " + r.Gw.String() + "\n")
		case r.Gw != nil:
			out.WriteString("route " + r.Dst.String() + " by " + r.Gw.String() + "\n")
		default:
			out.WriteString("route " + r.Dst.String() + " from " + r.Src.String() + "\n")
		}
	}
	neighbours, err := netlink.NeighList(a.Index, netlink.FAMILY_V4)
	must(t, err)
	for _, n := range neighbours {
		if n.State == netlink.NUD_PERMANENT {
			out.WriteString("neighbour " + n.IP.String() + " " + n.HardwareAddr.String() + "\n")
		}
	}
	return out.String()
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n%s\nwant:\n%s", what, got, want)
	}
}

const firstNetwork = "mac 02:ae:0a:00:00:05\nup\nmtu 1400\naddress 10.0.0.5/32\n" +
	"default 10.0.0.1\nroute 10.0.0.1/32 from 10.0.0.5\nneighbour 10.0.0.1 06:ae:0a:00:00:01\n"

func TestAssume(t *testing.T) {
	if !inMachine(t) {
		return
	}
	c := ownKernel(t)
	a, err := c.Handshake(t.Context())
	must(t, err)
	if !a.Has(guest.FeatureAssume) {
		t.Errorf("features: %v", a.Features)
	}
	// The image's resolver and an interface as the kernel names it.
	must(t, os.Symlink("../run/nowhere/resolv.conf", "/etc/resolv.conf"))
	device(t, "ens3", "02:ae:0a:00:00:05")
	device(t, "other", "02:ae:0a:00:00:77")
	who := aMachine(t)
	must(t, c.Assume(t.Context(), who))
	name, err := os.Hostname()
	must(t, err)
	expect(t, "hostname", name, "first")
	expect(t, "/etc/hostname", read(t, "/etc/hostname"), "first\n")
	expect(t, "/etc/resolv.conf", read(t, "/etc/resolv.conf"), "nameserver 10.0.0.1\n")
	if hosts := read(t, "/etc/hosts"); !strings.HasSuffix(hosts, "10.0.0.5\tfirst\n") {
		t.Errorf("/etc/hosts: %s", hosts)
	}
	expect(t, "network", network(t), firstNetwork)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	if lo.Attrs().Flags&net.FlagUp == 0 {
		t.Error("lo is down")
	}
	expect(t, "low ports", read(t, "/proc/sys/net/ipv4/ip_unprivileged_port_start"), "0\n")
	id := read(t, "/etc/machine-id")
	if len(id) != 33 {
		t.Errorf("machine-id: %q", id)
	}

	// Told the same again, nothing changes, not what the guest made of it either.
	must(t, os.WriteFile("/etc/resolv.conf", []byte("nameserver 127.0.0.53\n"), 0o644))
	must(t, c.Assume(t.Context(), who))
	expect(t, "network", network(t), firstNetwork)
	expect(t, "the guest's resolver", read(t, "/etc/resolv.conf"), "nameserver 127.0.0.53\n")
	expect(t, "machine-id", read(t, "/etc/machine-id"), id)

	// Another address: nothing is left of the first, nor of what the guest added.
	eth, err := netlink.LinkByName("eth0")
	must(t, err)
	must(t, netlink.AddrAdd(eth, &netlink.Addr{IPNet: &net.IPNet{IP: net.IP{192, 0, 2, 9}, Mask: net.CIDRMask(24, 32)}}))
	must(t, netlink.NeighSet(&netlink.Neigh{
		LinkIndex: eth.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.IP{192, 0, 2, 1}, HardwareAddr: mac(t, "02:00:00:00:00:01"),
	}))
	must(t, netlink.RouteAdd(&netlink.Route{
		LinkIndex: eth.Attrs().Index, Dst: &net.IPNet{IP: net.IP{198, 51, 100, 0}, Mask: net.CIDRMask(24, 32)}, Gw: net.IP{192, 0, 2, 1},
	}))
	who.Hostname = "second"
	who.MachineID = "0123456789abcdef0123456789abcdef"
	who.Interface.MAC, who.Interface.Address = mac(t, "02:ae:0a:00:00:06"), netip.MustParseAddr("10.0.0.6")
	must(t, c.Assume(t.Context(), who))
	expect(t, "network", network(t), strings.NewReplacer("00:05", "00:06", "0.5", "0.6").Replace(firstNetwork))
	expect(t, "/etc/hostname", read(t, "/etc/hostname"), "second\n")
	expect(t, "/etc/resolv.conf", read(t, "/etc/resolv.conf"), "nameserver 10.0.0.1\n")
	expect(t, "machine-id", read(t, "/etc/machine-id"), who.MachineID+"\n")
}

func TestAssumeWithoutNetwork(t *testing.T) {
	if !inMachine(t) {
		return
	}
	c := ownKernel(t)
	must(t, os.WriteFile("/etc/machine-id", []byte("uninitialized\n"), 0o444))
	must(t, c.Assume(t.Context(), guest.Identity{Hostname: "alone"}))
	if hosts := read(t, "/etc/hosts"); !strings.HasSuffix(hosts, "127.0.1.1\talone\n") {
		t.Errorf("/etc/hosts: %s", hosts)
	}
	if id := read(t, "/etc/machine-id"); len(id) != 33 {
		t.Errorf("machine-id: %q", id)
	}
	err := c.Assume(t.Context(), aMachine(t))
	if !errors.HasCode(err, errors.NotFound) {
		t.Errorf("without a device: %v", err)
	}
}

func TestAssumeRefuses(t *testing.T) {
	if !inMachine(t) {
		return
	}
	c := ownKernel(t)
	for _, wrong := range []struct {
		name   string
		change func(*guest.Identity)
	}{
		{"no hostname", func(w *guest.Identity) { w.Hostname = "" }},
		{"a hostname with a line break", func(w *guest.Identity) { w.Hostname = "a\nb" }},
		{"no hardware address", func(w *guest.Identity) { w.Interface.MAC = nil }},
		{"a group's hardware address", func(w *guest.Identity) { w.Interface.MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} }},
		{"no address", func(w *guest.Identity) { w.Interface.Address = netip.Addr{} }},
		{"an IPv6 address", func(w *guest.Identity) { w.Interface.Address = netip.MustParseAddr("2001:db8::1") }},
		{"a loopback address", func(w *guest.Identity) { w.Interface.Address = netip.MustParseAddr("127.0.0.1") }},
		{"its own gateway", func(w *guest.Identity) { w.Interface.Gateway = w.Interface.Address }},
		{"a tiny MTU", func(w *guest.Identity) { w.Interface.MTU = 1 }},
		{"a huge MTU", func(w *guest.Identity) { w.Interface.MTU = 1 << 20 }},
		{"many name servers", func(w *guest.Identity) { w.Interface.DNS = make([]netip.Addr, 17) }},
		{"a name server with a zone", func(w *guest.Identity) {
			w.Interface.DNS = []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}
		}},
		{"a negative limit", func(w *guest.Identity) { w.Limits.PIDs = -1 }},
		{"a limit beyond the kernel's", func(w *guest.Identity) { w.Limits.MilliCPU = 1 << 40 }},
		{"a short machine-id", func(w *guest.Identity) { w.MachineID = "abc" }},
		{"a machine-id that is none", func(w *guest.Identity) { w.MachineID = strings.Repeat("g", 32) }},
	} {
		who := aMachine(t)
		wrong.change(&who)
		if err := c.Assume(t.Context(), who); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", wrong.name, err)
		}
	}
	if _, err := os.Stat("/etc/hostname"); err == nil {
		t.Error("a refused identity was written")
	}
}

// client is the host's client of its own making.
func (r *rig) client() *guest.Client {
	c := guest.New(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", r.socket)
	}, guest.Options{})
	r.t.Cleanup(c.Close)
	return c
}

// A machine that shares its host's kernel is not asked.
func TestAssumeOfASharedKernel(t *testing.T) {
	r := newRig(t)
	c := r.client()
	a, err := c.Handshake(t.Context())
	must(t, err)
	if a.Has(guest.FeatureAssume) {
		t.Errorf("features: %v", a.Features)
	}
	if err := c.Assume(t.Context(), guest.Identity{Hostname: "other"}); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("error: %v", err)
	}
}

func TestAssumeAsAFork(t *testing.T) {
	if !inMachine(t) {
		return
	}
	c, dial := ownKernelAt(t)
	device(t, "eth0", "02:ae:0a:00:00:05")
	who := aMachine(t)
	must(t, c.Assume(t.Context(), who))
	must(t, c.Configure(t.Context(), guest.Config{
		Env: map[string]string{"SECRET": "s3cret"}, DefaultUser: "root", DefaultWorkdir: "/", AccessToken: "token",
	}))
	must(t, os.MkdirAll("/var/lib/dbus", 0o755))
	id := read(t, "/etc/machine-id")
	must(t, os.WriteFile("/var/lib/dbus/machine-id", []byte(id), 0o644))
	must(t, os.Mkdir("/etc/ssh", 0o755))
	kinds := map[string]string{"ed25519": ssh.KeyAlgoED25519, "ecdsa": ssh.KeyAlgoECDSA256, "rsa": ssh.KeyAlgoRSA}
	for kind := range kinds {
		must(t, os.WriteFile("/etc/ssh/ssh_host_"+kind+"_key", []byte("origin"), 0o600))
		must(t, os.WriteFile("/etc/ssh/ssh_host_"+kind+"_key.pub", []byte("origin"), 0o644))
	}
	must(t, os.WriteFile("/etc/ssh/ssh_host_dsa_key", []byte("origin"), 0o600))

	// Connections: to another, which nobody answers; over loopback; of a client of the origin.
	out := connecting(t, "10.0.0.1:9")
	local, peer := overLoopback(t)
	stream := watchExecutions(t, dial)
	port := forwarded(t, dial)

	who.Fork, who.Hostname = true, "fork"
	who.Interface.MAC, who.Interface.Address = mac(t, "02:ae:0a:00:00:06"), netip.MustParseAddr("10.0.0.6")
	must(t, c.Assume(t.Context(), who))

	expect(t, "network", network(t), strings.NewReplacer("00:05", "00:06", "0.5", "0.6").Replace(firstNetwork))
	now := read(t, "/etc/machine-id")
	if now == id || len(now) != 33 {
		t.Errorf("machine-id: %q, was %q", now, id)
	}
	expect(t, "D-Bus's machine-id", read(t, "/var/lib/dbus/machine-id"), now)
	for kind, algorithm := range kinds {
		path := "/etc/ssh/ssh_host_" + kind + "_key"
		awaitFile(t, path+".pub") // RSA takes its time
		key, err := ssh.ParsePrivateKey([]byte(read(t, path)))
		must(t, err)
		public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(read(t, path+".pub")))
		must(t, err)
		if key.PublicKey().Type() != algorithm || !bytes.Equal(public.Marshal(), key.PublicKey().Marshal()) {
			t.Errorf("%s: %s, %s", kind, key.PublicKey().Type(), public.Type())
		}
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode() != 0o600 {
			t.Errorf("%s has the mode %s", path, info.Mode())
		}
	}
	if _, err := os.Stat("/etc/ssh/ssh_host_dsa_key"); err == nil {
		t.Error("a key of the origin's is there")
	}
	if err := out(); !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("the origin's connection: %v", err)
	}
	_, err := local.Write([]byte("x"))
	must(t, err)
	if n, err := peer.Read(make([]byte, 2)); n != 1 || err != nil {
		t.Errorf("over loopback: %d, %v", n, err)
	}
	if stream.Receive() {
		t.Error("a stream of the origin's host goes on")
	}
	must(t, stream.Close())
	if n, err := port.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("a connection to a port of the origin's goes on")
	}
	// What the origin was told is forgotten: no token is asked for, no environment is there.
	res, err := httpGet(t, dial, "/envs")
	must(t, err)
	expect(t, "environment", res, "{}\n")
}

// connecting begins to connect to an address; the result waits for how it ends.
func connecting(t *testing.T, address string) func() error {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	to := netip.MustParseAddrPort(address)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); !errors.Is(err, unix.EINPROGRESS) {
		t.Fatalf("connect: %v", err)
	}
	return func() error {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(limit.Milliseconds())); err != nil {
			return err
		}
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil {
			return err
		}
		return syscall.Errno(code)
	}
}

func overLoopback(t *testing.T) (a, b net.Conn) {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	var d net.Dialer
	a, err = d.DialContext(t.Context(), "tcp", l.Addr().String())
	must(t, err)
	b, err = l.Accept()
	must(t, err)
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// awaitFile waits until a file is there, told by inotify(7).
func awaitFile(t *testing.T, path string) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	must(t, err)
	defer func() { _ = unix.Close(fd) }()
	_, err = unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_MOVED_TO|unix.IN_CREATE)
	must(t, err)
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds())); n == 0 || err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatalf("%s: %d, %v", path, n, err)
		}
		_, _ = unix.Read(fd, make([]byte, 4096))
	}
}

// watchExecutions begins a stream that does not end by itself.
func watchExecutions(t *testing.T, dial guest.Dial) *connect.ServerStreamForClient[guestv1.WatchResponse] {
	t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := guestv1connect.NewExecutionServiceClient(&http.Client{Transport: &http.Transport{
		Protocols:   &protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}, "http://agent")
	stream, err := client.Watch(t.Context(), connect.NewRequest(&guestv1.WatchRequest{})) // the headers have come
	must(t, err)
	return stream
}

// forwarded is a connection to a port of the machine that somebody accepted.
func forwarded(t *testing.T, dial guest.Dial) net.Conn {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	conn, err := dial(t.Context())
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(limit)))
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	_, err = io.WriteString(conn, "POST /aetherium/port/"+port+" HTTP/1.1\r\nHost: agent\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	must(t, err)
	accepted, err := l.Accept()
	must(t, err)
	t.Cleanup(func() { _ = accepted.Close() })
	res, err := http.ReadResponse(bufio.NewReader(conn), nil) //nolint:bodyclose // the connection is its body
	must(t, err)
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res.Status)
	}
	return conn
}

func httpGet(t *testing.T, dial guest.Dial, path string) (string, error) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://agent"+path, nil)
	must(t, err)
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}
