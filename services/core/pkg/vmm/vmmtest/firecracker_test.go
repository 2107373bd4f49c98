package vmmtest_test

import (
	"context"
	"os"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// TestFirecracker runs the suite on the firecracker driver with the real agent,
// in the machine of tests/scenarios/firecracker or on a host with KVM.
func TestFirecracker(t *testing.T) {
	cfg := firecracker.Config{
		Binary: os.Getenv("AETHERIUM_TEST_FIRECRACKER"), Jailer: os.Getenv("AETHERIUM_TEST_JAILER"),
		Pager: os.Getenv("AETHERIUM_TEST_PAGER"), KernelArgs: os.Getenv("AETHERIUM_TEST_KERNEL_ARGS"),
		Backend: firecracker.Backend(os.Getenv("AETHERIUM_TEST_BACKEND")),
	}
	if cfg.Binary == "" {
		t.Skip("no Firecracker is given in AETHERIUM_TEST_FIRECRACKER")
	}
	runMicroVM(t, func(t *testing.T, _ func(context.Context) (microvm.Kernel, error)) microvm.Engine {
		t.Helper()
		e, err := firecracker.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return e
	})
}
