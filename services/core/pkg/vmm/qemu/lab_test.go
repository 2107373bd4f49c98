package qemu_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
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

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/cgroup"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu"
	"golang.org/x/sys/unix"
)

const (
	mib = 1 << 20
	// kernelEnv is the directory of an unpacked kernel package: boot/vmlinuz-* and lib/modules.
	kernelEnv = "AETHERIUM_TEST_KERNEL"
	// patience is how long a test waits for what takes a moment; it asserts nothing.
	patience = 2 * time.Minute
)

// shared is what the tests of one run have in common.
var shared struct {
	kernel microvm.Kernel
	skip   string
}

func TestMain(m *testing.M) {
	if raw := os.Getenv(victimEnv); raw != "" {
		os.Exit(victim(raw))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "qemu-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// Monitors pass through it.
	if err := os.Chmod(dir, 0o755); err != nil { // as it says
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := prepare(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func installed(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

// prepare makes what the guests boot.
func prepare(dir string) error {
	source := os.Getenv(kernelEnv)
	switch {
	case source == "":
		shared.skip = kernelEnv + " names no kernel to boot"
	case os.Getuid() != 0:
		shared.skip = "only root can start monitors"
	case !installed("qemu-system-x86_64"):
		shared.skip = "QEMU is not installed"
	}
	if shared.skip != "" {
		return nil
	}
	images, err := filepath.Glob(filepath.Join(source, "boot", "vmlinuz-*"))
	if err != nil || len(images) == 0 {
		return fmt.Errorf("no kernel is in %s: %w", source, err)
	}
	shared.kernel = microvm.Kernel{
		Version: strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-"),
		Image:   images[0], Initrd: filepath.Join(dir, "initrd"),
	}
	init := filepath.Join(dir, "init")
	build := exec.CommandContext(context.Background(), "go", "build", "-ldflags=-s -w", "-o", init, "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return makeInitrd(shared.kernel.Initrd, init, filepath.Join(source, "lib/modules", shared.kernel.Version, "kernel"))
}

// modules are those that the guest loads, in this order.
func modules() []string {
	return []string{
		"drivers/virtio/virtio_ring.ko", "drivers/virtio/virtio.ko", "drivers/virtio/virtio_mmio.ko",
		"drivers/block/virtio_blk.ko", "drivers/char/virtio_console.ko", "net/core/failover.ko",
		"drivers/net/net_failover.ko", "drivers/net/virtio_net.ko", "drivers/char/hw_random/virtio-rng.ko",
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

// lab is an engine with what its guests need.
type lab struct {
	t      testing.TB
	engine *qemu.Engine
	dir    string
	guests int
	pids   map[string]int // of the guests' monitors
}

func newLab(t testing.TB) *lab {
	t.Helper()
	if shared.skip != "" {
		t.Skip(shared.skip)
	}
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil { // monitors pass through
			t.Fatal(err)
		}
	}
	l := &lab{t: t, dir: dir, pids: map[string]int{}}
	l.fresh()
	return l
}

// fresh makes a new engine, as a new process has one.
func (l *lab) fresh() {
	l.t.Helper()
	e, err := qemu.New(qemu.Config{Accelerator: qemu.TCG})
	must(l.t, err)
	l.t.Cleanup(func() { _ = e.Close() })
	l.engine = e
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
	uid := uint32(700000 + l.guests)         // a few
	dir := filepath.Join(shortTemp(l.t), id) // socket paths are short
	group := l.group(fmt.Sprintf("aeth-qt-%d-%s", os.Getpid(), id+filepath.Base(filepath.Dir(dir))))
	g := microvm.Guest{
		ID: id, Dir: dir, UID: uid, Cgroup: group.Dirs(),
		NetNS: filepath.Join(l.dir, id+".net"), Kernel: shared.kernel, CPUs: 1, Memory: 128 * mib,
		Link: &microvm.Link{Tap: "tap0", MAC: net.HardwareAddr{0x02, 0, 0, 0, 0, byte(l.guests)}, MTU: 1420},
	}
	must(l.t, os.MkdirAll(dir, 0o700))
	must(l.t, os.Chown(dir, int(uid), int(uid)))
	l.netNS(g)
	root, own, extra := filepath.Join(l.dir, id+".root"), filepath.Join(l.dir, id+".disk"), filepath.Join(l.dir, id+".extra")
	for i, path := range []string{root, own, extra} {
		if of != nil {
			raw, err := os.ReadFile(of.Drives[i].Path)
			must(l.t, err)
			must(l.t, os.WriteFile(path, raw, 0o600))
		} else {
			must(l.t, os.WriteFile(path, []byte([]string{"root", "disk", "extra"}[i]), 0o600))
			must(l.t, os.Truncate(path, 4*mib))
		}
		must(l.t, os.Chown(path, int(uid), int(uid)))
	}
	g.Drives = []microvm.Drive{
		{Path: root, ReadOnly: true, Role: bootline.RoleRoot},
		{Path: own, Role: bootline.RoleDisk},
		{Path: extra, ReadOnly: true, Role: bootline.RoleMount + "/extra"},
	}
	return g
}

func shortTemp(t testing.TB) string {
	dir, err := os.MkdirTemp("", "q")
	must(t, err)
	must(t, os.Chmod(dir, 0o755)) // monitors pass through
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// group makes a control group, which with all that is in it ends with the test.
func (l *lab) group(path string) cgroup.Group {
	host, err := cgroup.Detect()
	must(l.t, err)
	group := host.Group("/" + path)
	must(l.t, group.Make())
	l.t.Cleanup(func() {
		if err := errors.Join(group.Kill(context.Background()), group.Remove(context.Background())); err != nil {
			l.t.Error(err)
		}
		reap()
	})
	return group
}

// reap takes the remains of monitors.
func reap() {
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
			return
		}
	}
}

// netNS makes a guest's network namespace, with a tap in it.
func (l *lab) netNS(g microvm.Guest) {
	l.t.Helper()
	must(l.t, os.WriteFile(g.NetNS, nil, 0o600))
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			syscall.ForkLock.RLock() // what starts meanwhile would have it open
			defer syscall.ForkLock.RUnlock()
			f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			request, err := unix.NewIfreq(g.Link.Tap)
			if err != nil {
				return err
			}
			request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
			if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, request); err != nil {
				return err
			}
			if err := unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, 1); err != nil {
				return err
			}
			return unix.Mount("/proc/thread-self/ns/net", g.NetNS, "", unix.MS_BIND, "")
		}()
	}()
	must(l.t, <-done)
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
	l.pids[g.ID] = pid
	return pid
}

// fate says what became of a guest's monitor.
func (l *lab) fate(g microvm.Guest) string {
	var ws unix.WaitStatus
	if pid, err := unix.Wait4(l.pids[g.ID], &ws, unix.WNOHANG, nil); pid <= 0 {
		return fmt.Sprintf("its monitor has not ended (%v)", err)
	}
	return fmt.Sprintf("its monitor exited %v (%d), was ended by a signal %v (%v)", ws.Exited(), ws.ExitStatus(), ws.Signaled(), ws.Signal())
}

// ask asks a guest over its channel.
func (l *lab) ask(g microvm.Guest, method, path string) string {
	l.t.Helper()
	text, err := askOnce(l.ctx(), l.engine, g, method, path)
	if err != nil {
		said, _ := l.engine.Console(context.Background(), g)
		l.t.Fatalf("%s %s: %v; %s\n%s", method, path, err, l.fate(g), said)
	}
	return text
}

func askOnce(ctx context.Context, e *qemu.Engine, g microvm.Guest, method, path string) (string, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return e.Dial(ctx, g) },
	}}
	request, err := http.NewRequestWithContext(ctx, method, "http://guest"+path, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s", response.Status, raw)
	}
	return string(raw), err
}
