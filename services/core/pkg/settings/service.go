package settings

import (
	"runtime"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
)

// Service is what a process is told that takes requests.
type Service struct {
	Overcommit Over   `yaml:"overcommit"`
	Quotas     Quotas `yaml:"quotas"`
	Tasks      Tasks  `yaml:"tasks"`
}

// Tasks bounds what projects have run in VMs of tasks' own.
type Tasks struct {
	Concurrent int `yaml:"concurrent" doc:"Tasks of a project that run at once; 0: any."`
	Open       int `yaml:"open" doc:"Tasks of a project that have not ended."`
}

// Over is how many times the host's capacity may be promised; 0: without bound.
type Over struct {
	CPU    float64 `yaml:"cpu" doc:"How many times the cores may be promised; 0: any."`
	Memory float64 `yaml:"memory" doc:"How many times the memory may be promised; 0: any."`
	Disk   float64 `yaml:"disk" doc:"How many times the disk may be promised; 0: any."`
	VMs    int     `yaml:"vms" doc:"VMs of one worker that run, or are kept in memory, at once; 0: any."`
}

// Quotas are what each project may have and do, unless an administrator has
// given it a quota of its own; 0: without bound.
type Quotas struct {
	VMs              int64        `yaml:"vms" doc:"VMs of a project that are not deleted; 0: any, as for all others."`
	MilliCPU         int64        `yaml:"milli_cpu" doc:"Thousandths of a core of a project's VMs that run."`
	Memory           config.Bytes `yaml:"memory" doc:"Memory of a project's VMs that run."`
	Disk             config.Bytes `yaml:"disk" doc:"Disk of a project's VMs."`
	CreatesPerMinute int64        `yaml:"creates_per_minute" doc:"VMs that a project may make in a minute, forks included."`
	Snapshots        int64        `yaml:"snapshots" doc:"Snapshots of a project."`
	Templates        int64        `yaml:"templates" doc:"Templates of a project."`
	Uploads          config.Bytes `yaml:"uploads" doc:"Uploads of a project, in all; no project has one of its own."`
}

// Quota is the limits as the service takes them.
func (q Quotas) Quota() domain.Quota {
	return domain.Quota{
		VMs: q.VMs, MilliCPU: q.MilliCPU, MemoryBytes: int64(q.Memory), DiskBytes: int64(q.Disk),
		CreatesPerMinute: q.CreatesPerMinute, Snapshots: q.Snapshots, Templates: q.Templates,
	}
}

// DefaultService promises memory and disk several times.
func DefaultService() Service {
	return Service{Overcommit: Over{CPU: 0, Memory: 4, Disk: 16}, Tasks: Tasks{Concurrent: 64, Open: 10_000}}
}

// Config is what the service makes of it. builder is the driver of machines that
// templates are built in, tools what every VM gets.
func (s Service) Config(c Common, builder string, tools []string) service.Config {
	return service.Config{
		DefaultTemplate: c.VM.Template, DefaultDriver: c.VM.Driver, BuildDriver: builder, DefaultNetwork: domain.NetworkMode(c.VM.Network),
		DefaultTools: tools,
		Defaults: domain.Resources{
			MilliCPU: c.VM.MilliCPU, MemoryBytes: int64(c.VM.Memory), DiskBytes: int64(c.VM.Disk), PIDs: c.VM.PIDs,
		},
		DefaultTimeout: time.Duration(c.VM.Timeout), MaxTimeout: time.Duration(c.VM.MaxTimeout), Platform: Platform(),
		KeepTombstones: time.Duration(c.Keep.Tombstones),
		Overcommit:     service.Overcommit{CPU: s.Overcommit.CPU, Memory: s.Overcommit.Memory, Disk: s.Overcommit.Disk, VMs: s.Overcommit.VMs},
		Quota:          s.Quotas.Quota(),
		MaxUploads:     int64(s.Quotas.Uploads),
		MaxOpenRuns:    s.Tasks.Open,
	}
}

// Platform is what VMs of the host's own kind run.
func Platform() string { return runtime.GOOS + "/" + runtime.GOARCH }

// Check returns InvalidArgument.
func (s Service) Check() error {
	for name, v := range map[string]float64{"cpu": s.Overcommit.CPU, "memory": s.Overcommit.Memory, "disk": s.Overcommit.Disk} {
		if !(v >= 0 && v <= 1e6) {
			return errors.New(errors.InvalidArgument, "an overcommit of %v is out of range", v).WithField("overcommit." + name)
		}
	}
	if s.Overcommit.VMs < 0 {
		return errors.New(errors.InvalidArgument, "%d VMs cannot be on a worker", s.Overcommit.VMs).WithField("overcommit.vms")
	}
	if s.Tasks.Concurrent < 0 {
		return errors.New(errors.InvalidArgument, "%d tasks cannot run at once", s.Tasks.Concurrent).WithField("tasks.concurrent")
	}
	if s.Tasks.Open < 1 {
		return errors.New(errors.InvalidArgument, "%d tasks cannot be open", s.Tasks.Open).WithField("tasks.open")
	}
	return s.Quotas.Quota().Validate("quotas")
}
