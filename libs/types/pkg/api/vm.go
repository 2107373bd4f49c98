package api

import "time"

// VM is one isolated machine.
type VM struct {
	ID               string            `json:"id" doc:"Twenty characters of a-z and 0-9"`
	Name             string            `json:"name,omitempty"`
	State            string            `json:"state" enum:"pending,creating,starting,running,pausing,paused,resuming,stopping,stopped,deleting,deleted,failed,unreachable" doc:"What the worker last saw or is doing; unreachable: its worker is away, and the VM may well run"`
	UnreachableSince *time.Time        `json:"unreachable_since,omitempty" doc:"Last sign of life of its worker, which is away"`
	DesiredState     string            `json:"desired_state" enum:"running,paused,stopped,deleted"`
	Template         string            `json:"template,omitempty" doc:"As it was asked for"`
	TemplateID       string            `json:"template_id,omitempty"`
	BuildID          string            `json:"build_id,omitempty" doc:"The immutable template build it runs"`
	SnapshotID       string            `json:"snapshot_id,omitempty" doc:"Made from this snapshot"`
	Memory           bool              `json:"memory,omitempty" doc:"Its first start went on from the memory of its snapshot, its origin or its template"`
	Driver           string            `json:"driver"`
	Isolation        string            `json:"isolation" enum:"container-root,container,gvisor,microvm" doc:"What really separates it from its host"`
	Platform         string            `json:"platform" example:"linux/amd64"`
	Resources        Resources         `json:"resources"`
	Network          string            `json:"network" enum:"none,nat"`
	Egress           *EgressPolicy     `json:"egress,omitempty" doc:"What it may reach; absent: everything but private and special addresses"`
	Secrets          []SecretUse       `json:"secrets,omitempty" nullable:"false" doc:"Stored secrets that it is given; never their values"`
	Hostname         string            `json:"hostname"`
	DefaultUser      string            `json:"default_user,omitempty"`
	Tools            []string          `json:"tools,omitempty" nullable:"false" example:"node@22.23.3" doc:"Programs beside its template's; with exact versions once its machine is made"`
	Volumes          []VMVolume        `json:"volumes,omitempty" nullable:"false" doc:"Volumes that it has"`
	Metadata         map[string]string `json:"metadata"`
	PauseMode        string            `json:"pause_mode,omitempty" doc:"Mode of the pause asked for or in force"`
	Deadline         *time.Time        `json:"deadline,omitempty" doc:"When on_timeout happens; absent: never"`
	OnTimeout        string            `json:"on_timeout" enum:"kill,pause,stop"`
	IdleTimeoutMS    int64             `json:"idle_timeout_ms,omitempty" doc:"on_timeout happens after so long without use; absent: never"`
	AutoResume       bool              `json:"auto_resume" doc:"Traffic resumes it when paused"`
	WorkerID         string            `json:"worker_id,omitempty"`
	InStorage        bool              `json:"in_storage,omitempty" doc:"Its disk is in the storage, with its memory if it is paused, since a worker was drained; its next start may be on any worker, and worker_id is who looks after it"`
	Epoch            int64             `json:"epoch" doc:"Rises by one with every start of a machine for it"`
	Generation       int64             `json:"generation" doc:"Rises by one with every change of desired_state"`
	Reason           string            `json:"reason,omitempty" doc:"Why it failed, or what it is waiting for"`
	Tombstone        *Tombstone        `json:"tombstone,omitempty" doc:"What became of it; set once it has ended"`
	CreatedAt        time.Time         `json:"created_at"`
	UpdatedAt        time.Time         `json:"updated_at"`
	StartedAt        *time.Time        `json:"started_at,omitempty" doc:"Of the present epoch"`
	EndedAt          *time.Time        `json:"ended_at,omitempty"`
	Phases           []Phase           `json:"phases,omitempty" nullable:"false" doc:"Timed steps of the last start; with ?trace=true"`
}

