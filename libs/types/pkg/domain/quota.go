package domain

// Quota is what a project may have and do, or what it has and did. As a limit,
// 0 is without bound.
type Quota struct {
	VMs int64
	// MilliCPU and MemoryBytes count of VMs that run or are wanted to; DiskBytes
	// of every VM until it is deleted.
	MilliCPU    int64
	MemoryBytes int64
	DiskBytes   int64
	// CreatesPerMinute counts VMs made in the last minute, forks included.
	CreatesPerMinute int64
	Snapshots        int64
	Templates        int64
}

// QuotaOverride is what a project's limits differ in from the installation's
// defaults. Nil is as the default, 0 without bound.
type QuotaOverride struct {
	VMs              *int64
	MilliCPU         *int64
	MemoryBytes      *int64
	DiskBytes        *int64
	CreatesPerMinute *int64
	Snapshots        *int64
	Templates        *int64
}

// Over gives the limits that hold: the override where it says something, else
// the default.
func (o QuotaOverride) Over(defaults Quota) Quota {
	or := func(v *int64, d int64) int64 {
		if v != nil {
			return *v
		}
		return d
	}
	return Quota{
		VMs: or(o.VMs, defaults.VMs), MilliCPU: or(o.MilliCPU, defaults.MilliCPU),
		MemoryBytes: or(o.MemoryBytes, defaults.MemoryBytes), DiskBytes: or(o.DiskBytes, defaults.DiskBytes),
		CreatesPerMinute: or(o.CreatesPerMinute, defaults.CreatesPerMinute),
		Snapshots:        or(o.Snapshots, defaults.Snapshots), Templates: or(o.Templates, defaults.Templates),
	}
}

// MaxQuota bounds every limit, so that sums of what is asked for cannot overflow.
const MaxQuota = int64(1) << 60

// Validate checks a limit's form. Returns InvalidArgument.
func (q Quota) Validate(field string) error {
	for _, l := range []struct {
		name  string
		value int64
	}{
		{"vms", q.VMs}, {"milli_cpu", q.MilliCPU}, {"memory_bytes", q.MemoryBytes}, {"disk_bytes", q.DiskBytes},
		{"creates_per_minute", q.CreatesPerMinute}, {"snapshots", q.Snapshots}, {"templates", q.Templates},
	} {
		if l.value < 0 || l.value > MaxQuota {
			return invalid(field+"."+l.name, "a limit of %d is out of range", l.value).WithHint("0, which is none, to %d", MaxQuota)
		}
	}
	return nil
}

// ProjectQuota is a project's limits beside what it has.
type ProjectQuota struct {
	ProjectID ID
	Limits    Quota
	Use       Quota
	Override  QuotaOverride
}
