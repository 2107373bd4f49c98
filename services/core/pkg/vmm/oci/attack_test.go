package oci_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/network/networktest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/oci"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest/attack"
)

// TestAttacks has root in a machine try everything that must not work. The
// machines have a network, on a host that nothing leads out of.
func TestAttacks(t *testing.T) {
	if shared.skip != "" {
		t.Skip(shared.skip)
	}
	if !attack.OnOwnHost(t, "AETHERIUM_TEST_ROOTFS="+shared.template, agentEnv+"="+shared.agent) {
		return
	}
	lab := attack.NewLab(t)
	node := openNode(t, lab)
	s := spec("")
	s.Network = domain.NetworkNAT
	s.Resources.DiskBytes = 24 * mib
	attack.Run(t, attack.Config{
		Driver: node.Driver, Spec: s, Lab: lab, Shared: true,
		Attachment: func(id string) network.Attachment {
			a, ok, err := node.net.Lookup(t.Context(), id)
			if err != nil || !ok {
				t.Fatalf("the machine %s has no network: %v", id, err)
			}
			return a
		},
	})
}

// openNode is what a worker holds of a host, with a network that leads to the lab's.
func openNode(t *testing.T, inet *attack.Lab) *lab {
	t.Helper()
	ctx := t.Context()
	dir, err := os.MkdirTemp("/tmp", "oci-")
	must(t, err)
	must(t, os.Chmod(dir, 0o711))
	instance := fmt.Sprintf("a%d", os.Getpid())
	must(t, os.WriteFile(dir+"/instance", []byte(instance), 0o600))
	l := &lab{t: t, dir: dir}
	low, high := networktest.IDs(t) // given back when the lab is gone
	t.Cleanup(l.demolish)
	forwarder := filepath.Join(dir, attack.NetdName)
	must(t, os.Symlink("/proc/self/exe", forwarder))
	l.pool, err = disk.Open(ctx, disk.Config{Dir: dir + "/data", Backend: diskBackend(), Size: 4 << 30})
	must(t, err)
	l.net, err = network.Open(ctx, network.Config{
		Instance: instance, RuntimeDir: "/run/net", HostDir: "/run/host", NetdPath: forwarder, IDLow: low, IDHigh: high,
		Resolvers: inet.Resolvers(), DenyCIDRs: inet.DenyCIDRs(), PoolNone: -1, PoolNAT: 2,
	})
	must(t, err)
	l.Driver, err = oci.New(ctx, oci.Config{
		Instance: instance, StateDir: dir + "/state", RuntimeDir: dir + "/run", Runtime: ociRuntime(),
		AgentPath: attack.Agent(), Network: l.net, Volumes: l.pool,
	})
	must(t, err)
	return l
}
