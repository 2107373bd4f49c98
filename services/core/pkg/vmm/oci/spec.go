package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/cgroup"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// agentTarget is where the agent's binary is in a machine: in /dev, so that
// nothing has to be made in the machine's root for it.
const agentTarget = "/dev/.aetherium/fc-agent"

// maxTerminals bounds a machine's pseudoterminals. The kernel has one stock for
// all machines of a host (pty(7), kernel.pty.max), 3072 unless it is told otherwise.
const maxTerminals = 64

// bundleInput is what a machine's OCI configuration is made from.
type bundleInput struct {
	spec     vmm.Spec
	hostname string
	paths    paths
	net      network.Attachment
	userNS   string // net's namespaces, by paths that the runtime can open
	netNS    string
	agent    string   // the agent's binary on the host
	mounts   []string // sources of spec.Mounts as the guest may see them
}

// writeBundle writes the OCI bundle's config.json.
func (d *Driver) writeBundle(in bundleInput) error {
	spec := d.ociSpec(in)
	d.confinement.apply(spec)
	raw, err := json.Marshal(spec)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "cannot encode the machine's configuration")
	}
	return fail(os.WriteFile(filepath.Join(in.paths.bundle, "config.json"), raw, 0o600), "cannot write the machine's configuration")
}

func (d *Driver) ociSpec(in bundleInput) *specs.Spec {
	caps, oom := defaultCapabilities(), oomScore()
	return &specs.Spec{
		Version:  "1.0.2",
		Hostname: in.hostname,
		Root:     &specs.Root{Path: in.paths.root},
		Process: &specs.Process{
			Args: []string{agentTarget, "--listen-fd", "3"},
			Cwd:  "/",
			Env: []string{
				"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
				"HOSTNAME=" + in.hostname,
				"GOMAXPROCS=1", // the agent's own; its commands get an environment of theirs
			},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			// No resource limits: the agent lowers what it inherits. Runtimes that set
			// them from outside may lack the right to, in a namespace that is not theirs.
			OOMScoreAdj: &oom,
			// sudo in the machine needs new privileges, which end at its user namespace.
			NoNewPrivileges: false,
		},
		Mounts: d.mounts(in),
		Linux: &specs.Linux{
			Namespaces:        d.namespaces(in),
			UIDMappings:       idMappings(in.net),
			GIDMappings:       idMappings(in.net),
			CgroupsPath:       in.paths.cgroup,
			Resources:         d.resources(in.spec),
			RootfsPropagation: "rslave",
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
				"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
				"/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/pressure", "/proc/sys", "/proc/sysrq-trigger"},
			Sysctl: map[string]string{
				"net.ipv4.ip_unprivileged_port_start": "0",
				"net.ipv4.ping_group_range":           fmt.Sprintf("0 %d", in.net.IDCount-1),
			},
		},
	}
}

func (d *Driver) namespaces(in bundleInput) []specs.LinuxNamespace {
	all := []specs.LinuxNamespace{
		{Type: specs.UserNamespace, Path: in.userNS},
		{Type: specs.NetworkNamespace, Path: in.netNS},
		{Type: specs.PIDNamespace},
		{Type: specs.MountNamespace},
		{Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace},
	}
	if d.cgroups.Unified() {
		all = append(all, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return all
}

func idMappings(net network.Attachment) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: net.IDBase, Size: net.IDCount}}
}

func (d *Driver) mounts(in bundleInput) []specs.Mount {
	shm := max(in.spec.Resources.MemoryBytes/2, 64<<20)
	all := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5", "max=" + strconv.Itoa(maxTerminals)}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(shm, 10)}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: agentTarget, Type: "bind", Source: in.agent, Options: []string{"bind", "ro", "nosuid", "nodev"}},
	}
	if d.cgroups.Unified() {
		all = append(all, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}})
	}
	for i, m := range in.spec.Mounts {
		options := []string{"rbind", "nosuid", "nodev", "rslave"}
		if m.ReadOnly {
			options = append(options, "ro")
		}
		all = append(all, specs.Mount{Destination: m.Target, Type: "bind", Source: in.mounts[i], Options: options})
	}
	return all
}

func (d *Driver) resources(spec vmm.Spec) *specs.LinuxResources {
	r := spec.Resources
	quota, period, shares := cgroup.Quota(r.MilliCPU), uint64(cgroup.CPUPeriod), cgroup.Shares(r.MilliCPU)
	memory := &specs.LinuxMemory{Limit: &r.MemoryBytes}
	if d.cgroups.SwapLimit() {
		memory.Swap = &r.MemoryBytes // memory and swap together: no swap
	}
	return &specs.LinuxResources{
		CPU:     &specs.LinuxCPU{Quota: &quota, Period: &period, Shares: &shares},
		Memory:  memory,
		Pids:    &specs.LinuxPids{Limit: &r.PIDs},
		Devices: allowedDevices(),
	}
}

// allowedDevices are Docker's: nothing but what every program may have.
func allowedDevices() []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
	}
	for _, dev := range [][2]int64{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 1}, {5, 2}, {136, -1}} {
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &dev[0], Access: "rwm"}
		if dev[1] >= 0 {
			rule.Minor = &dev[1]
		}
		rules = append(rules, rule)
	}
	return rules
}

// oomScore is the agent's: no more likely to be killed than the worker. It is
// never lowered, which not every worker may do.
func oomScore() int {
	raw, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0
	}
	return max(own, 0)
}
