package network_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/starting"
	"github.com/aetherium/aetherium/services/core/pkg/network"
)

// vnetHeader is virtio's header before each frame of a tap (virtio 1.2, 5.1.6).
const vnetHeader = 10

// openTap opens a tap of the calling thread's namespace, as a monitor does. One
// that was not there is, as long as it is open.
func openTap(name string, offloads uintptr) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return nil, fmt.Errorf("TUNSETIFF: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETOFFLOAD, offloads); errno != 0 {
		return nil, fmt.Errorf("TUNSETOFFLOAD: %w", errno)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// guest is a machine with a kernel of its own: a network namespace that is
// nowhere connected but by a wire that passes frames, headers and all, between
// its interface and the machine's tap. The interface does as a guest's
// virtio-net does.
type guest struct {
	netns    string
	tap      *os.File
	fromTap  atomic.Int64 // frames longer than a packet, towards the guest
	fromWire atomic.Int64 // and from it
}

const allOffloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6

func (l *lab) boot(netns string, a network.Attachment, tap string, offloads uintptr) *guest {
	l.t.Helper()
	g := &guest{netns: netns}
	l.in(a.NetNS, func(int) (err error) { g.tap, err = openTap(tap, offloads); return err })
	var nic *os.File
	l.in(g.netns, func(int) (err error) {
		if nic, err = openTap("eth0", offloads); err != nil {
			return err
		}
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		err = errors.Join(netlink.LinkSetHardwareAddr(eth, a.MAC), netlink.LinkSetMTU(eth, a.MTU), up("lo"), up("eth0", a.Address.Addr().String()+"/32"))
		if err != nil {
			return err
		}
		only := &net.IPNet{IP: a.Gateway.AsSlice(), Mask: net.CIDRMask(32, 32)}
		return errors.Join(
			netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: only, Scope: netlink.SCOPE_LINK}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: a.Gateway.AsSlice()}),
		)
	})
	l.t.Cleanup(func() { _, _ = g.tap.Close(), nic.Close() })
	pass := func(from, to *os.File, long *atomic.Int64) {
		frame := make([]byte, vnetHeader+1<<16)
		for {
			n, err := from.Read(frame)
			if err != nil {
				return
			}
			if n > vnetHeader+14+a.MTU {
				long.Add(1)
			}
			_, _ = to.Write(frame[:n])
		}
	}
	go pass(g.tap, nic, &g.fromTap)
	go pass(nic, g.tap, &g.fromWire)
	return g
}

// namespace makes a network namespace that lives as long as the test.
func (l *lab) namespace() string {
	l.t.Helper()
	path, end := l.mortalNamespace()
	l.t.Cleanup(end)
	return path
}

// mortalNamespace makes a network namespace that ends at the call of end.
func (l *lab) mortalNamespace() (path string, end func()) {
	l.t.Helper()
	holder := exec.Command("cat")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	stdin, err := holder.StdinPipe()
	l.must(err)
	l.must(holder.Start())
	return fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid), func() { _ = stdin.Close(); _ = holder.Wait() }
}

