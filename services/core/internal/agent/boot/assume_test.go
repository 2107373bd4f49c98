package boot_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// A machine is who it is told to be: its own kernel has the name, the address
// and the limits, and a fork's list is gone through with what that kernel can.
func TestAssume(t *testing.T) {
	rootfs := os.Getenv(rootfsEnv)
	if rootfs == "" {
		t.Skip("no root filesystem is given in " + rootfsEnv)
	}
	l := newLab(t)
	g := l.guest("assume", l.tree(rootfs), l.disk(), nil)
	g.Link = &microvm.Link{Tap: "tap0", MAC: net.HardwareAddr{0x02, 0xae, 10, 0, 0, 5}, MTU: 1420}
	v := l.start(g)
	if a := v.ready(); !a.Has(guest.FeatureAssume) {
		t.Errorf("features %v", a.Features)
	}
	who := guest.Identity{
		Hostname: "first", Limits: guest.Limits{PIDs: 50, MilliCPU: 500},
		Interface: &guest.Interface{
			MAC: g.Link.MAC, Address: netip.MustParseAddr("10.0.0.5"), Gateway: netip.MustParseAddr("10.0.0.1"),
			GatewayMAC: net.HardwareAddr{0x06, 0xae, 10, 0, 0, 1}, DNS: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, MTU: 1400,
		},
	}
	assume := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := v.Assume(ctx, who); err != nil {
			t.Fatalf("%v\n%s", err, v.console())
		}
	}
	says := func(script, want string) {
		t.Helper()
		if out, end := v.run(script); out != want {
			t.Errorf("%s: %q, not %q (%v)", script, out, want, end)
		}
	}
	assume()
	says("cat /proc/sys/kernel/hostname /etc/hostname /etc/resolv.conf; tail -n 1 /etc/hosts", "first\nfirst\nnameserver 10.0.0.1\n10.0.0.5\tfirst\n")
	says("cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu /proc/sys/net/ipv6/conf/eth0/disable_ipv6", "02:ae:0a:00:00:05\n1400\n1\n")
	// Numbers as the kernel keeps them, in the order of this machine's bytes.
	says("grep -c . /proc/net/if_inet6; awk '$1 == \"eth0\" {print $2, $3, $8}' /proc/net/route", "1\n00000000 0100000A 00000000\n0100000A 00000000 FFFFFFFF\n")
	says("awk '$6 == \"eth0\" {print $1, $3, $4}' /proc/net/arp", "10.0.0.1 0x6 06:ae:0a:00:00:01\n")
	says("cat /proc/self/cgroup /proc/1/cgroup /sys/fs/cgroup/vm/pids.max /sys/fs/cgroup/vm/cpu.max", "0::/vm\n0::/\n50\n50000 100000\n")
	out, _ := v.run("cat /etc/machine-id")
	if len(out) != 33 {
		t.Errorf("machine-id %q", out)
	}
	// At its limit nothing more runs, and the agent answers.
	if out, end := v.run("for i in $(seq 100); do sleep 1000 & done; echo all"); end.GetExitCode() == 0 {
		t.Errorf("100 processes where 50 are allowed: %q (%v)", out, end)
	}
	v.ready()
	who.Limits = guest.Limits{}
	assume()
	says("cat /sys/fs/cgroup/vm/pids.max /sys/fs/cgroup/vm/cpu.max; cat /etc/machine-id", "max\nmax 100000\n"+out)

	// As a fork it has nothing of its origin's.
	must(t, v.Configure(t.Context(), guest.Config{Env: map[string]string{"SECRET": "s3cret"}, DefaultUser: "root"}))
	says("echo $SECRET", "s3cret\n")
	says("mkdir -p /etc/ssh; echo origin >/etc/ssh/ssh_host_ed25519_key; (setsid python3 -c '"+connecting+"' >/tmp/log 2>&1 </dev/null &);"+
		" until grep -q begun /tmp/log; do sleep 0.1; done", "")
	who.Fork, who.Hostname = true, "fork"
	who.Interface.MAC, who.Interface.Address = net.HardwareAddr{0x02, 0xae, 10, 0, 0, 6}, netip.MustParseAddr("10.0.0.6")
	assume()
	says("until grep -q end /tmp/log; do sleep 0.1; done; cat /tmp/log", "begun\n103 end\n") // ECONNABORTED
	says("cat /proc/sys/kernel/hostname /sys/class/net/eth0/address; echo $SECRET; head -n 1 /etc/ssh/ssh_host_ed25519_key",
		"fork\n02:ae:0a:00:00:06\n\n-----BEGIN OPENSSH PRIVATE KEY-----\n")
	if now, _ := v.run("cat /etc/machine-id"); len(now) != 33 || now == out {
		t.Errorf("machine-id %q, was %q", now, out)
	}
	v.end()
}

