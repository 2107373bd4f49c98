package boot_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/cgroup"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm/kernel"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest"
)

const (
	mib = 1 << 20
	// kernelEnv is the directory of an unpacked kernel package, rootfsEnv a template's
	// root filesystem.
	kernelEnv = "AETHERIUM_TEST_KERNEL"
	rootfsEnv = "AETHERIUM_TEST_ROOTFS"
	// patience is how long a test waits for what takes a moment; it asserts nothing.
	patience = 2 * time.Minute
	uid      = 700900 // of monitors
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// lab boots machines with the agent as their first process.
type lab struct {
	t      testing.TB
	dir    string
	kernel microvm.Kernel
	engine *qemu.Engine
}

func newLab(t testing.TB) *lab {
	t.Helper()
	source := os.Getenv(kernelEnv)
	switch {
	case source == "":
		t.Skip(kernelEnv + " names no kernel to boot")
	case os.Getuid() != 0:
		t.Skip("only root can start monitors")
	}
	for _, tool := range []string{"qemu-system-x86_64", "mkfs.erofs", "mke2fs"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	dir, err := os.MkdirTemp("", "boot") // a short path: socket names are bounded
	must(t, err)
	must(t, os.Chmod(dir, 0o755)) // monitors pass through
	l := &lab{t: t, dir: dir}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	src, err := kernel.Find(source)
	must(t, err)
	l.kernel, err = kernel.Build(t.Context(), src, vmmtest.Agent(t), filepath.Join(dir, "kernels"))
	must(t, err)
	l.engine, err = qemu.New(qemu.Config{Accelerator: qemu.TCG})
	must(t, err)
	t.Cleanup(func() { _ = l.engine.Close() })
	return l
}

// vm is a machine that was started.
type vm struct {
	*guest.Client
	l       *lab
	t       testing.TB
	g       microvm.Guest
	monitor int
}

// tree makes an image of a directory.
func (l *lab) tree(dir string) string {
	l.t.Helper()
	path := filepath.Join(l.dir, fmt.Sprintf("%d.erofs", time.Now().UnixNano()))
	run(l.t, "mkfs.erofs", "--quiet", path, dir)
	return path
}

// disk makes an empty one.
func (l *lab) disk() string {
	l.t.Helper()
	path := filepath.Join(l.dir, fmt.Sprintf("%d.ext4", time.Now().UnixNano()))
	must(l.t, os.WriteFile(path, nil, 0o600))
	must(l.t, os.Truncate(path, 256*mib))
	run(l.t, "mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^resize_inode", path)
	must(l.t, os.Chown(path, uid, uid))
	return path
}

// boot starts a machine with a template and a disk, and further trees by their targets.
func (l *lab) boot(name, root, disk string, trees map[string]string) *vm {
	l.t.Helper()
	return l.start(l.guest(name, root, disk, trees))
}

// guest is a machine that was not started.
func (l *lab) guest(name, root, disk string, trees map[string]string) microvm.Guest {
	l.t.Helper()
	g := microvm.Guest{
		ID: name, Dir: filepath.Join(l.dir, name), UID: uid, NetNS: filepath.Join(l.dir, name+".net"),
		Kernel: l.kernel, CPUs: 1, Memory: 128 * mib,
		Drives: []microvm.Drive{{Path: root, ReadOnly: true, Role: bootline.RoleRoot}, {Path: disk, Role: bootline.RoleDisk}},
	}
	for target, path := range trees {
		g.Drives = append(g.Drives, microvm.Drive{Path: path, ReadOnly: true, Role: bootline.RoleMount + target})
	}
	return g
}

// start starts a machine.
func (l *lab) start(g microvm.Guest) *vm {
	l.t.Helper()
	must(l.t, os.Mkdir(g.Dir, 0o700))
	must(l.t, os.Chown(g.Dir, uid, uid))
	host, err := cgroup.Detect()
	must(l.t, err)
	group := host.Group(fmt.Sprintf("/aeth-boot-%d-%s", os.Getpid(), g.ID))
	must(l.t, group.Make())
	l.t.Cleanup(func() {
		if err := errors.Join(group.Kill(context.Background()), group.Remove(context.Background())); err != nil {
			l.t.Error(err)
		}
	})
	g.Cgroup = group.Dirs()
	l.netNS(g)
	v := &vm{l: l, t: l.t, g: g}
	v.monitor, err = l.engine.Boot(l.t.Context(), g)
	must(l.t, err)
	v.Client = guest.New(func(ctx context.Context) (net.Conn, error) { return l.engine.Dial(ctx, g) }, guest.Options{
		CallTimeout: patience, // the first call is made while the kernel boots
	})
	l.t.Cleanup(v.Close)
	return v
}

// netNS makes a machine's network namespace, with its tap if it has a link.
func (l *lab) netNS(g microvm.Guest) {
	l.t.Helper()
	must(l.t, os.WriteFile(g.NetNS, nil, 0o600))
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- errors.Join(tap(g.Link), unix.Mount("/proc/thread-self/ns/net", g.NetNS, "", unix.MS_BIND, ""))
	}()
	must(l.t, <-done)
	l.t.Cleanup(func() { _ = unix.Unmount(g.NetNS, unix.MNT_DETACH) })
}

// tap makes a link's tap in the calling thread's network namespace, and nobody
// at its other end.
func tap(link *microvm.Link) error {
	if link == nil {
		return nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	t := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: link.Tap, TxQLen: -1}, Mode: netlink.TUNTAP_MODE_TAP,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR, Owner: uid, Group: uid,
	}
	syscall.ForkLock.RLock() // what starts meanwhile would have it open
	err = h.LinkAdd(t)
	syscall.ForkLock.RUnlock()
	if err != nil {
		return err
	}
	return h.LinkSetUp(t)
}