func tap(t testing.TB, m *network.Manager, machine string, owner uint32) string {
	t.Helper()
	name, err := m.Tap(context.Background(), machine, owner)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// echoes sends much through a server that sends it back, and checks it.
func (l *lab) echoes(netns, what string) {
	l.t.Helper()
	const amount = 24 << 20
	l.in(netns, func(int) error {
		c, err := net.DialTimeout("tcp4", netip.AddrPortFrom(publicIP, talkPort).String(), 10*time.Second)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		defer func() { _ = c.Close() }()
		sent, back := sha256.New(), sha256.New()
		done := make(chan error, 1)
		go func() {
			_, err := io.CopyN(io.MultiWriter(c, sent), rand.Reader, amount)
			done <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
		}()
		n, err := io.Copy(back, c)
		if err := errors.Join(err, <-done); err != nil || n != amount || string(sent.Sum(nil)) != string(back.Sum(nil)) {
			l.t.Errorf("%s: %d of %d bytes came back: %v", what, n, amount, err)
		}
		return nil
	})
}

func TestATapIsTheMachinesLink(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	with, without := l.namespace(), l.namespace()
	before := footprint(t)
	m := open(t, config(t, "one"))
	l.tapWorks(m, "a", with, allOffloads)
	l.tapWorks(m, "b", without, 0)
	if err := m.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	sameFootprint(t, before)
}

// tapWorks gives a machine a tap with a guest behind, and takes both away.
func (l *lab) tapWorks(m *network.Manager, machine, netns string, offloads uintptr) {
	t := l.t.(*testing.T)
	t.Helper()
	ctx := context.Background()
	setEgress(t, m, machine, domain.EgressPolicy{Deny: []string{secondIP.String()}})
	a := acquire(t, m, machine, domain.NetworkNAT)
	name := tap(t, m, machine, 4242)
	g := l.boot(netns, a, name, offloads)

	// All that a process in the namespace was given, the guest has.
	if said, err := l.dialFrom(g.netns, at(publicIP)); err != nil || !strings.HasPrefix(said, hostIP.String()) {
		t.Errorf("outside: %q %v", said, err)
	}
	for _, to := range []netip.Addr{metadataIP, hostIP, privateIPs[0], secondIP} {
		_, err := l.dialFrom(g.netns, at(to))
		refused(t, to.String(), err)
	}
	for _, transport := range []string{"udp", "tcp"} {
		if answer, err := l.ask(g.netns, a.DNS[0], transport, "example.test.", dns.TypeA); err != nil || len(answer.Answer) != 1 {
			t.Errorf("DNS by %s: %v %v", transport, answer, err)
		}
	}
	l.echoes(g.netns, "much data")
	if sent, got := g.fromWire.Load(), g.fromTap.Load(); (sent > 0 && got > 0) != (offloads != 0) {
		t.Errorf("%d frames from the guest and %d to it were longer than a packet", sent, got)
	}
	setEgress(t, m, machine, domain.EgressPolicy{})
	if _, err := l.dialFrom(g.netns, at(secondIP)); err != nil {
		t.Errorf("allowed again: %v", err)
	}

	// Again, with the tap open: it is the same one, and open.
	if again := tap(t, m, machine, 4242); again != name {
		t.Errorf("the tap was %s and is %s", name, again)
	}
	if _, err := l.dialFrom(g.netns, at(publicIP)); err != nil {
		t.Errorf("outside, after the second call: %v", err)
	}
	for _, owner := range []uint32{4242, 5151} {
		tap(t, m, machine, owner)
		l.in(a.NetNS, func(int) error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if is := link.(*netlink.Tuntap); is.Owner != owner || is.Group != owner || is.NonPersist {
				t.Errorf("the tap is %d:%d's, not %d's", is.Owner, is.Group, owner)
			}
			return nil
		})
	}
	if err := m.Release(ctx, machine); err != nil {
		t.Error(err)
	}
	if _, err := m.Tap(ctx, machine, 1); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("a released machine's tap: %v", err)
	}
}

// A tap can be opened as soon as it is there, whatever this process starts
// meanwhile.
func TestATapIsOpenedBesideOthers(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	m := open(t, config(t, "one"))
	a := acquire(t, m, "a", domain.NetworkNAT)
	starting.Others(t, 500)
	for owner := range uint32(100) { // it is made anew for each
		name := tap(t, m, "a", 4000+owner)
		l.in(a.NetNS, func(int) error {
			f, err := openTap(name, 0)
			if err == nil {
				err = f.Close()
			}
			return err
		})
	}
}

func TestATapsNamespaceSendsNothingOfItsOwn(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	m := open(t, config(t, "one"))
	a := acquire(t, m, "a", domain.NetworkNAT)
	heard, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	l.must(err)
	t.Cleanup(func() { _ = unix.Close(heard) })
	end, err := net.InterfaceByName(a.HostInterface)
	l.must(err)
	l.must(unix.Bind(heard, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: end.Index}))
	l.must(unix.SetsockoptTimeval(heard, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}))

	name := tap(t, m, "a", 0)
	var f *os.File
	l.in(a.NetNS, func(int) (err error) { f, err = openTap(name, 0); return err })
	defer func() { _ = f.Close() }()
	gateway, err := net.InterfaceByName(bridgeOf(t))
	l.must(err)
	write := func(frame []byte) {
		t.Helper()
		if _, err := f.Write(append(make([]byte, vnetHeader), frame...)); err != nil {
			t.Fatal(err)
		}
	}
	// What asks for the namespace's answer gets the guest's, which says nothing.
	ping := netip.AddrPortFrom(a.Address.Addr(), 7).String()
	if c, err := net.Dial("udp4", ping); err == nil {
		_, _ = c.Write([]byte("anybody?"))
		_ = c.Close()
	}
	// Forged frames end at the guard as they do from a veth.
	gw := gateway.HardwareAddr
	strange := net.HardwareAddr{0x02, 1, 2, 3, 4, 5}
	write(ethernet(gw, strange, unix.ETH_P_IP, datagramIn(a.Address.Addr(), publicIP, "strange MAC")))
	write(ethernet(gw, a.MAC, unix.ETH_P_IP, datagramIn(publicIP, publicIP, "strange IP")))
	write(ethernet(gw, a.MAC, unix.ETH_P_IP, datagramIn(a.Address.Addr(), publicIP, "honest")))
	select {
	case got := <-l.data:
		if got != "inet honest" {
			t.Errorf("arrived: %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the honest datagram did not arrive")
	}
	// The wire keeps the order: the guest's three are all that ever came out.
	buf := make([]byte, 2048)
	for came := 0; came < 3; {
		n, from, err := unix.Recvfrom(heard, buf, 0)
		if err != nil {
			t.Fatal(err)
		}
		if ll := from.(*unix.SockaddrLinklayer); ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if n < 14 || binary.BigEndian.Uint16(buf[12:]) != unix.ETH_P_IP || buf[14+9] != unix.IPPROTO_UDP {
			t.Errorf("the namespace sent: %x", buf[:n])
		}
		came++
	}
}

