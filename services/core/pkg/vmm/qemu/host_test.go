package qemu_test

import (
	"context"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu"
)

// Guests are emulated where they do not come up with KVM, whatever there is of
// it, and whoever insists is told so.
func TestProof(t *testing.T) {
	l := newLab(t)
	config := qemu.Config{Kernel: func(context.Context) (microvm.Kernel, error) { return shared.kernel, nil }}
	e, err := qemu.New(config)
	must(t, err)
	version, err := e.Version(l.ctx())
	must(t, err)
	t.Log(version)
	config.Accelerator = qemu.KVM
	insists, err := qemu.New(config)
	must(t, err)
	_, err = insists.Version(l.ctx())
	switch {
	case strings.Contains(version, " kvm "):
		must(t, err)
	case !errors.HasCode(err, errors.Unsupported):
		t.Errorf("whoever insists on KVM gets %v", err)
	}
	// A kernel that does not come up is no proof.
	config.Accelerator = qemu.Auto
	config.Kernel = func(context.Context) (microvm.Kernel, error) {
		return microvm.Kernel{Image: shared.kernel.Initrd}, nil
	}
	if e, err = qemu.New(config); err != nil {
		t.Fatal(err)
	}
	if version, err := e.Version(l.ctx()); err != nil || !strings.Contains(version, " tcg max") {
		t.Errorf("without a kernel: %q, %v", version, err)
	}
}
