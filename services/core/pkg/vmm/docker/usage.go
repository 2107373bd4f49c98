package docker

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Usage reads what a running machine uses, from its control group: the engine's
// statistics lack the processes that the memory limit ended. See [vmm.Meter].
// Returns NotFound, Conflict.
func (d *Driver) Usage(ctx context.Context, id string) (vmm.Usage, error) {
	c, err := d.running(ctx, id)
	if err != nil {
		return vmm.Usage{}, err
	}
	group, err := groupOf(c.State.Pid)
	if err != nil {
		return vmm.Usage{}, errors.Wrap(err, errors.Conflict, "the machine does not run")
	}
	s, err := d.cgroups.Group(group).Stat()
	if errors.HasCode(err, errors.NotFound) {
		return vmm.Usage{}, errors.Wrap(err, errors.Conflict, "the machine does not run")
	} else if err != nil {
		return vmm.Usage{}, err
	}
	u := vmm.Usage{
		CPUTime: s.CPU, MemoryBytes: s.Memory, MemoryPeak: max(s.MemoryPeak, s.Memory), MemoryLimit: s.MemoryLimit,
		PIDs: s.PIDs, OOMKills: s.OOMKills, At: time.Now().UTC(),
	}
	if u.DiskBytes, u.DiskLimit, err = d.disk(ctx, c); err != nil {
		return vmm.Usage{}, err
	}
	if domain.NetworkMode(c.Config.Labels[labelNetwork]) == domain.NetworkNAT {
		u.RxBytes, u.TxBytes, err = d.cfg.Network.Counters(ctx, id)
	}
	return u, err
}

// disk is what a machine has written on top of its image, and how much it may.
// Where there is a limit the file system counts; else the engine looks at every file.
func (d *Driver) disk(ctx context.Context, c *container.InspectResponse) (used, limit int64, err error) {
	if text := c.Config.Labels[labelDisk]; text != "" {
		if limit, err = strconv.ParseInt(text, 10, 64); err != nil {
			return 0, 0, errors.Wrap(err, errors.Internal, "the machine's disk limit cannot be read")
		}
		var st unix.Statfs_t
		if err := unix.Statfs(fmt.Sprintf("/proc/%d/root", c.State.Pid), &st); err != nil {
			return 0, 0, errors.Wrap(err, errors.Conflict, "the machine does not run")
		}
		return int64(st.Blocks-st.Bfree) * st.Bsize, limit, nil
	}
	r, err := d.engine.ContainerInspect(ctx, c.ID, client.ContainerInspectOptions{Size: true})
	if err != nil {
		return 0, 0, said(err, "cannot measure the machine's disk")
	}
	if r.Container.SizeRw != nil {
		used = *r.Container.SizeRw
	}
	return used, 0, nil
}

// groupOf is the control group of a process (cgroups(7)): of the hierarchy that
// bounds its memory, or of version 2.
func groupOf(pid int) (string, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	group := ""
	for line := range strings.Lines(string(raw)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			if controller == "memory" {
				return fields[2], nil
			}
		}
		if fields[1] == "" {
			group = fields[2]
		}
	}
	if group == "" {
		return "", os.ErrNotExist
	}
	return group, nil
}

// Resize changes a machine's limits; zero fields stay as they are. See
// [vmm.Resizer]. Returns Conflict when it uses more memory than that,
// Unsupported for its disk: the engine sets that for good.
func (d *Driver) Resize(ctx context.Context, id string, want domain.Resources) error {
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	c, err := d.running(ctx, id)
	if err != nil {
		return err
	}
	if want.MilliCPU < 0 || want.MemoryBytes < 0 || want.PIDs < 0 || want.DiskBytes < 0 {
		return errors.New(errors.InvalidArgument, "limits cannot be negative").WithField("resources")
	}
	if want.DiskBytes > 0 && c.Config.Labels[labelDisk] != strconv.FormatInt(want.DiskBytes, 10) {
		return errors.New(errors.Unsupported, "the %s driver cannot change the size of a disk", Name).WithField("resources.disk_bytes")
	}
	limits := resources(want)
	change := &limits
	if want.MilliCPU == 0 {
		change.CPUPeriod, change.CPUQuota, change.CPUShares = 0, 0, 0
	}
	if want.PIDs == 0 {
		change.PidsLimit = nil
	}
	if _, err := d.engine.ContainerUpdate(ctx, c.ID, client.ContainerUpdateOptions{Resources: change}); err != nil {
		if strings.Contains(err.Error(), "device or resource busy") {
			return errors.Wrap(err, errors.Conflict, "the machine uses more memory than that")
		}
		return said(err, "the Docker engine cannot change the machine's limits")
	}
	return nil
}
