package api

// QuotaLimits is what a project may have, or what it has.
type QuotaLimits struct {
	VMs              int64 `json:"vms" doc:"VMs that are not deleted; as a limit, 0 is without bound, as for all others"`
	MilliCPU         int64 `json:"milli_cpu" doc:"Thousandths of a core, of VMs that run or are wanted to"`
	MemoryBytes      int64 `json:"memory_bytes" doc:"Memory of VMs that run or are wanted to"`
	DiskBytes        int64 `json:"disk_bytes" doc:"Disk of VMs that are not deleted"`
	CreatesPerMinute int64 `json:"creates_per_minute" doc:"VMs made in the last minute, forks included"`
	Snapshots        int64 `json:"snapshots"`
	Templates        int64 `json:"templates"`
}

// Quota is a project's limits beside what it has.
type Quota struct {
	ProjectID string      `json:"project_id"`
	Limits    QuotaLimits `json:"limits" doc:"What holds"`
	Use       QuotaLimits `json:"use" doc:"What the project has"`
	Override  SetQuota    `json:"override" doc:"Where the limits differ from the installation's defaults"`
}

// SetQuota says where a project's limits differ from the installation's
// defaults. What is absent is as the default.
type SetQuota struct {
	VMs              *int64 `json:"vms,omitempty" minimum:"0" maximum:"1152921504606846976" doc:"0: without bound, as for all others"`
	MilliCPU         *int64 `json:"milli_cpu,omitempty" minimum:"0" maximum:"1152921504606846976"`
	MemoryBytes      *int64 `json:"memory_bytes,omitempty" minimum:"0" maximum:"1152921504606846976"`
	DiskBytes        *int64 `json:"disk_bytes,omitempty" minimum:"0" maximum:"1152921504606846976"`
	CreatesPerMinute *int64 `json:"creates_per_minute,omitempty" minimum:"0" maximum:"1152921504606846976"`
	Snapshots        *int64 `json:"snapshots,omitempty" minimum:"0" maximum:"1152921504606846976"`
	Templates        *int64 `json:"templates,omitempty" minimum:"0" maximum:"1152921504606846976"`
}