// ready waits for the agent.
func (v *vm) ready() guest.Agent {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a, err := v.Handshake(ctx)
	if err != nil {
		v.t.Fatalf("%v\n%s", err, v.console())
	}
	return a
}

func (v *vm) console() string {
	said, err := v.l.engine.Console(context.Background(), v.g)
	if err != nil {
		return err.Error()
	}
	return said
}

// end has the machine end, as an operator inside would.
func (v *vm) end() {
	v.t.Helper()
	v.tell("kill -TERM 1")
	v.ended()
}

// kill ends the monitor and tells the processor time that it took.
func (v *vm) kill() time.Duration {
	v.t.Helper()
	must(v.t, unix.Kill(v.monitor, unix.SIGKILL))
	var used unix.Rusage
	_, err := unix.Wait4(v.monitor, nil, 0, &used)
	must(v.t, err)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// ended waits for the monitor's end.
func (v *vm) ended() {
	v.t.Helper()
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(v.monitor, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		must(v.t, err)
		break
	}
	if !status.Exited() || status.ExitStatus() != 0 {
		v.t.Errorf("the monitor ended with %v", status)
	}
}

// tell starts a shell script.
func (v *vm) tell(script string) *connect.BidiStreamForClient[guestv1.AttachRequest, guestv1.AttachResponse] {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	v.t.Cleanup(cancel)
	var h2 http.Protocols
	h2.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &h2, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return v.l.engine.Dial(ctx, v.g) }}
	v.t.Cleanup(transport.CloseIdleConnections)
	s := guestv1connect.NewExecutionServiceClient(&http.Client{Transport: transport}, "http://agent").Attach(ctx)
	must(v.t, s.Send(&guestv1.AttachRequest{Request: &guestv1.AttachRequest_Start_{Start: &guestv1.AttachRequest_Start{
		ExecutionId: strings.ToLower(rand.Text()[:20]),
		Command:     &guestv1.Command{Args: []string{"sh", "-c", script}, User: "root", Cwd: "/"},
	}}}))
	return s
}

// run runs a shell script and returns what it prints and how it ends.
func (v *vm) run(script string) (string, *guestv1.End) {
	v.t.Helper()
	s := v.tell(script)
	var out strings.Builder
	for {
		msg, err := s.Receive()
		if err != nil {
			v.t.Fatalf("%v after %q\n%s", err, out.String(), v.console())
		}
		out.Write(msg.GetOutput().GetData())
		if end := msg.GetEnd(); end != nil {
			return out.String(), end
		}
	}
}
