package domain

import "time"

// Project owns VMs, templates, snapshots, tasks and keys.
type Project struct {
	ID        ID
	Name      string
	CreatedAt time.Time
}

// DefaultProjectName is the project of a single-user installation.
const DefaultProjectName = "default"

// Template is a named line of immutable builds.
type Template struct {
	ID        ID
	ProjectID ID
	Name      string // unique in the project
	Tags      map[string]ID
	Public    bool // every project may use it
	CreatedAt time.Time
	UpdatedAt time.Time
	Revision  int64
}

// DefaultTag is the tag that a template name without one means.
const DefaultTag = "latest"

// BuildState is where a template build stands.
type BuildState string

// The build states.
const (
	BuildWaiting  BuildState = "waiting"
	BuildBuilding BuildState = "building"
	BuildReady    BuildState = "ready"
	BuildError    BuildState = "error"
)

// Build is one immutable result of building a template.
type Build struct {
	ID            ID
	ProjectID     ID
	TemplateID    ID
	WorkerID      ID // the worker that makes it, and has what it made
	State         BuildState
	Platform      string
	Source        TemplateSource
	Shape         Resources // the template's default resources
	Kernel        string    // kernel version for microVM drivers; empty for containers
	DriverVersion string
	Artifacts     []Artifact
	DefaultUser   string
	Env           map[string]string
	WorkDir       string
	Warm          WarmUp
	Reason        string // why BuildError
	CreatedAt     time.Time
	ReadyAt       *time.Time
	Revision      int64
}

// Artifact is a file or tree that a build produced.
type Artifact struct {
	Kind   string `json:"kind"`             // "rootfs", "memory"
	Path   string `json:"path,omitempty"`   // relative to the data directory
	Digest string `json:"digest,omitempty"` // "sha256:…" of its manifest
	Bytes  int64  `json:"bytes"`
	// Packed is where other workers get it; nil: it is where it was made alone.
	Packed *Packed `json:"packed,omitempty"`
	// Of a memory: what it can be restored by, and for which machines.
	Driver        string `json:"driver,omitempty"`
	DriverVersion string `json:"driver_version,omitempty"`
	Shape         *Shape `json:"shape,omitempty"`
}

// Packed is an artifact, a snapshot's disk, or output, in storage that workers share.
type Packed struct {
	Store  string `json:"store"`  // its name, without credentials
	Digest string `json:"digest"` // "sha256:…" of what is stored
	Bytes  int64  `json:"bytes"`
}

// The kinds of artifacts.
const (
	ArtifactRootFS = "rootfs"
	ArtifactMemory = "memory"
)

// WarmUp is what a template's machines do before they are somebody's.
type WarmUp struct {
	// Start is run by sh in the background, in each VM of the template that does
	// not go on from a memory in which it runs already; empty: nothing.
	Start string `json:"start,omitempty"`
	// Memory has the build end with a memory snapshot, of a machine of driver
	// Driver and network Network, after Ready has succeeded there.
	Memory  bool        `json:"memory,omitempty"`
	Ready   string      `json:"ready,omitempty"` // run by sh until it exits with 0; empty: at once
	Driver  string      `json:"driver,omitempty"`
	Network NetworkMode `json:"network,omitempty"`
}

// RootFS is the artifact that VMs are made from; nil: there is none yet.
func (b *Build) RootFS() *Artifact {
	for i := range b.Artifacts {
		if b.Artifacts[i].Kind == ArtifactRootFS {
			return &b.Artifacts[i]
		}
	}
	return nil
}

// Packed says where other workers get the root filesystem; nil: nowhere.
func (b *Build) Packed() *Packed {
	if a := b.RootFS(); a != nil {
		return a.Packed
	}
	return nil
}

// Memory gives the build's memory; nil when it has none.
func (b *Build) Memory() *Artifact {
	for i := range b.Artifacts {
		if b.Artifacts[i].Kind == ArtifactMemory {
			return &b.Artifacts[i]
		}
	}
	return nil
}

// TemplateSource is what a template's root filesystem is made from. Exactly one is set.
type TemplateSource struct {
	Image    string   `json:"image,omitempty"`    // an OCI reference
	Tar      string   `json:"tar,omitempty"`      // an uploaded root filesystem archive, by upload ID or server path
	Dir      string   `json:"dir,omitempty"`      // a root filesystem directory on the server
	Packages []string `json:"packages,omitempty"` // Debian packages on top of a minimal system
	Suite    string   `json:"suite,omitempty"`    // Debian release for Packages; default "bookworm"
	Preset   string   `json:"preset,omitempty"`   // one that comes with the product, such as "code-interpreter"
	Steps    string   `json:"steps,omitempty"`    // the text of a file of steps, a Dockerfile's subset
	Context  string   `json:"context,omitempty"`  // what Steps copy from: an uploaded tar, by upload ID or server path
	// Untrusted marks what no administrator asked for: images come without this
	// host's credentials, and from public addresses alone.
	Untrusted bool `json:"untrusted,omitempty"`
}

// MaxStepsBytes bounds the text of TemplateSource.Steps.
const MaxStepsBytes = 64 << 10

// Snapshot is a VM's frozen state, from which VMs can be made.
type Snapshot struct {
	ID            ID
	ProjectID     ID
	VMID          ID     // its origin
	Name          string // unique in the namespace it shares with templates; may be empty
	BuildID       ID     // the build below the disk
	Driver        string // what it needs to start
	DriverVersion string
	Kind          SnapshotKind
	Spec          VMSpec // of its origin
	EnvSealed     []byte
	WorkerID      ID // that took it, and has its data
	Bytes         int64
	Packed        *Packed    // where other workers get its disk; nil: it is where it was taken alone
	State         BuildState // waiting, ready, error
	// Ephemeral marks the frozen disk below forks: not shown, removed with the last of them.
	Ephemeral bool
	// DiskOfVM marks the disk of its origin itself, which has left a worker: not
	// shown, removed when the VM has a machine again. Of kind memory, what it had in
	// its memory is in Packed, too, and the VM goes on from there.
	DiskOfVM  bool
	CreatedAt time.Time
	Revision  int64
}

// SnapshotKind is what a snapshot holds.
type SnapshotKind string

// The snapshot kinds.
const (
	SnapshotDisk   SnapshotKind = "disk"
	SnapshotMemory SnapshotKind = "memory" // disk too
)
