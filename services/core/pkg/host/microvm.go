package host

import (
	"context"
	"path/filepath"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm/kernel"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu"
)

// guestKernel gives what guests boot: the kernel that is installed, with this
// version's agent.
func (g ground) guestKernel() *kernel.Maker {
	return &kernel.Maker{Installed: g.settings.KernelDir(), Agent: g.agent(), Cache: filepath.Join(g.state, "kernels")}
}

func openQEMU(ctx context.Context, g ground) (vmm.Driver, error) {
	boots := g.guestKernel()
	engine, err := qemu.New(qemu.Config{Kernel: boots.Kernel, Logger: g.log})
	if err != nil {
		return nil, err
	}
	return openMicroVM(ctx, g, engine, boots, g.standby())
}

func openFirecracker(ctx context.Context, g ground) (vmm.Driver, error) {
	cfg := g.settings.Firecracker.Config()
	cfg.Pager, cfg.Logger = filepath.Join(g.settings.BinDir, "aetherium-fc-pager"), g.log
	engine, err := firecracker.New(cfg)
	if err != nil {
		return nil, err
	}
	standby := g.standby()
	if cfg.Backend == firecracker.UFFD {
		standby.Max = 0 // a page server brings what was used last before it is used, while the VM is paused
	}
	return openMicroVM(ctx, g, engine, g.guestKernel(), standby)
}

func (g ground) standby() microvm.Standby {
	return microvm.Standby{Max: g.settings.MicroVM.Standby.Max, For: time.Duration(g.settings.MicroVM.Standby.For)}
}

// openMicroVM opens the driver of an engine where there is what it needs.
func openMicroVM(ctx context.Context, g ground, engine microvm.Engine, boots *kernel.Maker, standby microvm.Standby) (vmm.Driver, error) {
	if _, err := kernel.Find(g.settings.KernelDir()); err != nil {
		return nil, err
	}
	d, err := microvm.New(ctx, microvm.Config{
		Instance: g.instance, StateDir: filepath.Join(g.state, engine.Name()), RuntimeDir: filepath.Join(g.run, engine.Name()),
		Engine: engine, Kernel: boots.Kernel, Network: g.network.For(engine.Name()), Volumes: g.disk, Logger: g.log,
		Booted:  microvm.Booted{Max: g.settings.MicroVM.Booted.Max, Bytes: int64(g.settings.MicroVM.Booted.Size)},
		Standby: standby,
	})
	if err != nil {
		return nil, err // and not a nil *microvm.Driver
	}
	return d, nil
}
