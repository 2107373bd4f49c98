package agent_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
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
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	a := agent.New(agent.Options{Machine: &agent.OwnKernel{Settle: func() error { return nil }}})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, l) }()
	c := guest.New(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", l.Addr().String())
	}, guest.Options{})
	t.Cleanup(func() {
		c.Close()
		a.Shutdown(0)
		cancel()
		must(t, <-served)
	})
	return c
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

// A machine that shares its host's kernel is not asked.
func TestAssumeOfASharedKernel(t *testing.T) {
	r := newRig(t)
	c := guest.New(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", r.socket)
	}, guest.Options{})
	defer c.Close()
	a, err := c.Handshake(t.Context())
	must(t, err)
	if a.Has(guest.FeatureAssume) {
		t.Errorf("features: %v", a.Features)
	}
	if err := c.Assume(t.Context(), guest.Identity{Hostname: "other"}); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("error: %v", err)
	}
}
