package fake_test

import (
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest"
)

func newNode(t *testing.T) *fake.Node {
	n := fake.NewNode(t.TempDir())
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func TestConformance(t *testing.T) {
	t.Parallel()
	vmmtest.Run(t, vmmtest.Config{Replays: true, New: func(t *testing.T) vmmtest.Harness {
		n := newNode(t)
		n.KeepMemory()
		d := fake.New(n)
		t.Cleanup(func() { _ = d.Close() })
		return vmmtest.Harness{
			Driver: d,
			Spec: vmm.Spec{
				BuildID: "build", Network: domain.NetworkNone, Platform: "linux/amd64",
				Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 256 << 20, DiskBytes: 256 << 20, PIDs: 256},
			},
			Reopen: func(t *testing.T) vmm.Driver {
				_ = d.Close()
				d = fake.New(n)
				return d
			},
			LeakCheck: func(t *testing.T) {
				for _, leak := range n.Leaks() {
					t.Error(leak)
				}
			},
		}
	}})
}
