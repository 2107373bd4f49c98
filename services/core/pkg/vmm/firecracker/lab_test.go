package firecracker_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/cgroup"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/inside"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	mib = 1 << 20
	// What the lab is made of; tests/scenarios/firecracker has it.
	binaryEnv  = "AETHERIUM_TEST_FIRECRACKER"
	jailerEnv  = "AETHERIUM_TEST_JAILER"
	pagerEnv   = "AETHERIUM_TEST_PAGER"
	guestEnv   = "AETHERIUM_TEST_GUEST"       // the guest's first program: qemu/testdata/guest
	vmlinuxEnv = "AETHERIUM_TEST_VMLINUX"     // its kernel
	modulesEnv = "AETHERIUM_TEST_MODULES"     // the directory of directories of modules, lib/modules
	argsEnv    = "AETHERIUM_TEST_KERNEL_ARGS" // more of its command line
	starterEnv = "AETHERIUM_TEST_STARTER"     // see starter
	// patience is how long a test waits for what takes a moment; it asserts nothing.
	patience = 5 * time.Minute
)

// shared is what the tests of one run have in common.
var shared struct {
	kernel microvm.Kernel
	skip   string
}

func TestMain(m *testing.M) {
	if raw := os.Getenv(starterEnv); raw != "" {
		os.Exit(starter(raw))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "fc-test-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755) // monitors read what is in there
	}
	if err == nil {
		err = prepare(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// prepare makes what the guests boot.
func prepare(dir string) error {
	for _, env := range []string{binaryEnv, jailerEnv, pagerEnv, guestEnv, vmlinuxEnv, modulesEnv} {
		if os.Getenv(env) == "" {
			shared.skip = env + " is not set: this runs in the machine of tests/scenarios/firecracker"
			return nil
		}
	}
	versions, err := os.ReadDir(os.Getenv(modulesEnv))
	if err != nil || len(versions) != 1 {
		return fmt.Errorf("%d kernels' modules: %w", len(versions), err)
	}
	version := versions[0].Name()
	shared.kernel = microvm.Kernel{Version: version, ELF: os.Getenv(vmlinuxEnv), Initrd: filepath.Join(dir, "initrd")}
	return makeInitrd(shared.kernel.Initrd, os.Getenv(guestEnv), filepath.Join(os.Getenv(modulesEnv), version, "kernel"))
}

// modules are those that the guest loads, in this order.
func modules() []string {
	return []string{
		"drivers/virtio/virtio_ring.ko", "drivers/virtio/virtio.ko", "drivers/virtio/virtio_mmio.ko",
		"drivers/block/virtio_blk.ko", "net/core/failover.ko", "drivers/net/net_failover.ko", "drivers/net/virtio_net.ko",
		"drivers/char/hw_random/virtio-rng.ko", "net/vmw_vsock/vsock.ko", "net/vmw_vsock/vmw_vsock_virtio_transport_common.ko",
		"net/vmw_vsock/vmw_vsock_virtio_transport.ko", "drivers/virtio/virtio_balloon.ko",
	}
}

func makeInitrd(to, init, tree string) error {
	var out bytes.Buffer
	var list []string
	inode := 0
	add := func(name string, mode uint32, content []byte) { // cpio(5), "newc"
		inode++
		fmt.Fprintf(&out, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
		pad := func() { out.Write(make([]byte, (4-out.Len()%4)%4)) }
		pad()
		out.Write(content)
		pad()
	}
	for _, dir := range []string{"dev", "proc", "sys", "modules"} {
		add(dir, unix.S_IFDIR|0o755, nil)
	}
	for _, m := range modules() {
		raw, err := os.ReadFile(filepath.Join(tree, m))
		if err != nil {
			return err
		}
		list = append(list, filepath.Base(m))
		add("modules/"+filepath.Base(m), unix.S_IFREG|0o644, raw)
	}
	add("modules/list", unix.S_IFREG|0o644, []byte(strings.Join(list, "\n")))
	raw, err := os.ReadFile(init)
	if err != nil {
		return err
	}
	add("init", unix.S_IFREG|0o755, raw)
	add("TRAILER!!!", 0, nil)
	return os.WriteFile(to, out.Bytes(), 0o644) // monitors read it
}

func config(backend firecracker.Backend) firecracker.Config {
	return firecracker.Config{
		Binary: os.Getenv(binaryEnv), Jailer: os.Getenv(jailerEnv), Pager: os.Getenv(pagerEnv),
		Backend: backend, KernelArgs: os.Getenv(argsEnv),
		Logger: slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// started is what a starter is to start.
type started struct {
	Guest  microvm.Guest
	Memory microvm.Memory // that it goes on from, by a page server; zero: it boots
}

// starter is a process that starts a guest, says so, and waits to be killed.
func starter(raw string) int {
	var s started
	err := json.Unmarshal([]byte(raw), &s)
	backend := firecracker.File
	if s.Memory.Dir != "" {
		backend = firecracker.UFFD
	}
	var e *firecracker.Engine
	if err == nil {
		e, err = firecracker.New(config(backend))
	}
	pid := 0
	switch {
	case err != nil:
	case backend == firecracker.UFFD:
		pid, err = e.Restore(context.Background(), s.Guest, s.Memory)
	default:
		pid, err = e.Boot(context.Background(), s.Guest)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("started", pid)
	select {}
}

// byKilled has a guest started by another process, which is killed then.
func (l *lab) byKilled(s started) (pid int) {
	l.t.Helper()
	raw, err := json.Marshal(s)
	must(l.t, err)
	program, err := os.Executable()
	must(l.t, err)
	cmd := command(program, starterEnv+"="+string(raw))
	out, err := cmd.StdoutPipe()
	must(l.t, err)
	must(l.t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must(l.t, err)
	if _, err := fmt.Sscanf(line, "started %d\n", &pid); err != nil {
		l.t.Fatal(line)
	}
	must(l.t, cmd.Process.Kill())
	_ = cmd.Wait()
	return pid
}

// lab is an engine with what its guests need.
type lab struct {
	t      testing.TB
	engine *firecracker.Engine
	dir    string
	guests int
}

func newLab(t testing.TB) *lab {
	t.Helper()
	if shared.skip != "" {
		t.Skip(shared.skip)
	}
	l := &lab{t: t, dir: t.TempDir()}
	l.engine = l.other(firecracker.File)
	return l
}

// other is another engine, as after a restart.
func (l *lab) other(backend firecracker.Backend) *firecracker.Engine {
	l.t.Helper()
	return l.as(config(backend))
}

func (l *lab) as(cfg firecracker.Config) *firecracker.Engine {
	l.t.Helper()
	e, err := firecracker.New(cfg)
	must(l.t, err)
	l.t.Cleanup(func() { _ = e.Close() })
	return e
}

func (l *lab) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	l.t.Cleanup(cancel)
	return ctx
}

// guest makes a guest's surroundings. Of is whose disk it has a copy of; nil: a new one.
func (l *lab) guest(of *microvm.Guest) microvm.Guest {
	l.t.Helper()
	l.guests++
	id := fmt.Sprintf("g%d", l.guests)
	uid := uint32(700000 + l.guests) // a few
	group := l.group(fmt.Sprintf("aeth-fc-%d-%s", os.Getpid(), id))
	g := microvm.Guest{
		ID: id, Dir: filepath.Join(l.dir, id), UID: uid, Cgroup: group.Dirs(),
		NetNS: filepath.Join(l.dir, id+".net"), Kernel: shared.kernel, CPUs: 1, Memory: 128 * mib,
		Link: &microvm.Link{Tap: "tap0", MAC: net.HardwareAddr{0x02, 0, 0, 0, 0, byte(l.guests)}, MTU: 1420},
	}
	must(l.t, os.Mkdir(g.Dir, 0o700))
	must(l.t, os.Chown(g.Dir, int(uid), int(uid)))
	l.netNS(g)
	for i, name := range []string{"root", "disk", "extra"} {
		path := filepath.Join(l.dir, id+"."+name)
		content := make([]byte, 4*mib)
		copy(content, name)
		if of != nil {
			var err error
			content, err = os.ReadFile(of.Drives[i].Path)
			must(l.t, err)
		}
		must(l.t, os.WriteFile(path, content, 0o600))
		d := microvm.Drive{Path: path, ReadOnly: true, Role: []string{bootline.RoleRoot, bootline.RoleDisk, bootline.RoleMount + "/extra"}[i]}
		if d.Role == bootline.RoleDisk {
			d.ReadOnly = false
			must(l.t, os.Chown(path, int(uid), int(uid)))
		} else {
			must(l.t, os.Chmod(path, 0o644)) // root's, and for all to read
		}
		g.Drives = append(g.Drives, d)
	}
	return g
}

// group makes a control group, which with all that is in it ends with the test.
func (l *lab) group(path string) cgroup.Group {
	host, err := cgroup.Detect()
	must(l.t, err)
	group := host.Group("/" + path)
	must(l.t, group.Make())
	l.t.Cleanup(func() {
		if err := group.Kill(context.Background()); err != nil {
			l.t.Error(err)
		}
		for _, d := range group.Dirs() {
			_ = os.Remove(d)
		}
	})
	return group
}

// peerAddress is what each guest finds on the other side of its network device.
const peerAddress = "192.0.2.1:80"

// netNS makes a guest's network namespace, with a tap in it that is the guest's
// user's, and a server that tells who is there.
func (l *lab) netNS(g microvm.Guest) {
	l.t.Helper()
	must(l.t, os.WriteFile(g.NetNS, nil, 0o600))
	must(l.t, inside.OwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		// Ready-made, persistent, and with the address that every guest's gateway has, like
		// the product's: a guest that goes on elsewhere has asked for it already.
		tap := &netlink.Tuntap{
			LinkAttrs: netlink.LinkAttrs{Name: g.Link.Tap}, Mode: netlink.TUNTAP_MODE_TAP, Owner: g.UID, Group: g.UID,
			Flags: netlink.TUNTAP_ONE_QUEUE | netlink.TUNTAP_VNET_HDR,
		}
		syscall.ForkLock.RLock() // what starts meanwhile would have it open
		err := netlink.LinkAdd(tap)
		syscall.ForkLock.RUnlock()
		if err != nil {
			return err
		}
		if err := netlink.LinkSetHardwareAddr(tap, net.HardwareAddr{2, 0xfc, 0, 0, 0, 1}); err != nil {
			return err
		}
		addr, err := netlink.ParseAddr("192.0.2.1/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(tap, addr); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(tap); err != nil {
			return err
		}
		server, err := net.Listen("tcp4", "0.0.0.0:80")
		if err != nil {
			return err
		}
		l.t.Cleanup(func() { _ = server.Close() })
		go func() {
			for {
				conn, err := server.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(conn, "host of %s", g.ID)
				_ = conn.Close()
			}
		}()
		return unix.Mount("/proc/thread-self/ns/net", g.NetNS, "", unix.MS_BIND, "")
	}))
	l.t.Cleanup(func() { _ = unix.Unmount(g.NetNS, unix.MNT_DETACH) })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (l *lab) boot(g microvm.Guest) int {
	l.t.Helper()
	pid, err := l.engine.Boot(l.ctx(), g)
	must(l.t, err)
	return pid
}

// save saves a guest with its disk, and gives the memory and a guest for it.
func (l *lab) save(g microvm.Guest, last bool) (microvm.Memory, microvm.Guest) {
	l.t.Helper()
	to := microvm.Memory{Dir: l.memoryDir()}
	var clone microvm.Guest
	_, err := l.engine.Save(l.ctx(), g, to, last, func(context.Context) error {
		clone = l.guest(&g)
		return nil
	})
	must(l.t, err)
	return to, clone
}

func (l *lab) memoryDir() string {
	l.t.Helper()
	dir, err := os.MkdirTemp(l.dir, "memory-")
	must(l.t, err)
	return dir
}

// restore lets a guest go on from a saved memory.
func (l *lab) restore(e *firecracker.Engine, g microvm.Guest, from microvm.Memory) int {
	l.t.Helper()
	pid, err := e.Restore(l.ctx(), g, from)
	must(l.t, err)
	must(l.t, e.Thaw(l.ctx(), g))
	return pid
}

// ask asks a guest over its channel.
func (l *lab) ask(g microvm.Guest, method, path string) string {
	l.t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return l.engine.Dial(ctx, g) },
	}}
	request, err := http.NewRequestWithContext(l.ctx(), method, "http://guest"+path, nil)
	must(l.t, err)
	response, err := client.Do(request)
	if err != nil {
		said, _ := l.engine.Console(context.Background(), g)
		l.t.Fatalf("%s %s: %v\n%s", method, path, err, said)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	must(l.t, err)
	if response.StatusCode >= 300 {
		l.t.Fatalf("%s %s: %s: %s", method, path, response.Status, raw)
	}
	return string(raw)
}

// gone waits until a process is.
func (l *lab) gone(pid int) {
	l.t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return
	}
	must(l.t, err)
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		must(l.t, err)
		if n == 0 {
			l.t.Fatalf("process %d lives on", pid)
		}
		return
	}
}

// status is a process's /proc/PID/status, by key.
func status(t testing.TB, pid int) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	all := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(line, ":")
		all[key] = strings.Join(strings.Fields(value), " ")
	}
	return all
}

// groupOf is the control group that a process is in, as a directory.
func groupOf(t testing.TB, pid int) string {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	must(t, err)
	for line := range strings.Lines(string(raw)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join("/sys/fs/cgroup", path)
		}
	}
	return string(raw)
}

func command(name string, env ...string) *exec.Cmd {
	cmd := exec.Command(name)
	cmd.Env = append(os.Environ(), env...)
	return cmd
}