// connecting begins a connection that nobody answers, and tells how it ends.
const connecting = `
import select, socket
s = socket.socket()
s.setblocking(False)
s.connect_ex(("10.0.0.1", 9))
print("begun", flush=True)
select.select([], [s], [])
print(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "end", flush=True)
`

// What is held in a machine stands still, and nothing is started, until that is
// released; in one that goes on from memory until it is told who it is.
func TestHold(t *testing.T) {
	rootfs := os.Getenv(rootfsEnv)
	if rootfs == "" {
		t.Skip("no root filesystem is given in " + rootfsEnv)
	}
	l := newLab(t)
	v := l.boot("hold", l.tree(rootfs), l.disk(), nil)
	v.ready()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	who := guest.Identity{Hostname: "machine"}
	must(t, v.Assume(ctx, who))
	// One is where commands are, and one in a group that a program has made.
	if out, end := v.run("for i in commands own; do (setsid sh -c 'while :; do date +%s.%N >/run/'$i'.new; mv /run/'$i'.new /run/'$i'; sleep 0.02; done' >/dev/null 2>&1 </dev/null & " +
		"[ $i = commands ] || { mkdir /sys/fs/cgroup/own; echo $! >/sys/fs/cgroup/own/cgroup.procs; }); done; until [ -e /run/own ] && [ -e /run/commands ]; do sleep 0.1; done"); end.GetExitCode() != 0 {
		t.Fatal(out, end)
	}
	noted := func() string {
		t.Helper()
		var text []byte
		for _, name := range []string{"commands", "own"} {
			_, r, err := v.Read(ctx, "/run/"+name, vmm.FileOptions{User: "0"})
			must(t, err)
			part, err := io.ReadAll(r)
			must(t, errors.Join(err, r.Close()))
			text = append(text, part...)
		}
		return string(text)
	}
	hold := func() {
		t.Helper()
		must(t, v.Hold(ctx))
		before := noted()
		time.Sleep(300 * time.Millisecond)
		if now := noted(); now != before {
			t.Errorf("what is held noted %q after %q", now, before)
		}
	}
	goesOn := func() {
		t.Helper()
		for first := noted(); strings.Fields(noted())[0] == strings.Fields(first)[0] || strings.Fields(noted())[1] == strings.Fields(first)[1]; {
			time.Sleep(20 * time.Millisecond)
		}
	}
	// started tells the first that is heard of a command.
	started := func() <-chan error {
		s := v.tell("echo ran")
		heard := make(chan error, 1)
		go func() {
			_, err := s.Receive()
			heard <- err
		}()
		return heard
	}

	hold()
	heard := started()
	select {
	case err := <-heard:
		t.Errorf("a command was started meanwhile: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	must(t, v.Release(ctx))
	if err := <-heard; err != nil {
		t.Errorf("then %v", err)
	}
	goesOn()
	must(t, v.Release(ctx)) // nothing is held

	hold()
	must(t, v.Thaw(ctx))
	goesOn()

	hold()
	hold() // again
	must(t, v.Assume(ctx, who))
	goesOn()
	// One that was asked for before the memory was saved is not started elsewhere. It
	// may have come too late for that here, and is asked for again.
	for {
		hold()
		heard = started()
		time.Sleep(100 * time.Millisecond)
		must(t, v.Assume(ctx, who))
		err := <-heard
		if connect.CodeOf(err) == connect.CodeUnavailable {
			break
		}
		must(t, errors.Join(err, ctx.Err()))
	}
	goesOn()
}
