package vmmtest_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/network/networktest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm/kernel"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest/attack"
)

const (
	kernelEnv      = "AETHERIUM_TEST_KERNEL"      // an unpacked kernel package
	acceleratorEnv = "AETHERIUM_TEST_ACCELERATOR" // default: tcg
)

// TestQEMU runs the suite on the qemu driver with the real agent.
func TestQEMU(t *testing.T) {
	accelerator := qemu.Accelerator(cmp.Or(os.Getenv(acceleratorEnv), string(qemu.TCG)))
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("QEMU is not installed")
	}
	runMicroVM(t, func(t *testing.T, kernel func(context.Context) (microvm.Kernel, error)) microvm.Engine {
		t.Helper()
		e, err := qemu.New(qemu.Config{Accelerator: accelerator, Kernel: kernel})
		if err != nil {
			t.Fatal(err)
		}
		return e
	})
}

// runMicroVM runs the suite on a driver with an engine.
func runMicroVM(t *testing.T, engine func(*testing.T, func(context.Context) (microvm.Kernel, error)) microvm.Engine) {
	t.Helper()
	rootfs, packaged := os.Getenv(rootfsEnv), os.Getenv(kernelEnv)
	switch {
	case rootfs == "":
		t.Skip("no root filesystem is given in " + rootfsEnv)
	case packaged == "":
		t.Skip("no kernel is given in " + kernelEnv)
	case os.Geteuid() != 0:
		t.Skip("machines need root")
	}
	for _, tool := range []string{"mkfs.erofs", "mke2fs"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	// Sockets want a short path, which t.TempDir has not.
	dir, err := os.MkdirTemp("/tmp", "vmmtest-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // monitors pass through it
		t.Fatal(err)
	}
	source, err := kernel.Find(packaged)
	if err != nil {
		t.Fatal(err)
	}
	boots, err := kernel.Build(t.Context(), source, vmmtest.Agent(t), filepath.Join(dir, "kernel"))
	if err != nil {
		t.Fatal(err)
	}
	lab := attack.NewLab(t)
	n := &microNode{dir: dir, instance: fmt.Sprintf("v%d-%d", os.Getpid(), instances.Add(1)), rootfs: rootfs, lab: lab}
	n.lowID, n.highID = networktest.IDs(t)
	if err := os.Symlink("/proc/self/exe", filepath.Join(dir, attack.NetdName)); err != nil {
		t.Fatal(err)
	}
	outside := lab.Echo()
	n.engine = func(t *testing.T) microvm.Engine {
		t.Helper()
		return engine(t, n.kernel)
	}
	n.boots = boots
	n.open(t)
	t.Cleanup(func() { n.demolish(t) })
	_, noSudo := os.Lstat(filepath.Join(rootfs, "usr/bin/sudo"))
	vmmtest.Run(t, vmmtest.Config{
		Isolated: true, Limits: true, Sudo: noSudo == nil,
		New:     func(*testing.T) vmmtest.Harness { return n.harness() },
		Outside: func(*testing.T) string { return outside },
	})
}

// microNode is what a worker holds of a host. One serves the whole suite: its
// template becomes an image once.
type microNode struct {
	dir, instance, rootfs string
	lowID, highID         uint32
	engine                func(*testing.T) microvm.Engine
	boots                 microvm.Kernel
	lab                   *attack.Lab
	pool                  *disk.Pool
	net                   *network.Manager
	driver                *microvm.Driver
}

func (n *microNode) kernel(context.Context) (microvm.Kernel, error) { return n.boots, nil }

func (n *microNode) harness() vmmtest.Harness {
	return vmmtest.Harness{
		Driver: n.driver,
		Spec: vmm.Spec{
			RootFS: n.rootfs, BuildID: "build", Network: domain.NetworkNone, Platform: "linux/amd64",
			Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 192 << 20, DiskBytes: 256 << 20, PIDs: 256},
		},
		Reopen: func(t *testing.T) vmm.Driver {
			if err := errors.Join(n.driver.Close(), n.net.Close(), n.pool.Close()); err != nil {
				t.Fatal(err)
			}
			n.open(t)
			return n.driver
		},
		LeakCheck: n.leakCheck,
	}
}

func (n *microNode) open(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	var err error
	n.pool, err = disk.Open(ctx, disk.Config{Dir: n.dir + "/data", Backend: cmp.Or(os.Getenv(diskEnv), disk.BackendBtrfs), Size: 8 << 30})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(n.dir+"/data", 0o711); err != nil { //nolint:gosec // monitors pass through it
		t.Fatal(err)
	}
	n.net, err = network.Open(ctx, network.Config{
		Instance: n.instance, RuntimeDir: n.dir + "/net", HostDir: n.dir + "/nethost", PoolNAT: -1, PoolNone: 2,
		IDLow: n.lowID, IDHigh: n.highID,
		NetdPath: filepath.Join(n.dir, attack.NetdName), Resolvers: n.lab.Resolvers(), DenyCIDRs: n.lab.DenyCIDRs(),
	})
	if err != nil {
		t.Fatal(err)
	}
	engine := n.engine(t)
	n.driver, err = microvm.New(ctx, microvm.Config{
		Instance: n.instance, StateDir: n.dir + "/state", RuntimeDir: n.dir + "/run", Engine: engine, Kernel: n.kernel,
		Network: n.net.For(engine.Name()), Volumes: n.pool, Standby: microvm.Standby{Max: 2, For: time.Minute},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// leakCheck looks through the host for what machines leave.
func (n *microNode) leakCheck(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{
		"/sys/fs/cgroup/*/aetherium-" + n.instance + ".*/*/cgroup.procs", "/sys/fs/cgroup/aetherium-" + n.instance + ".*/*/cgroup.procs",
		n.dir + "/run/g/*", n.dir + "/run/p/*", n.dir + "/run/e/*", n.dir + "/state/machines/*",
	} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("machines leave %v, %v", left, err)
		}
	}
	volumes, err := n.pool.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range volumes {
		if !strings.Contains(v, "-b-") { // empty disks are kept
			t.Errorf("a volume is left: %s", v)
		}
	}
}

// demolish removes everything from the host, also after a failed test.
func (n *microNode) demolish(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	states, err := n.driver.List(ctx)
	for _, s := range states {
		err = errors.Join(err, n.driver.Delete(ctx, s.MachineID))
	}
	err = errors.Join(err, n.driver.Teardown(ctx), n.driver.Close(), n.net.Teardown(ctx), n.net.Close(),
		n.pool.Close(), n.pool.Unmount(ctx), os.RemoveAll(n.dir))
	if err != nil {
		t.Error(err)
	}
}