// Resources bound what a VM can use. Zero or absent in a request: the
// template's or the server's default.
type Resources struct {
	MilliCPU    int64 `json:"milli_cpu,omitempty" minimum:"0" maximum:"1024000" doc:"Thousandths of a core"`
	MemoryBytes int64 `json:"memory_bytes,omitempty" minimum:"0" maximum:"17592186044416" doc:"RAM and page cache together"`
	DiskBytes   int64 `json:"disk_bytes,omitempty" minimum:"0" maximum:"70368744177664" doc:"What it may write on top of its template"`
	PIDs        int64 `json:"pids,omitempty" minimum:"0" maximum:"4194304" doc:"Processes and threads"`
}

// Tombstone tells what became of a VM.
type Tombstone struct {
	Cause      string    `json:"cause" doc:"requested, deadline, idle, oom, guest_exit, guest_fault, create_fault, drained or host_lost"`
	By         string    `json:"by,omitempty" doc:"Who asked: a key's name, or worker"`
	Detail     string    `json:"detail,omitempty"`
	LastOutput string    `json:"last_output,omitempty" doc:"Tail of the last execution's output"`
	At         time.Time `json:"at"`
}

// Phase is one timed step.
type Phase struct {
	Name   string `json:"name"`
	TookUS int64  `json:"took_us" doc:"Microseconds"`
}

// CreateVM asks for a VM. Everything is optional.
type CreateVM struct {
	Name          string            `json:"name,omitempty" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" patternDescription:"letters, digits, dots, dashes and underscores" doc:"Unique among the project's VMs; does not have the form of an ID"`
	Template      string            `json:"template,omitempty" maxLength:"191" pattern:"^[a-z0-9][a-z0-9._/-]*(?::[A-Za-z0-9_][A-Za-z0-9._-]*)?$" doc:"Name, name:tag, or the ID of a template, build or snapshot; absent: base"`
	Driver        string            `json:"driver,omitempty" maxLength:"32" pattern:"^[a-z0-9-]+$" doc:"A driver's name or auto; absent: the server's default"`
	Memory        *bool             `json:"memory,omitempty" doc:"Whether it goes on from the memory of what it is made from; false: it is made from the disk alone, and started anew; absent: it goes on where there is a memory that fits"`
	MinIsolation  string            `json:"min_isolation,omitempty" enum:"container-root,container,gvisor,microvm" doc:"Refuse weaker isolation; without a driver, or with auto, one is chosen that isolates so"`
	Resources     *Resources        `json:"resources,omitempty"`
	Network       string            `json:"network,omitempty" enum:"none,nat"`
	Egress        *EgressPolicy     `json:"egress,omitempty" doc:"What it may reach; absent: everything but private and special addresses, or what the VM that it is made from could"`
	Secrets       []SecretUse       `json:"secrets,omitempty" nullable:"false" maxItems:"32" doc:"Stored secrets that it is given; absent: those of the VM that it is made from"`
	Volumes       []VolumeMount     `json:"volumes,omitzero" nullable:"false" maxItems:"16" doc:"Volumes that it has, on the driver oci; absent: those of the VM that it is made from"`
	Env           map[string]string `json:"env,omitempty" maxProperties:"256" doc:"Environment of every execution; kept encrypted, never shown again"`
	Metadata      map[string]string `json:"metadata,omitempty" maxProperties:"64" doc:"Labels of yours"`
	TimeoutMS     *int64            `json:"timeout_ms,omitempty" minimum:"0" maximum:"31536000000" doc:"Until the deadline; 0: none; absent: the server's default"`
	IdleTimeoutMS int64             `json:"idle_timeout_ms,omitempty" minimum:"0" maximum:"31536000000" doc:"on_timeout happens after so long without use; 0: never"`
	OnTimeout     string            `json:"on_timeout,omitempty" enum:"kill,pause,stop" doc:"What happens at the deadline; absent: kill"`
	AutoResume    bool              `json:"auto_resume,omitempty" doc:"Traffic resumes it when paused"`
	Hostname      string            `json:"hostname,omitempty" maxLength:"63" pattern:"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"`
	DefaultUser   string            `json:"default_user,omitempty" maxLength:"33" pattern:"^(?:[a-z_][a-z0-9_-]*[$]?|[0-9]{1,10})$" doc:"OS user of executions that name none"`
	Tools         []string          `json:"tools,omitempty" nullable:"false" maxItems:"16" maxLength:"200" pattern:"^(?:[a-z]+:@?)?[A-Za-z0-9][A-Za-z0-9._/-]*(?:@[A-Za-z0-9][A-Za-z0-9._+-]*)?$" patternDescription:"NAME or NAME@VERSION" example:"node@22" doc:"Programs beside the template's, installed first where the worker does not have them"`
}

