package oci

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/cgroup"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Usage reads what a running machine uses. See [vmm.Meter]. Returns NotFound, Conflict.
func (d *Driver) Usage(ctx context.Context, id string) (vmm.Usage, error) {
	if _, err := d.running(id); err != nil {
		return vmm.Usage{}, err
	}
	s, err := d.group(id).Stat()
	if errors.HasCode(err, errors.NotFound) {
		return vmm.Usage{}, errors.Wrap(err, errors.Conflict, "the machine does not run")
	} else if err != nil {
		return vmm.Usage{}, err
	}
	disk, err := d.cfg.Volumes.Usage(ctx, d.cfg.paths(id).volume)
	if err != nil {
		return vmm.Usage{}, err
	}
	u := vmm.Usage{
		CPUTime: s.CPU, MemoryBytes: s.Memory, MemoryPeak: max(s.MemoryPeak, s.Memory), MemoryLimit: s.MemoryLimit,
		PIDs: s.PIDs, OOMKills: s.OOMKills, DiskBytes: disk.Used, DiskLimit: disk.Limit, At: time.Now().UTC(),
	}
	u.RxBytes, u.TxBytes, err = d.cfg.Network.Counters(ctx, id)
	return u, err
}

// Resize changes a machine's limits; zero fields stay as they are. See
// [vmm.Resizer]. Returns Conflict when it uses more memory than that.
func (d *Driver) Resize(ctx context.Context, id string, want domain.Resources) error {
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	r, err := d.running(id)
	if err != nil {
		return err
	}
	if want.MilliCPU < 0 || want.MemoryBytes < 0 || want.PIDs < 0 || want.DiskBytes < 0 {
		return errors.New(errors.InvalidArgument, "limits cannot be negative").WithField("resources")
	}
	limits := cgroup.Limits{MilliCPU: want.MilliCPU, Memory: want.MemoryBytes, PIDs: want.PIDs}
	if err := d.group(id).SetLimits(limits); err != nil {
		return err
	}
	now := &r.Spec.Resources
	set := func(to *int64, value int64) {
		if value > 0 {
			*to = value
		}
	}
	set(&now.MilliCPU, want.MilliCPU)
	set(&now.MemoryBytes, want.MemoryBytes)
	set(&now.PIDs, want.PIDs)
	if want.DiskBytes > 0 {
		if err := d.cfg.Volumes.SetLimit(ctx, d.cfg.paths(id).volume, want.DiskBytes); err != nil {
			return err
		}
		now.DiskBytes = want.DiskBytes
	}
	return d.saveFacts(r)
}
