package microvm

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// usagePatience bounds how long a guest is asked what it uses: one that is busy
// is measured from outside alone.
const usagePatience = 2 * time.Second

// Usage reads what a running machine uses: its processor time and traffic from
// outside, its memory and processes as its own kernel counts them, or where that
// does not answer as its monitor uses them. See [vmm.Meter]. Returns NotFound, Conflict.
func (d *Driver) Usage(ctx context.Context, id string) (vmm.Usage, error) {
	m, err := d.running(id)
	if err != nil {
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
	limit := m.Spec.Resources.MemoryBytes
	u := vmm.Usage{
		CPUTime: s.CPU, MemoryBytes: min(s.Memory, limit), MemoryPeak: min(max(s.MemoryPeak, s.Memory), limit), MemoryLimit: limit,
		PIDs: 1, DiskBytes: disk.Used, DiskLimit: m.Spec.Resources.DiskBytes, At: time.Now().UTC(),
	}
	if !m.run.Paused {
		asking, cancel := context.WithTimeout(ctx, usagePatience)
		defer cancel()
		client, err := d.clientOf(id)
		if err != nil {
			return vmm.Usage{}, err
		}
		if in, err := client.Usage(asking); err == nil {
			u.MemoryBytes, u.PIDs, u.OOMKills = min(in.MemoryUsed, limit), in.PIDs, in.OOMKills
			u.MemoryPeak = max(u.MemoryPeak, u.MemoryBytes)
		}
	}
	u.RxBytes, u.TxBytes, err = d.cfg.Network.Counters(ctx, id)
	return u, err
}
