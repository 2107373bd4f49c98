package oci

import (
	"context"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Create prepares a machine. See [vmm.Driver].
func (d *Driver) Create(ctx context.Context, spec vmm.Spec) (vmm.Handle, error) {
	if err := checkSpec(spec); err != nil {
		return nil, err
	}
	ctx, done, err := d.turns.Begin(ctx, spec.MachineID, false)
	if err != nil {
		return nil, err
	}
	defer done()
	r, err := d.load(spec.MachineID)
	switch {
	case errors.HasCode(err, errors.NotFound):
		r = &machineRecord{facts: facts{
			Version: recordVersion, MachineID: spec.MachineID,
			Spec: spec, Runtime: d.runtime.kind, CreatedAt: time.Now().UTC(),
		}}
		if err := d.saveFacts(r); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case r.run.Phase == phaseDeleting:
		return nil, errors.New(errors.Conflict, "the machine is being deleted")
	case r.Whole:
		return r.handle(), nil
	}
	if err := d.furnish(ctx, r.Spec); err != nil {
		return nil, err
	}
	r.Whole = true
	if err := d.saveFacts(r); err != nil {
		return nil, err
	}
	return r.handle(), nil
}

// furnish makes a machine's network and volume; each step finds what an
// earlier call left.
func (d *Driver) furnish(ctx context.Context, spec vmm.Spec) error {
	net, err := d.cfg.Network.Acquire(ctx, spec.MachineID, spec.Network, spec.Hostname)
	if err != nil {
		return err
	}
	p := d.cfg.paths(spec.MachineID)
	if spec.DiskFrom == "" {
		err = d.cfg.Volumes.Create(ctx, p.volume, spec.Resources.DiskBytes)
	} else {
		err = d.cfg.Volumes.Clone(ctx, snapshotVolume+spec.DiskFrom, p.volume, spec.Resources.DiskBytes)
	}
	if err != nil {
		return err
	}
	return d.layers.prepare(ctx, spec, net)
}

func checkSpec(s vmm.Spec) error {
	bad := func(field, message string) error {
		return errors.New(errors.InvalidArgument, "%s", message).WithField(field)
	}
	switch {
	case !idForm.MatchString(s.MachineID):
		return bad("machine_id", "this is not a machine ID")
	case s.DiskFrom != "" && !idForm.MatchString(s.DiskFrom):
		return bad("disk_from", "this is not a snapshot ID")
	case !idForm.MatchString(s.BuildID):
		return bad("build_id", "this is not a build ID")
	case !filepath.IsAbs(s.RootFS):
		return bad("rootfs", "the root filesystem must be an absolute path")
	case !hostnameForm.MatchString(s.Hostname):
		return bad("hostname", "this is not a hostname")
	case s.Resources.MilliCPU <= 0 || s.Resources.MemoryBytes <= 0 || s.Resources.PIDs <= 0 || s.Resources.DiskBytes < 0:
		return bad("resources", "a machine needs CPU, memory and process limits")
	case s.Network != domain.NetworkNone && s.Network != domain.NetworkNAT:
		return bad("network", "the network mode is none or nat")
	case s.Platform != "" && s.Platform != "linux/"+runtime.GOARCH:
		return errors.New(errors.Unsupported, "this node runs linux/%s only", runtime.GOARCH).WithField("platform")
	}
	for _, m := range s.Mounts {
		switch target := path.Clean(m.Target); {
		case !filepath.IsAbs(m.Source):
			return bad("mounts", "a mount's source must be an absolute path")
		case !path.IsAbs(m.Target) || target == "/":
			return bad("mounts", "a mount's target must be an absolute path below /")
		case within(target, "/proc"), within(target, "/sys"), within(target, "/dev"):
			return bad("mounts", "nothing can be mounted below /proc, /sys or /dev")
		}
	}
	return nil
}

func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
