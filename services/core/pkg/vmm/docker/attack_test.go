package docker_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/network/networktest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/docker"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/docker/dockertest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest/attack"
)

func TestMain(m *testing.M) {
	attack.RunNetd()
	if os.Getenv(workerEnv) != "" {
		fmt.Fprintln(os.Stderr, "worker:", churn())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// template is a root filesystem with nothing but accounts.
func template(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "rootfs")
	for _, dir := range []string{"etc", "root", "tmp", "mnt"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	must(t, os.Chmod(filepath.Join(root, "tmp"), 0o1777))
	must(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "etc/group"), []byte("root:x:0:\nuser:x:1000:\n"), 0o644))
	return root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestAttacks has root in a machine try everything that must not work. The
// machines have a network, on a host that nothing leads out of.
func TestAttacks(t *testing.T) {
	if !attack.OnOwnHost(t) {
		return
	}
	lab := attack.NewLab(t)
	engine := dockertest.Start(t)
	d, net := openNode(t, lab, engine)
	attack.Run(t, attack.Config{
		Driver: d, Lab: lab, Shared: true, Differs: differs(), Permits: permits,
		Spec: vmm.Spec{
			RootFS: template(t), BuildID: "template", Network: domain.NetworkNAT,
			Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 128 << 20, DiskBytes: 24 << 20, PIDs: 64},
		},
		Attachment: func(id string) network.Attachment {
			a, ok, err := net.Lookup(t.Context(), id)
			if err != nil || !ok {
				t.Fatalf("the machine %s has no network: %v", id, err)
			}
			return a
		},
	})
}

// differs is what a container withstands less than a machine with a user
// namespace: what the kernel counts for users is counted for the host's root
// (docs/DRIVERS.md).
func differs() map[string]string {
	const rootsOwn = "the kernel counts it for the host's root, who is root in the container too"
	return map[string]string{
		"inotify": rootsOwn, "message queues": rootsOwn, "pipes": rootsOwn,
		"asynchronous I/O": "the kernel has one stock of it for the host, and root in the container may take all",
		"terminals":        "the engine bounds no container's terminals",
		"files":            "the file system here cannot limit disks",
		"devices":          "the engine lets containers make the nodes of tun and of the console, which are of no use in there",
	}
}

// permits says why root in a container, who is the host's root with Docker's
// seccomp filter and capabilities, may do what root with IDs of its own may not.
func permits(attempt string) string {
	path, write := strings.CutPrefix(attempt, "writing to the kernel: ")
	if write {
		path, _, _ = strings.Cut(path, " ")
		// Root opens what nobody has the right to write, and nothing in there takes a word.
		if info, err := os.Stat(path); err == nil && info.Mode()&0o222 == 0 {
			return "it cannot be written to"
		}
		return ""
	}
	for prefix, why := range map[string]string{
		"be a user outside": "IDs are the host's", "be a group outside": "IDs are the host's", "give a file away": "IDs are the host's",
		"set up an io_uring": "Docker's filter decides, by its version", "set up asynchronous I/O": "Docker's filter lets it",
		"speak to the hypervisor": "Docker's filter lets it",
		// With version 1 a container has a file system of its own there, which holds its groups' read-only mounts.
		"make a control group": "it is a directory", "write to /sys/fs/cgroup/": "it is a file",
	} {
		if strings.HasPrefix(attempt, prefix) {
			if groups, err := os.ReadDir("/sys/fs/cgroup"); prefix[0] != 'm' && prefix[0] != 'w' || err == nil && isV1(groups) {
				return why
			}
		}
	}
	return ""
}

// isV1 reports that there is a directory for each controller.
func isV1(groups []os.DirEntry) bool {
	return slices.ContainsFunc(groups, func(e os.DirEntry) bool { return e.Name() == "memory" && e.IsDir() })
}

// openNode is what a worker holds of a host, with a network that leads to the lab's.
func openNode(t *testing.T, inet *attack.Lab, engine *dockertest.Engine) (*docker.Driver, *network.Manager) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	dir, err := os.MkdirTemp("/tmp", "docker-")
	must(t, err)
	must(t, os.Chmod(dir, 0o711))
	instance := fmt.Sprintf("a%d", os.Getpid())
	forwarder := filepath.Join(dir, attack.NetdName)
	must(t, os.Symlink("/proc/self/exe", forwarder))
	low, high := networktest.IDs(t)
	net, err := network.Open(ctx, network.Config{
		Instance: instance, RuntimeDir: "/run/net", HostDir: "/run/host", NetdPath: forwarder, IDLow: low, IDHigh: high,
		Resolvers: inet.Resolvers(), DenyCIDRs: inet.DenyCIDRs(), PoolNone: -1, PoolNAT: 2,
	})
	must(t, err)
	d, err := docker.New(ctx, docker.Config{
		Instance: instance, RuntimeDir: dir + "/run", Socket: engine.Socket, AgentPath: attack.Agent(), Network: net.For(docker.Name),
	})
	must(t, err)
	t.Cleanup(func() {
		if err := errors.Join(d.Teardown(ctx), d.Close(), net.Teardown(ctx), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return d, net
}
