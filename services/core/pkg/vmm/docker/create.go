package docker

import (
	"context"
	"encoding/json"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/cgroup"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// agentTarget is where the agent's binary is in a machine: in /dev, so that it
// leaves no trace in the machine's files.
const agentTarget = "/dev/.aetherium/fc-agent"

// Create prepares a machine. Its container comes last, so that one that is
// there is whole. See [vmm.Driver].
func (d *Driver) Create(ctx context.Context, spec vmm.Spec) (vmm.Handle, error) {
	if err := checkSpec(spec); err != nil {
		return nil, err
	}
	ctx, done, err := d.turns.Begin(ctx, spec.MachineID, false)
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := d.inspect(ctx, spec.MachineID)
	switch {
	case errors.HasCode(err, errors.NotFound):
	case err != nil:
		return nil, err
	case status(c) == vmm.StatusBroken:
		return nil, errors.New(errors.Conflict, "the machine is being deleted")
	default:
		return handle(c), nil
	}
	if _, err := d.furnish(ctx, spec.MachineID, spec.Network, spec.Hostname); err != nil {
		return nil, err
	}
	d.images.RLock()
	defer d.images.RUnlock()
	image, err := d.image(ctx, spec)
	if err != nil {
		return nil, err
	}
	agent, err := d.agentBinary()
	if err != nil {
		return nil, err
	}
	if err := d.makeContainer(ctx, spec, image, agent); err != nil {
		return nil, err
	}
	if c, err = d.inspect(ctx, spec.MachineID); err != nil {
		return nil, err
	}
	return handle(c), nil
}

func (d *Driver) makeContainer(ctx context.Context, spec vmm.Spec, image, agent string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := wholly(ctx)
	defer cancel()
	options := d.container(spec, image, agent)
	if spec.Resources.DiskBytes > 0 && !d.noQuota.Load() {
		limit := strconv.FormatInt(spec.Resources.DiskBytes, 10)
		options.HostConfig.StorageOpt, options.Config.Labels[labelDisk] = map[string]string{"size": limit}, limit
	}
	_, err := d.engine.ContainerCreate(ctx, options)
	if err != nil && options.HostConfig.StorageOpt != nil && refusesQuota(err) {
		// What it does not enforce is said in Info.
		d.noQuota.Store(true)
		options.HostConfig.StorageOpt = nil
		delete(options.Config.Labels, labelDisk)
		_, err = d.engine.ContainerCreate(ctx, options)
	}
	if errdefs.IsConflict(err) {
		return nil // an earlier call's
	}
	return said(err, "cannot make the machine's container")
}

// refusesQuota reports that a storage driver cannot limit disks. The engine has
// no other word for it than these.
func refusesQuota(err error) bool {
	text := err.Error()
	return strings.Contains(text, "storage-opt") || strings.Contains(text, "torage option") || strings.Contains(text, "quota")
}

func (d *Driver) container(spec vmm.Spec, image, agent string) client.ContainerCreateOptions {
	no := false
	return client.ContainerCreateOptions{
		Name: d.cfg.container(spec.MachineID),
		Config: &container.Config{
			Image: image, Hostname: spec.Hostname, Entrypoint: []string{agentTarget, "--listen-stdio"}, WorkingDir: "/",
			Env: []string{
				"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
				"GOMAXPROCS=1", // the agent's own; its commands get an environment of theirs
			},
			// Open for as long as the machine runs, whoever attaches and leaves.
			OpenStdin: true, StdinOnce: false, Tty: false,
			Labels: map[string]string{
				labelInstance: d.cfg.Instance, labelMachine: spec.MachineID, labelNetwork: string(spec.Network),
				labelBuild: spec.BuildID, labelRootFS: spec.RootFS,
			},
		},
		HostConfig: &container.HostConfig{
			// What the agent says on its output is the channel, and of no use in a log.
			LogConfig:   container.LogConfig{Type: "none"},
			NetworkMode: "none", IpcMode: "private", Init: &no,
			RestartPolicy: container.RestartPolicy{Name: "no"},
			// sudo in the machine needs new privileges.
			SecurityOpt: []string{"no-new-privileges:false"},
			MaskedPaths: maskedPaths(),
			// The engine's own, and where anybody may have the kernel watch for pressure.
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/pressure", "/proc/sys", "/proc/sysrq-trigger"},
			ShmSize:       max(spec.Resources.MemoryBytes/2, 64<<20),
			Resources:     resources(spec.Resources),
			Mounts:        d.mounts(spec, agent),
		},
	}
}

// maskedPaths are the engine's own of its newest version, and what tells root of
// the host's kernel: root in the machine may be root there.
func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
		"/proc/iomem", "/proc/ioports", "/proc/kallsyms", "/proc/kpagecgroup", "/proc/kpagecount", "/proc/kpageflags", "/proc/pagetypeinfo", "/proc/slabinfo", "/proc/vmallocinfo", "/proc/zoneinfo",
	}
}

func resources(r domain.Resources) container.Resources {
	return container.Resources{
		CPUPeriod: cgroup.CPUPeriod, CPUQuota: cgroup.Quota(r.MilliCPU), CPUShares: int64(cgroup.Shares(r.MilliCPU)),
		Memory: r.MemoryBytes, MemorySwap: r.MemoryBytes, // together: no swap
		PidsLimit: &r.PIDs,
	}
}

func (d *Driver) mounts(spec vmm.Spec, agent string) []mount.Mount {
	dir := d.cfg.paths(spec.MachineID).dir
	bind := func(source, target string, readOnly bool) mount.Mount {
		return mount.Mount{Type: mount.TypeBind, Source: source, Target: target, ReadOnly: readOnly}
	}
	all := []mount.Mount{bind(agent, agentTarget, true)}
	for _, name := range etcNames {
		// Read only: they are the host's files, on a disk without a limit.
		all = append(all, bind(filepath.Join(dir, name), "/etc/"+name, true))
	}
	for _, m := range spec.Mounts {
		all = append(all, bind(m.Source, m.Target, m.ReadOnly))
	}
	return all
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
	case s.Memory:
		return errors.New(errors.Unsupported, "the %s driver keeps no memory", Name)
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

// handle is what of a machine does not change.
func handle(c *container.InspectResponse) vmm.Handle {
	h, err := json.Marshal(struct {
		Version   int    `json:"version"`
		Driver    string `json:"driver"`
		MachineID string `json:"machine_id"`
		Container string `json:"container"`
		BuildID   string `json:"build_id"`
		CreatedAt string `json:"created_at"`
	}{1, Name, c.Config.Labels[labelMachine], c.ID, c.Config.Labels[labelBuild], c.Created})
	if err != nil {
		return nil // strings always encode
	}
	return h
}
