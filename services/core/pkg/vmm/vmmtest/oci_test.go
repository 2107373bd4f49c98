package vmmtest_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/oci"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest"
)

var count atomic.Int64

func TestOCI(t *testing.T) {
	rootfs := os.Getenv("AETHERIUM_TEST_ROOTFS")
	if rootfs == "" {
		t.Skip("no rootfs")
	}
	agent := filepath.Join(t.TempDir(), "fc-agent")
	build := exec.Command("go", "build", "-o", agent, "../../../cmd/fc-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	vmmtest.Run(t, vmmtest.Config{
		Isolated: true, Limits: true, Sudo: true,
		New: func(t *testing.T) vmmtest.Harness {
			dir, err := os.MkdirTemp("/tmp", "ocic-")
			if err != nil {
				t.Fatal(err)
			}
			_ = os.Chmod(dir, 0o711)
			instance := fmt.Sprintf("c%d-%d", os.Getpid(), count.Add(1))
			var pool *disk.Pool
			var manager *network.Manager
			var driver *oci.Driver
			open := func(t *testing.T) *oci.Driver {
				ctx := context.WithoutCancel(t.Context())
				var err error
				if pool, err = disk.Open(ctx, disk.Config{Dir: dir + "/data", Backend: disk.BackendBtrfs, Size: 4 << 30}); err != nil {
					t.Fatal(err)
				}
				if manager, err = network.Open(ctx, network.Config{Instance: instance, RuntimeDir: dir + "/net", HostDir: dir + "/nethost", PoolNAT: -1, PoolNone: 2}); err != nil {
					t.Fatal(err)
				}
				driver, err = oci.New(ctx, oci.Config{
					Instance: instance, StateDir: dir + "/state", RuntimeDir: dir + "/run", Runtime: "runc",
					AgentPath: agent, Network: manager, Volumes: pool,
				})
				if err != nil {
					t.Fatal(err)
				}
				return driver
			}
			closeAll := func() error { return errors.Join(driver.Close(), manager.Close(), pool.Close()) }
			open(t)
			t.Cleanup(func() {
				ctx := context.Background()
				states, _ := driver.List(ctx)
				for _, s := range states {
					_ = driver.Delete(ctx, s.MachineID)
				}
				if err := errors.Join(driver.Teardown(ctx), driver.Close(), manager.Teardown(ctx), manager.Close(), pool.Close(), pool.Unmount(ctx)); err != nil {
					t.Error(err)
				}
				_ = os.RemoveAll(dir)
			})
			return vmmtest.Harness{
				Driver: driver,
				Spec: vmm.Spec{
					RootFS: rootfs, BuildID: "build1", Network: domain.NetworkNone, Platform: "linux/amd64",
					Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 256 << 20, DiskBytes: 256 << 20, PIDs: 256},
				},
				Reopen: func(t *testing.T) vmm.Driver {
					if err := closeAll(); err != nil {
						t.Fatal(err)
					}
					return open(t)
				},
				LeakCheck: func(t *testing.T) {
					mounts, _ := os.ReadFile("/proc/self/mounts")
					_ = mounts
				},
			}
		},
	})
}
