package vmmtest_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/network/networktest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/oci"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest"
)

// What the suite runs with.
const (
	rootfsEnv  = "AETHERIUM_TEST_ROOTFS"  // a template's root filesystem to make machines from
	runtimeEnv = "AETHERIUM_TEST_RUNTIME" // default: crun
	diskEnv    = "AETHERIUM_TEST_DISK"    // default: btrfs
)

// TestOCI runs the suite on the oci driver with the real agent.
func TestOCI(t *testing.T) {
	rootfs := os.Getenv(rootfsEnv)
	switch {
	case rootfs == "":
		t.Skip("no root filesystem is given in " + rootfsEnv)
	case os.Geteuid() != 0:
		t.Skip("machines need root")
	}
	runtime, backend := cmp.Or(os.Getenv(runtimeEnv), "crun"), cmp.Or(os.Getenv(diskEnv), disk.BackendBtrfs)
	for _, tool := range []string{runtime, "mkfs." + backend} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	agent := vmmtest.Agent(t)
	_, noSudo := os.Lstat(filepath.Join(rootfs, "usr/bin/sudo"))
	vmmtest.Run(t, vmmtest.Config{
		Isolated: true, Limits: true, Sudo: noSudo == nil,
		New: func(t *testing.T) vmmtest.Harness {
			return newOCI(t, ociNode{agent: agent, runtime: runtime, backend: backend}, rootfs)
		},
	})
}

// ociNode is what a worker holds of a host.
type ociNode struct {
	dir, instance, agent string
	lowID, highID        uint32
	runtime, backend     string
	pool                 *disk.Pool
	net                  *network.Manager
	driver               *oci.Driver
}

var instances atomic.Int64

func newOCI(t *testing.T, n ociNode, rootfs string) vmmtest.Harness {
	n.lowID, n.highID = networktest.IDs(t)
	// Sockets want a short path, which t.TempDir has not.
	dir, err := os.MkdirTemp("/tmp", "vmmtest-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	n.dir, n.instance = dir, fmt.Sprintf("c%d-%d", os.Getpid(), instances.Add(1))
	n.open(t)
	t.Cleanup(func() { n.demolish(t) })
	return vmmtest.Harness{
		Driver: n.driver,
		Spec: vmm.Spec{
			RootFS: rootfs, BuildID: "build", Network: domain.NetworkNone, Platform: "linux/amd64",
			Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 256 << 20, DiskBytes: 256 << 20, PIDs: 256},
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

func (n *ociNode) open(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	var err error
	n.pool, err = disk.Open(ctx, disk.Config{Dir: n.dir + "/data", Backend: n.backend, Size: 4 << 30})
	if err != nil {
		t.Fatal(err)
	}
	n.net, err = network.Open(ctx, network.Config{
		Instance: n.instance, RuntimeDir: n.dir + "/net", HostDir: n.dir + "/nethost", PoolNAT: -1, PoolNone: 2,
		IDLow: n.lowID, IDHigh: n.highID,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.driver, err = oci.New(ctx, oci.Config{
		Instance: n.instance, StateDir: n.dir + "/state", RuntimeDir: n.dir + "/run", Runtime: n.runtime,
		AgentPath: n.agent, Network: n.net, Volumes: n.pool,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// leakCheck looks through the host for what machines leave: mounts and control groups.
func (n *ociNode) leakCheck(t *testing.T) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) > 2 && strings.HasPrefix(fields[1], n.dir+"/") && fields[2] == "overlay" {
			t.Errorf("still mounted: %s", line)
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/aetherium-%s/*/cgroup.procs", "/sys/fs/cgroup/aetherium-%s/*/cgroup.procs"} {
		left, err := filepath.Glob(fmt.Sprintf(pattern, n.instance))
		if err != nil || len(left) > 0 {
			t.Errorf("control groups of machines are left: %v, %v", left, err)
		}
	}
	if left, err := filepath.Glob(n.dir + "/run/m/*"); err != nil || len(left) > 0 {
		t.Errorf("directories of machines are left: %v, %v", left, err)
	}
}

// demolish removes everything from the host, also after a failed test.
func (n *ociNode) demolish(t *testing.T) {
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
