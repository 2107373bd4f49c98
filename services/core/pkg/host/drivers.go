package host

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/docker"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/oci"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu"
)

// ground is what drivers stand on.
type ground struct {
	settings Settings
	instance string
	state    string // directory of what drivers keep, one below for each
	run      string // and of what a reboot may take away
	network  *network.Manager
	disk     *disk.Pool
	log      *slog.Logger
}

func (g ground) agent() string { return filepath.Join(g.settings.BinDir, "fc-agent") }

// opener opens a driver.
type opener struct {
	name      string
	isolation domain.Isolation // what it gives where it can be used
	late      bool             // its trial takes long
	open      func(context.Context, ground) (vmm.Driver, error)
}

// openers are all the drivers that there are.
func openers() []opener {
	return []opener{
		{oci.Name, domain.IsolationContainer, false, openOCI},
		{firecracker.Name, domain.IsolationMicroVM, true, openFirecracker},
		{qemu.Name, domain.IsolationMicroVM, true, openQEMU},
		{docker.Name, domain.IsolationContainerRoot, true, openDocker},
	}
}

func openOCI(ctx context.Context, g ground) (vmm.Driver, error) {
	d, err := oci.New(ctx, oci.Config{
		Instance: g.instance, StateDir: filepath.Join(g.state, oci.Name), RuntimeDir: filepath.Join(g.run, oci.Name), Runtime: g.settings.OCI.Runtime,
		AgentPath: g.agent(), Network: g.network.For(oci.Name), Volumes: g.disk, Logger: g.log,
	})
	if err != nil {
		return nil, err // and not a nil *oci.Driver
	}
	return d, nil
}

func openDocker(ctx context.Context, g ground) (vmm.Driver, error) {
	d, err := docker.New(ctx, docker.Config{
		Instance: g.instance, RuntimeDir: filepath.Join(g.run, docker.Name), Socket: g.settings.Docker.Socket,
		AgentPath: g.agent(), Network: g.network.For(docker.Name), Logger: g.log,
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// opened are the drivers of a node.
type opened struct {
	drivers map[string]vmm.Driver
	absent  []domain.DriverInfo // that could not be opened, and why
	late    []string            // whose trial takes long
}

// openAll opens the drivers that the settings want. One that cannot be opened
// on this host is told of and left out, unless VMs are made with it that name
// no driver.
func openAll(ctx context.Context, g ground) (o opened, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, o.close())
		}
	}()
	o.drivers = map[string]vmm.Driver{}
	ask := g.settings.VM.Driver
	for _, op := range openers() {
		if !g.settings.Wants(op.name) {
			continue
		}
		d, err := op.open(ctx, g)
		if err != nil && op.name == ask {
			return o, err
		}
		if err != nil {
			g.log.Info("a driver is left out", "driver", op.name, "reason", reason(err))
			o.absent = append(o.absent, op.without(err))
			continue
		}
		o.drivers[op.name] = d
		if op.late && op.name != ask {
			o.late = append(o.late, op.name)
		}
	}
	if len(o.drivers) == 0 {
		return o, errors.New(errors.Unsupported, "no driver can be opened on this host: %s", o.reasons()).WithField("drivers").
			WithHint("this program's command `doctor` tells what each lacks")
	}
	if o.drivers[ask] == nil && ask != domain.DriverAuto {
		return o, errors.New(errors.Unsupported, "this program has no driver %s", ask).WithField("vm.driver")
	}
	return o, nil
}

// without describes a driver that could not be opened.
func (op opener) without(err error) domain.DriverInfo {
	return domain.DriverInfo{Name: op.name, Isolation: op.isolation, Reason: reason(err), Capabilities: []string{}}
}

// reason is an error as it may be shown to callers of the API.
func reason(err error) string {
	e := errors.Public(err)
	if e.Hint != "" {
		return e.Message + "; " + e.Hint
	}
	return e.Message
}

func (o opened) reasons() string {
	all := make([]string, len(o.absent))
	for i, a := range o.absent {
		all[i] = a.Name + ": " + a.Reason
	}
	return strings.Join(all, "; ")
}

func (o opened) close() error {
	var err error
	for _, d := range o.drivers {
		if c, ok := d.(vmm.Closer); ok {
			err = errors.Join(err, c.Close())
		}
	}
	return err
}

// builder is the driver of the machines that templates are built in and tools
// are installed in: they need one that shows its snapshots' files.
func (o opened) builder(ask string) string {
	for _, name := range append([]string{ask}, domain.Drivers()...) {
		if _, ok := o.drivers[name].(vmm.Flattener); ok {
			return name
		}
	}
	return ask
}