func TestALinkMovesToANamespaceThatAnotherMade(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	before := footprint(t)
	ctx := context.Background()
	cfg := config(t, "one")
	m := open(t, cfg)
	setEgress(t, m, "a", domain.EgressPolicy{Deny: []string{secondIP.String()}})
	a := acquire(t, m, "a", domain.NetworkNAT)
	works := func(netns, when string) {
		t.Helper()
		if _, err := l.dialFrom(netns, at(publicIP)); err != nil {
			t.Errorf("%s: outside: %v", when, err)
		}
		for _, to := range []netip.Addr{secondIP, metadataIP, hostIP} {
			_, err := l.dialFrom(netns, at(to))
			refused(t, when+": "+to.String(), err)
		}
		if answer, err := l.ask(netns, a.DNS[0], "udp", "example.test.", dns.TypeA); err != nil || len(answer.Answer) != 1 {
			t.Errorf("%s: DNS: %v %v", when, answer, err)
		}
	}
	move := func(netns string) {
		t.Helper()
		if err := m.Move(ctx, "a", netns); err != nil {
			t.Fatal(err)
		}
	}
	first, end := l.mortalNamespace()
	move(first)
	works(first, "moved")
	move(first)
	works(first, "moved again")
	if _, err := m.Tap(ctx, "a", 1); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("a tap on a link that is elsewhere: %v", err)
	}

	// Another process takes it over, without its bridge.
	l.must(m.Close())
	bridge, err := netlink.LinkByName(bridgeOf(t))
	l.must(err)
	l.must(netlink.LinkDel(bridge))
	m = open(t, cfg)
	works(first, "repaired")

	// A link goes with the namespace that it is in.
	end()
	second, end := l.mortalNamespace()
	move(second)
	works(second, "in the next namespace")
	third, endThird := l.mortalNamespace()
	move(third)
	works(third, "from a namespace that lives")
	l.in(second, func(int) error {
		if _, err := netlink.LinkByName(network.GuestInterface); err == nil {
			t.Error("the machine's end is in two namespaces")
		}
		return nil
	})
	end()
	for path, want := range map[string]errors.Code{"/proc/self/ns/net": errors.Conflict, "/proc/self/none": errors.NotFound} {
		if err := m.Move(ctx, "a", path); !errors.HasCode(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	acquire(t, m, "b", domain.NetworkNone)
	if err := m.Move(ctx, "b", third); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("a machine without a link: %v", err)
	}
	l.must(m.Release(ctx, "a"))
	l.in(third, func(int) error {
		if _, err := netlink.LinkByName(network.GuestInterface); err == nil {
			t.Error("the machine's end outlives its release")
		}
		return nil
	})
	endThird()
	if err := m.Teardown(ctx); err != nil {
		t.Fatal(err)
	}
	sameFootprint(t, before)
}

func TestADriverSeesItsOwnMachines(t *testing.T) {
	if !isolated(t) {
		return
	}
	newLab(t)
	ctx := context.Background()
	cfg := config(t, "one")
	m := open(t, cfg)
	acquire(t, m, "of-old", domain.NetworkNone)
	for _, driver := range []string{"oci", "qemu"} {
		if _, err := m.For(driver).Acquire(ctx, "of-"+driver, domain.NetworkNone, ""); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for driver, want := range map[string]string{"oci": "[of-oci of-old]", "qemu": "[of-qemu]", "docker": "[]"} {
			if got, err := m.For(driver).List(ctx); err != nil || fmt.Sprint(got) != want {
				t.Errorf("%s has %v, %v", driver, got, err)
			}
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		m = open(t, cfg)
	}
	if err := m.Teardown(ctx); err != nil {
		t.Fatal(err)
	}
}