// ForkVM asks for copies of a VM. What CreateVM leaves open is the origin's.
type ForkVM struct {
	Count int `json:"count,omitempty" minimum:"1" maximum:"100" default:"1" doc:"How many"`
	CreateVM
}

// PatchVM changes what may change; absent fields stay as they are.
type PatchVM struct {
	Name          *string            `json:"name,omitempty" maxLength:"63" pattern:"^(?:[A-Za-z0-9][A-Za-z0-9._-]*)?$" patternDescription:"letters, digits, dots, dashes and underscores" doc:"Empty removes it"`
	Metadata      *map[string]string `json:"metadata,omitempty" maxProperties:"64" doc:"Replaces all"`
	TimeoutMS     *int64             `json:"timeout_ms,omitempty" minimum:"0" maximum:"31536000000" doc:"From now until the deadline; 0 removes it"`
	IdleTimeoutMS *int64             `json:"idle_timeout_ms,omitempty" minimum:"0" maximum:"31536000000"`
	OnTimeout     *string            `json:"on_timeout,omitempty" enum:"kill,pause,stop"`
	AutoResume    *bool              `json:"auto_resume,omitempty"`
}

// PauseVM asks for a pause. The body may be left out.
type PauseVM struct {
	Mode string `json:"mode,omitempty" enum:"freeze,memory,disk" doc:"What happens to memory; absent: the driver's best"`
}

// Usage is what a VM uses now; fields named so are cumulative since its start.
type Usage struct {
	VMID             string    `json:"vm_id"`
	CPUTimeMS        int64     `json:"cpu_time_ms" doc:"Cumulative"`
	MemoryBytes      int64     `json:"memory_bytes"`
	MemoryPeakBytes  int64     `json:"memory_peak_bytes"`
	MemoryLimitBytes int64     `json:"memory_limit_bytes"`
	PIDs             int64     `json:"pids"`
	DiskBytes        int64     `json:"disk_bytes"`
	DiskLimitBytes   int64     `json:"disk_limit_bytes"`
	ReceivedBytes    int64     `json:"received_bytes" doc:"Cumulative"`
	SentBytes        int64     `json:"sent_bytes" doc:"Cumulative: egress"`
	OOMKills         int64     `json:"oom_kills" doc:"Cumulative"`
	At               time.Time `json:"at"`
}

// Accepted is the answer to a creation that goes on by itself (Prefer: respond-async).
type Accepted struct {
	Task Task `json:"task"`
	VM   *VM  `json:"vm,omitempty" doc:"As it stands now, for tasks that make one"`
}

// Snapshot is a VM's frozen state, from which VMs can be made.
type Snapshot struct {
	ID        string    `json:"id"`
	VMID      string    `json:"vm_id" doc:"Its origin"`
	Name      string    `json:"name,omitempty"`
	BuildID   string    `json:"build_id,omitempty"`
	Driver    string    `json:"driver"`
	Version   string    `json:"driver_version,omitempty" doc:"Of the driver: a memory goes on by the same version only"`
	Kind      string    `json:"kind" enum:"disk,memory" doc:"A memory has the disk beside it"`
	State     string    `json:"state" enum:"waiting,building,ready,error"`
	SizeBytes int64     `json:"size_bytes"`
	Stored    int64     `json:"stored_bytes,omitempty" doc:"Of its disk, packed, in storage from which other workers get it; absent: it is on its worker alone"`
	CreatedAt time.Time `json:"created_at"`
}

// CreateSnapshot asks for a snapshot. The body may be left out.
type CreateSnapshot struct {
	Name   string `json:"name,omitempty" maxLength:"63" pattern:"^[a-z0-9][a-z0-9._-]*$" patternDescription:"lower case letters, digits, dots, dashes and underscores" doc:"Unique among templates and snapshots"`
	Memory bool   `json:"memory,omitempty" doc:"Keep its memory, too, so that VMs made from it go on from there"`
}
