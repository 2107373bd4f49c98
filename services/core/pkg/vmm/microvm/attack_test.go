package microvm_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/network/networktest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest/attack"
)

// TestAttacks has root in a machine of QEMU try everything that must not work.
func TestAttacks(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("QEMU is not installed")
	}
	attacked(t, func() (microvm.Engine, error) { return qemu.New(qemu.Config{Accelerator: qemu.TCG}) })
}

// TestAttacksOnFirecracker does so in one of Firecracker, in the machine of
// tests/scenarios/firecracker or on a host with KVM.
func TestAttacksOnFirecracker(t *testing.T) {
	cfg := firecracker.Config{
		Binary: os.Getenv("AETHERIUM_TEST_FIRECRACKER"), Jailer: os.Getenv("AETHERIUM_TEST_JAILER"),
		Pager: os.Getenv("AETHERIUM_TEST_PAGER"), KernelArgs: os.Getenv("AETHERIUM_TEST_KERNEL_ARGS"),
	}
	if cfg.Binary == "" {
		t.Skip("no Firecracker is given in AETHERIUM_TEST_FIRECRACKER")
	}
	attacked(t, func() (microvm.Engine, error) { return firecracker.New(cfg) })
}

// attacked has root in a machine with a kernel of its own try everything that
// must not work, and everything that its kernel lets it do. The machines have a
// network, on a host that nothing leads out of.
func attacked(t *testing.T, engine func() (microvm.Engine, error)) {
	packaged := os.Getenv("AETHERIUM_TEST_KERNEL")
	if packaged == "" {
		t.Skip("no kernel is given in AETHERIUM_TEST_KERNEL")
	}
	for _, tool := range []string{"mkfs.erofs", "mke2fs", "mkfs." + diskBackend()} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	if !attack.OnOwnHost(t) {
		return
	}
	inet := attack.NewLab(t)
	k := buildKernel(t, packaged, attack.Agent())
	e, err := engine()
	must(t, err)
	l := attackedHost(t, inet, k, e)
	attack.Run(t, attack.Config{
		Driver: l.Driver, Lab: inet,
		Spec: vmm.Spec{
			RootFS: l.dir + "/rootfs", BuildID: "template", Network: domain.NetworkNAT,
			Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 128 * mib, DiskBytes: 16 * mib, PIDs: 64},
		},
		Common: []string{k.Image, k.Initrd, l.dir + "/state/images/*.erofs"},
		Attachment: func(id string) network.Attachment {
			a, ok, err := l.net.Lookup(t.Context(), id)
			if err != nil || !ok {
				t.Fatalf("the machine %s has no network: %v", id, err)
			}
			return a
		},
	})
}

// attackedHost is what a worker holds of a host, with a network that leads to the lab's.
func attackedHost(t *testing.T, inet *attack.Lab, k microvm.Kernel, engine microvm.Engine) *lab {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	dir, err := os.MkdirTemp("/tmp", "mva-")
	must(t, err)
	must(t, os.Chmod(dir, 0o711))
	l := &lab{t: t, dir: dir}
	// A root filesystem with nothing but accounts.
	for _, d := range []string{"etc", "root", "tmp", "mnt"} {
		must(t, os.MkdirAll(filepath.Join(dir, "rootfs", d), 0o755))
	}
	must(t, os.Chmod(dir+"/rootfs/tmp", os.ModeSticky|0o777))
	must(t, os.WriteFile(dir+"/rootfs/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(dir+"/rootfs/etc/group", []byte("root:x:0:\nuser:x:1000:\n"), 0o644))
	must(t, os.Symlink("/proc/self/exe", filepath.Join(dir, attack.NetdName)))
	instance := fmt.Sprintf("a%d", os.Getpid())
	l.pool, err = disk.Open(ctx, disk.Config{Dir: dir + "/data", Backend: diskBackend(), Size: 4 << 30})
	must(t, err)
	must(t, os.Chmod(dir+"/data", 0o711))
	low, high := networktest.IDs(t)
	l.net, err = network.Open(ctx, network.Config{
		Instance: instance, RuntimeDir: "/run/net", HostDir: "/run/host", NetdPath: filepath.Join(dir, attack.NetdName), IDLow: low, IDHigh: high,
		Resolvers: inet.Resolvers(), DenyCIDRs: inet.DenyCIDRs(), PoolNone: -1, PoolNAT: 2,
	})
	must(t, err)
	l.Driver, err = microvm.New(ctx, microvm.Config{
		Instance: instance, StateDir: dir + "/state", RuntimeDir: dir + "/run", Engine: engine,
		Kernel:  func(context.Context) (microvm.Kernel, error) { return k, nil },
		Network: l.net.For(engine.Name()), Volumes: l.pool,
	})
	must(t, err)
	t.Cleanup(func() {
		if err := errors.Join(l.Teardown(ctx), l.Close(), l.net.Teardown(ctx), l.pool.Close(), l.pool.Unmount(ctx), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return l
}
