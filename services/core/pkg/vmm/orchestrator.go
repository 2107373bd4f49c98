package vmm

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Caller is who asks. The gateway fills it in from credentials; it is carried
// explicitly, never in a context.
type Caller struct {
	ProjectID domain.ID
	Name      string    // of the key or user, for tombstones and audit
	KeyID     domain.ID // of the key that was shown; empty: it was no key
	UserID    domain.ID // whom it stands for; empty: nobody in particular
	TokenID   string    // of the access token that was shown; empty: it was none
	Scopes    domain.Scopes
	Admin     bool      // its scopes include admin: may see nodes and host facts
	Until     time.Time // when what was shown ends by itself; zero: never
}

// AdminsOnly is for what concerns the installation. Returns PermissionDenied.
func (c Caller) AdminsOnly() error {
	if c.Admin {
		return nil
	}
	return errors.New(errors.PermissionDenied, "this is for administrators").WithHint("use credentials with the scope admin")
}

// Orchestrator is everything the product does with VMs, as one value. Its
// parts are small so that callers can ask for just what they use. Every
// method returns NotFound for things of other projects, exactly as for things
// that do not exist, and InvalidArgument with a field for bad input.
type Orchestrator interface {
	VMs
	Executions
	Files
	Ports
	Agents
	Egress
	Snapshots
	Templates
	Tools
	Secrets
	Volumes
	Fleet
	Events
	Quotas
	Archives
}

// Archives is what is kept of ended VMs, executions and tasks once they are gone.
type Archives interface {
	// ListArchives lists the caller's project's, without content.
	ListArchives(ctx context.Context, by Caller, p Page) (List[*domain.Archive], error)
	// ReadArchive gives an archive and its records: api.ArchivedRecord in JSON, one in
	// each line. The caller closes it. Returns NotFound, Unavailable.
	ReadArchive(ctx context.Context, by Caller, id domain.ID) (*domain.Archive, io.ReadCloser, error)
}

// Quotas is what projects may have.
type Quotas interface {
	// GetQuota gives a project's limits beside what it has: the caller's own,
	// which is meant by "", or for administrators any, by ID or name.
	GetQuota(ctx context.Context, by Caller, project string) (domain.ProjectQuota, error)
	// SetQuota replaces where a project's limits differ from the defaults.
	// Returns PermissionDenied, NotFound.
	SetQuota(ctx context.Context, by Caller, project string, o domain.QuotaOverride) (domain.ProjectQuota, error)
}

// VMOrchestrator is the name other modules know [Orchestrator] by.
type VMOrchestrator = Orchestrator

// CreateVM is what a new VM shall be. Zero values mean the template's or the
// server's defaults.
type CreateVM struct {
	Name     string
	Template string // name, name:tag, or the ID of a template, build or snapshot
	Driver   string // "" or "auto": the server's default
	// Memory: whether it goes on from the memory of what it is made from. nil: it
	// does where there is one that fits; of a snapshot's or an origin's it has the
	// resources, the network and the tools then. true is refused where there is none.
	Memory       *bool
	MinIsolation domain.Isolation
	Resources    domain.Resources
	Network      domain.NetworkMode
	// Egress is what it may reach; nil: what its snapshot's or origin's VM could, else the default.
	Egress *domain.EgressPolicy
	// Secrets are the stored ones that it is given; nil: those of its snapshot's or origin's VM.
	Secrets     []domain.SecretUse
	Env         map[string]string
	Metadata    map[string]string
	Timeout     *time.Duration // until the deadline; nil: the server's default; 0: none
	IdleTimeout time.Duration
	OnTimeout   domain.OnTimeout
	AutoResume  bool
	Hostname    string
	DefaultUser string
	Previews    domain.Previews
	// ResumeFor is until its deadline when it is resumed by itself and has none
	// to come; 0: the server's default.
	ResumeFor time.Duration
	// Mounts are the volumes that it has; nil: those of its snapshot's or origin's VM.
	Mounts []domain.Mount
	// Tools are those beside the server's defaults, as NAME or NAME@VERSION.
	Tools []string
	// IdempotencyKey: the same key by the same project yields the same VM.
	IdempotencyKey string
	// RequestDigest is compared when a key is used again (IdempotencyMismatch).
	RequestDigest string
	// Trace, if set, is called as each phase of the creation ends.
	Trace func(phase string, d time.Duration) `json:"-"`
	// ID of the VM may be minted by the caller, who asks again with it when it is
	// not known what came of the first time: the same ID never makes two.
	ID domain.ID
}

// PatchVM changes what may change. Nil leaves a thing as it is.
type PatchVM struct {
	Name        *string
	Metadata    map[string]string // replaces all when not nil
	Timeout     *time.Duration    // from now; 0 removes the deadline
	IdleTimeout *time.Duration
	OnTimeout   *domain.OnTimeout
	AutoResume  *bool
}

// VMFilter narrows a list. Zero fields do not filter.
type VMFilter struct {
	States         []domain.ObservedState
	Metadata       map[string]string // all must match
	Template       string
	Name           string
	IncludeDeleted bool // tombstones too
	Page
}

// Page asks for one page of a list.
type Page struct {
	Limit  int    // 1..1000; 0: 100
	Cursor string // of the page before; opaque
	Order  Order
}

// Order is the direction of a list by creation time.
type Order string

// The orders; empty is NewestFirst.
const (
	NewestFirst Order = "desc"
	OldestFirst Order = "asc"
)

// List is one page.
type List[T any] struct {
	Items []T
	Next  string // cursor of the next page; empty on the last
}

// VMs is the life cycle. Calls return when the wish is durable; WaitVM waits
// until it is so.
type VMs interface {
	// CreateVM persists the wish and wakes the worker.
	// Returns CapacityExhausted, NotFound (template), AlreadyExists (name), Unsupported, IdempotencyMismatch.
	CreateVM(ctx context.Context, by Caller, req CreateVM) (*domain.VM, error)
	GetVM(ctx context.Context, by Caller, id domain.ID) (*domain.VM, error)
	// ResolveVM finds a VM by ID or by name.
	ResolveVM(ctx context.Context, by Caller, idOrName string) (*domain.VM, error)
	ListVMs(ctx context.Context, by Caller, f VMFilter) (List[*domain.VM], error)
	PatchVM(ctx context.Context, by Caller, id domain.ID, p PatchVM) (*domain.VM, error)
	// StartVM wants it running: from stopped (new epoch) or paused.
	StartVM(ctx context.Context, by Caller, id domain.ID) (*domain.VM, error)
	StopVM(ctx context.Context, by Caller, id domain.ID) (*domain.VM, error)
	PauseVM(ctx context.Context, by Caller, id domain.ID, mode domain.PauseMode) (*domain.VM, error)
	// SuspendVM wants it paused as its driver does that best, or without memory paused
	// with its disk alone, and stopped where its driver cannot. A deadline that would
	// delete it is gone with that, where a VM may be without one.
	SuspendVM(ctx context.Context, by Caller, id domain.ID, memory bool) (*domain.VM, error)
	ResumeVM(ctx context.Context, by Caller, id domain.ID) (*domain.VM, error)
	// DeleteVM is idempotent while the tombstone is kept.
	DeleteVM(ctx context.Context, by Caller, id domain.ID) (*domain.VM, error)
	// ForkVM creates count VMs that go on from the VM, side by side: from its
	// memory where its driver can and it runs, else from its disk. 1 ≤ count ≤ 100.
	// The same idempotency key yields the same forks.
	ForkVM(ctx context.Context, by Caller, id domain.ID, count int, req CreateVM) ([]*domain.VM, error)
	// WaitVM blocks until the VM's observed state fits its desired state or is
	// terminal, and returns it. A failed VM is returned with an error carrying its reason.
	WaitVM(ctx context.Context, by Caller, id domain.ID) (*domain.VM, error)
	// VMUsage reads what a VM uses now. Returns Conflict when it does not run.
	VMUsage(ctx context.Context, by Caller, id domain.ID) (Usage, error)
	// VMUsed lists what a VM used before, span by span, oldest first: spans that
	// begin in [from, to), at most MaxSpans. They outlast restarts.
	VMUsed(ctx context.Context, by Caller, id domain.ID, from, to time.Time) ([]domain.Usage, error)
	// VMTrace gives the phases of the VM's last start, in order.
	VMTrace(ctx context.Context, by Caller, id domain.ID) ([]Phase, error)
	// VMPreviewToken gives the VM's preview token in clear.
	VMPreviewToken(ctx context.Context, by Caller, id domain.ID) (string, error)
}

// MaxSpans bounds an answer of VMUsed.
const MaxSpans = 1000

// Phase is one timed step. One whose name has a dot in it is a part of the step
// that is named before the dot, as its driver saw it.
type Phase struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took_ns"`
}

// StartExecution asks for a command to be run.
type StartExecution struct {
	// ID may be minted by the caller: the same ID never runs twice.
	ID      domain.ID
	Command domain.Command
	Tag     string
}

// ExecutionList is a page of a VM's executions.
type ExecutionList struct {
	List[*domain.Execution]
	// Away is why those of the last moments can be missing, and others be shown as
	// they were, Unavailable; nil where all are there. Rows are written a moment
	// after a command's start, and the worker that has the VM is not reached.
	Away error
}

// Executions runs commands. There is no queue and no database on its path.
type Executions interface {
	// StartExecution returns when the agent has confirmed the start.
	// Returns Conflict when the VM does not run (and does not auto-resume),
	// InvalidArgument for a missing program, user or directory, GuestFault, Unavailable,
	// IdempotencyMismatch when the ID is one that another Command.Request began.
	StartExecution(ctx context.Context, by Caller, vm domain.ID, req StartExecution) (*domain.Execution, error)
	// Execute is StartExecution and Output from the beginning, with follow, for who
	// waits for the end anyhow: it may return a moment after the start, with the first
	// output. The reader ends with ctx, and holds nothing back.
	Execute(ctx context.Context, by Caller, vm domain.ID, req StartExecution) (*domain.Execution, OutputReader, error)
	GetExecution(ctx context.Context, by Caller, id domain.ID) (*domain.Execution, error)
	ListExecutions(ctx context.Context, by Caller, vm domain.ID, p Page) (ExecutionList, error)
	// Output reads the journal from an offset. With follow it waits for more
	// until the end; else it stops at what is there.
	Output(ctx context.Context, by Caller, id domain.ID, from int64, follow bool) (OutputReader, error)
	// WaitExecution blocks until the execution has ended.
	WaitExecution(ctx context.Context, by Caller, id domain.ID) (*domain.Execution, error)
	// WriteStdin sends input. offset is where data belongs in the whole input,
	// so that a resent piece is taken once; -1 appends. It blocks while the command does not read.
	WriteStdin(ctx context.Context, by Caller, id domain.ID, offset int64, data []byte) error
	CloseStdin(ctx context.Context, by Caller, id domain.ID) error
	ResizePTY(ctx context.Context, by Caller, id domain.ID, size domain.PTYSize) error
	// SignalExecution sends a signal to the command's process group. An ended execution is Conflict.
	SignalExecution(ctx context.Context, by Caller, id domain.ID, signal int) error
}

// OutputReader yields an execution's output in order. The last event has End
// set and is followed by io.EOF; without follow, io.EOF may come before an end.
// Data is valid until the next call. Not safe for concurrent use.
type OutputReader interface {
	Next(ctx context.Context) (domain.OutputEvent, error)
	// Hold, called before the first Next, makes the command wait for this reader
	// before output that it has not read yet is dropped for want of room.
	Hold()
	Close() error
}

// FileInfo describes a file in a VM.
type FileInfo struct {
	Name          string            `json:"name"`
	Path          string            `json:"path"`
	Type          string            `json:"type"` // "file", "dir", "symlink", "other"
	Size          int64             `json:"size"`
	Mode          uint32            `json:"mode"` // permission bits, setuid, setgid and sticky as in stat(2)
	Owner         string            `json:"owner"`
	Group         string            `json:"group"`
	ModifiedAt    time.Time         `json:"modified_at"`
	SymlinkTarget string            `json:"symlink_target,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
}

// FileOptions go with file calls. User is the OS user in the VM whose rights
// count and whose home relative paths start from.
type FileOptions struct {
	User   string
	Offset int64  // read: start
	Length int64  // read: at most so much; 0: to the end
	Mode   uint32 // write: permission bits of a new file; 0: 0644
}

// FileEvent is a change in a watched directory.
type FileEvent struct {
	Type string `json:"type"` // "create", "write", "remove", "rename", "chmod"
	Path string `json:"path"` // relative to the watched directory
}

// Files moves files. Paths are the guest's; symlinks are resolved there, by
// the guest's kernel with the user's rights, so none leads to the host.
type Files interface {
	StatFile(ctx context.Context, by Caller, vm domain.ID, path string, o FileOptions) (FileInfo, error)
	ListDir(ctx context.Context, by Caller, vm domain.ID, path string, depth int, o FileOptions) ([]FileInfo, error)
	MakeDir(ctx context.Context, by Caller, vm domain.ID, path string, o FileOptions) (FileInfo, error)
	MoveFile(ctx context.Context, by Caller, vm domain.ID, from, to string, o FileOptions) (FileInfo, error)
	RemoveFile(ctx context.Context, by Caller, vm domain.ID, path string, o FileOptions) error
	// ReadFile returns the whole file's info and a stream of the asked range.
	ReadFile(ctx context.Context, by Caller, vm domain.ID, path string, o FileOptions) (FileInfo, io.ReadCloser, error)
	// WriteFile replaces the file atomically: readers see the old or the new content.
	WriteFile(ctx context.Context, by Caller, vm domain.ID, path string, r io.Reader, o FileOptions) (FileInfo, error)
	// TarDown streams a tar (PAX) of a file or directory tree.
	TarDown(ctx context.Context, by Caller, vm domain.ID, path string, o FileOptions) (io.ReadCloser, error)
	// TarUp unpacks a tar below a directory. Entries that would leave it are refused.
	TarUp(ctx context.Context, by Caller, vm domain.ID, path string, r io.Reader, o FileOptions) error
	// WatchDir sends events until ctx ends or the VM does; the channel is then closed.
	WatchDir(ctx context.Context, by Caller, vm domain.ID, path string, recursive bool, o FileOptions) (<-chan FileEvent, error)
}

// Ports reaches servers inside VMs.
type Ports interface {
	// DialPort connects to a TCP port in the VM. Traffic counts as use and
	// resumes a paused VM that auto-resumes. Returns Unavailable when the port
	// is closed, NotFound, Conflict.
	DialPort(ctx context.Context, vm domain.ID, port uint16) (net.Conn, error)
	// Awake returns when the VM runs, and resumes a paused one that auto-resumes:
	// for who has connections to it already. here: DialPort's are sockets of this
	// host. Returns NotFound, Gone, Conflict.
	Awake(ctx context.Context, vm domain.ID) (here bool, err error)
	// Preview tells who may visit the VM's previews, for the preview proxy to
	// compare. Returns NotFound.
	Preview(ctx context.Context, vm domain.ID) (Preview, error)
}

// Preview is how a VM's previews are shown.
type Preview struct {
	domain.Previews
	Token string // what a visitor shows of previews that are not public
}

// Agents reaches what VMs' guest agents serve to clients of their own.
type Agents interface {
	// DialAgent connects to a VM's agent, which serves all that connects: the
	// caller lets nothing through but what is for clients, from who has shown the
	// agent's token. It counts as use, and with wake resumes a paused VM that
	// auto-resumes. Returns NotFound, Gone, Conflict, Unavailable.
	DialAgent(ctx context.Context, vm domain.ID, wake bool) (net.Conn, error)
	// AgentAccess tells what clients of the VM's agent must show, and whose VM it
	// is. Returns NotFound, Gone.
	AgentAccess(ctx context.Context, vm domain.ID) (AgentAccess, error)
}

// AgentAccess is who may talk to a VM's agent.
type AgentAccess struct {
	Token     string
	ProjectID domain.ID
}

// EgressLogQuery asks for a part of an egress log.
type EgressLogQuery struct {
	After int64         // an entry's number
	Limit int           // 1..MaxEgressEntries; 0: that many
	Wait  time.Duration // for an entry when there is none behind After
}

// MaxEgressEntries bounds one reading of an egress log.
const MaxEgressEntries = 1000

// Egress is what VMs may reach, and what they did.
type Egress interface {
	// VMEgress gives the policy, and whether it is in force.
	VMEgress(ctx context.Context, by Caller, vm domain.ID) (p domain.EgressPolicy, inForce bool, err error)
	// SetVMEgress replaces the policy. When it returns, the policy is in force
	// and connections that it refuses are cut. Returns Unavailable when it is
	// stored but not in force yet, Unsupported.
	SetVMEgress(ctx context.Context, by Caller, vm domain.ID, p domain.EgressPolicy) (domain.EgressPolicy, error)
	// VMEgressLog reads the VM's log, oldest first. It is kept as long as the
	// VM's tombstone.
	VMEgressLog(ctx context.Context, by Caller, vm domain.ID, q EgressLogQuery) ([]domain.EgressEntry, error)
	// VMEgressLearned gives the policy that allows what the VM connected to by
	// its log so far, and nothing else.
	VMEgressLearned(ctx context.Context, by Caller, vm domain.ID) (domain.EgressPolicy, error)
}

// CreateSnapshot asks for a snapshot.
type CreateSnapshot struct {
	Name string              // empty: none
	Kind domain.SnapshotKind // empty: disk
}

// Snapshots keeps and lists frozen states.
type Snapshots interface {
	// CreateSnapshot returns when the snapshot is complete. Returns Unsupported
	// for a kind that the driver cannot make, Conflict for the memory of a VM
	// that does not run.
	CreateSnapshot(ctx context.Context, by Caller, vm domain.ID, req CreateSnapshot) (*domain.Snapshot, error)
	GetSnapshot(ctx context.Context, by Caller, id domain.ID) (*domain.Snapshot, error)
	ListSnapshots(ctx context.Context, by Caller, vm domain.ID, p Page) (List[*domain.Snapshot], error)
	DeleteSnapshot(ctx context.Context, by Caller, id domain.ID) error
}

// BuildTemplate asks for a template build.
type BuildTemplate struct {
	// ID of the build may be minted by the caller; another with it is refused.
	ID     domain.ID
	Name   string
	Tags   []string // default: latest
	Source domain.TemplateSource
	Shape  domain.Resources
	User   string // default OS user
	Env    map[string]string
	// Warm is what its machines do before they are somebody's. A memory's driver
	// and network: empty means the server's defaults, or the first driver that can.
	Warm domain.WarmUp
	// TryStart: the build fails unless what Warm starts gets ready in a machine of
	// the build, too, where no memory is kept and both commands are given.
	TryStart bool
	// NoCache: every step of the source is carried out anew.
	NoCache bool
	// Registry is shown to the registry of the image that steps begin with. It is
	// kept in memory alone: a build that a restart interrupts before it has the
	// image fails.
	Registry RegistryLogin
}

// RegistryLogin is who a registry is asked as; empty: whoever the installation is.
type RegistryLogin struct {
	Username string
	Password logging.Secret
}

// TemplateInfo is a template with its newest builds.
type TemplateInfo struct {
	Template *domain.Template
	Builds   []*domain.Build // newest first, at most 20
}

// TemplateTag is a tag and the build that it points at.
type TemplateTag struct {
	Name  string
	Build *domain.Build
}

// TagTemplate asks for tags on a build that is there.
type TagTemplate struct {
	// Ref is the build: name, name:tag, or its ID; with Of, which says by name or
	// ID what template's it must be, one of that template's tags, or its ID.
	Ref, Of string
	Tags    []string
}

// Templates builds and lists templates.
type Templates interface {
	// SaveUpload keeps all of r for a day, for templates to be built from: its ID is
	// then their source's Tar or Context. It may have a name to be found by. Returns
	// InvalidArgument for nothing, NoSpace, QuotaExceeded, and r's own errors.
	SaveUpload(ctx context.Context, by Caller, name string, r io.Reader) (*domain.Upload, error)
	// NamedUpload finds the newest of a name. Returns NotFound.
	NamedUpload(ctx context.Context, by Caller, name string) (*domain.Upload, error)
	// OpenUpload returns NotFound.
	OpenUpload(ctx context.Context, by Caller, id domain.ID) (io.ReadCloser, error)
	// BuildTemplate starts a build as a task.
	BuildTemplate(ctx context.Context, by Caller, req BuildTemplate) (*domain.Task, error)
	GetTemplate(ctx context.Context, by Caller, nameOrID string) (*TemplateInfo, error)
	ListTemplates(ctx context.Context, by Caller, p Page) (List[*TemplateInfo], error)
	// TemplateTags lists the template's tags, by name.
	TemplateTags(ctx context.Context, by Caller, nameOrID string) ([]TemplateTag, error)
	// TagTemplate points tags of a build's template at it. Returns NotFound for
	// what is not the project's own, InvalidArgument for a build of another
	// template, Conflict for one that is not ready and for too many tags.
	TagTemplate(ctx context.Context, by Caller, req TagTemplate) (build domain.ID, err error)
	// UntagTemplate removes tags; those that are not there are no error. Returns
	// InvalidArgument for the default one, without which a name means nothing.
	UntagTemplate(ctx context.Context, by Caller, nameOrID string, tags []string) error
	// DeleteTemplate removes the template and those of its builds that no VM or snapshot uses.
	DeleteTemplate(ctx context.Context, by Caller, nameOrID string) error
	// BuildLog reads a build's log from a byte offset; with follow it waits until the build ends.
	BuildLog(ctx context.Context, by Caller, build domain.ID, from int64, follow bool) (io.ReadCloser, error)
}

// ToolInfo is an installed version of a tool.
type ToolInfo struct {
	Name        string
	Version     string // exact
	Backend     string // what it was installed by
	Bytes       int64
	Files       int64
	VMs         int // that have it
	InstalledAt time.Time
}

// Tools is the programs that VMs can be given beside their template.
type Tools interface {
	// ListTools lists what is installed, by name and version.
	ListTools(ctx context.Context, by Caller) ([]ToolInfo, error)
	// InstallTools has tools installed, as a task, so that VMs find them there.
	InstallTools(ctx context.Context, by Caller, tools []string) (*domain.Task, error)
	// ToolLog reads the log of an installation's task from a byte offset; with
	// follow it waits until the task ends.
	ToolLog(ctx context.Context, by Caller, task domain.ID, from int64, follow bool) (io.ReadCloser, error)
	// RemoveTool removes the installed tools with a directory name as
	// domain.Tool has it, and an exact version; empty: all. Administrators only.
	// Returns NotFound, Conflict while a VM has one of them.
	RemoveTool(ctx context.Context, by Caller, dir, version string) error
}

// Secrets are values that a project stores for its VMs, by name. They are
// written and given to VMs; no method reads one back.
type Secrets interface {
	// ListSecrets lists the project's secrets by name, without their values.
	ListSecrets(ctx context.Context, by Caller) ([]*domain.Secret, error)
	// PutSecret stores a value under a name, in the place of an earlier one.
	// Returns Conflict when the project has too many secrets.
	PutSecret(ctx context.Context, by Caller, name, value string) (*domain.Secret, error)
	// DeleteSecret returns NotFound.
	DeleteSecret(ctx context.Context, by Caller, name string) error
}

// CreateVolume asks for a volume.
type CreateVolume struct {
	Name      string
	DiskBytes int64 // 0: what the disk of a VM has that asks for none
}

// Volumes are directories that outlive VMs. One that a VM has cannot be deleted.
type Volumes interface {
	// CreateVolume returns AlreadyExists for the name, QuotaExceeded,
	// CapacityExhausted, Unsupported where no driver can show a volume to VMs.
	CreateVolume(ctx context.Context, by Caller, req CreateVolume) (*domain.Volume, error)
	GetVolume(ctx context.Context, by Caller, idOrName string) (*domain.Volume, error)
	ListVolumes(ctx context.Context, by Caller, p Page) (List[*domain.Volume], error)
	// DeleteVolume returns Conflict while a VM has it.
	DeleteVolume(ctx context.Context, by Caller, idOrName string) error
	// VolumeToken gives what opens the volume's content to who holds no key.
	VolumeToken(ctx context.Context, by Caller, id domain.ID) (string, error)
	// OpenVolume opens the content for who shows the volume's token; size is what
	// the volume can hold. Returns NotFound, Unauthenticated.
	OpenVolume(ctx context.Context, id domain.ID, token string) (files VolumeFiles, size int64, err error)
	// OpenOwnVolume opens the content for the volume's project.
	OpenOwnVolume(ctx context.Context, by Caller, idOrName string) (VolumeFiles, *domain.Volume, error)
}

// VolumeEntryType is what something in a volume is.
type VolumeEntryType string

// The types, as E2B names them.
const (
	VolumeFile      VolumeEntryType = "file"
	VolumeDirectory VolumeEntryType = "directory"
	VolumeSymlink   VolumeEntryType = "symlink"
	VolumeOther     VolumeEntryType = "unknown"
)

// VolumeEntry is something in a volume. Owners are numbers: each VM has its own users.
type VolumeEntry struct {
	Name       string
	Path       string // from the volume's root on, which is /
	Type       VolumeEntryType
	Size       int64
	Mode       uint32 // permission bits, setuid, setgid and sticky as in stat(2)
	UID, GID   uint32
	AccessedAt time.Time
	ModifiedAt time.Time
	ChangedAt  time.Time
	Target     string // of a symlink, as it is written there
}

// VolumeAttr is whose an entry shall be and who may use it. Nil: as it is; of
// a new one, user and group 1000, and mode 0644 or 0755.
type VolumeAttr struct{ UID, GID, Mode *uint32 }

// VolumeFiles is one volume's content, whether VMs have it or not. Paths cannot
// leave the volume and follow no link. All return NotFound for what is not
// there and InvalidArgument for a path that cannot be used.
type VolumeFiles interface {
	Stat(ctx context.Context, path string) (VolumeEntry, error)
	// List walks a directory in lexical order, so many levels deep. Returns
	// TooLarge when there is too much.
	List(ctx context.Context, path string, depth int) ([]VolumeEntry, error)
	// MakeDir makes the directories above it, too, with parents, and then takes one
	// that is there for success. Returns AlreadyExists, NoSpace.
	MakeDir(ctx context.Context, path string, a VolumeAttr, parents bool) (VolumeEntry, error)
	// Read opens a regular file.
	Read(ctx context.Context, path string) (VolumeEntry, io.ReadSeekCloser, error)
	// Write replaces the file atomically: readers see the old or the new content.
	// Returns NoSpace.
	Write(ctx context.Context, path string, r io.Reader, a VolumeAttr, parents bool) (VolumeEntry, error)
	// Set changes owner and mode of a file or directory.
	Set(ctx context.Context, path string, a VolumeAttr) (VolumeEntry, error)
	// Remove removes a file or a directory with all that is in it.
	Remove(ctx context.Context, path string) error
	Close() error
}

// DrainWorker says how a worker is drained.
type DrainWorker struct {
	Within time.Duration // until what is active is ended; at most domain.MaxDrain
	Move   bool          // what rests leaves the worker: its next start may be on another
}

// Fleet tells about nodes.
type Fleet interface {
	ListWorkers(ctx context.Context, by Caller) ([]*domain.Worker, error)
	// GetWorker finds a worker by ID or name. Returns NotFound, as those below do.
	GetWorker(ctx context.Context, by Caller, idOrName string) (*domain.Worker, error)
	// CordonWorker has a worker take nothing new; what it has goes on.
	CordonWorker(ctx context.Context, by Caller, idOrName string) (*domain.Worker, error)
	// UncordonWorker takes a cordon back, and a drain.
	UncordonWorker(ctx context.Context, by Caller, idOrName string) (*domain.Worker, error)
	// DrainWorker cordons a worker and has it end the VMs that are active after a
	// time. Asked again, the earlier time counts, and a wish to move them stays.
	// Returns Unsupported to move VMs of a worker without storage.
	DrainWorker(ctx context.Context, by Caller, idOrName string, d DrainWorker) (*domain.Worker, error)
	// RemoveWorker removes a worker that is away, and gives it as it was. One that has
	// something still has to be fenced: the caller's word that nothing of it runs any
	// more. Its VMs end then, but for those that rest in the storage, and what it alone
	// had is gone. Broken off, it goes on when it is asked for again.
	// Returns Conflict for a worker that is not away, or has something and is not fenced.
	RemoveWorker(ctx context.Context, by Caller, idOrName string, fenced bool) (*domain.Worker, error)
	// Drivers tells what each driver on this installation can do.
	Drivers(ctx context.Context, by Caller) ([]domain.DriverInfo, error)
}

// Events reads what happened.
type Events interface {
	// ListEvents returns events after a cursor in commit order, at most limit.
	ListEvents(ctx context.Context, by Caller, after int64, limit int) ([]domain.Event, error)
	// EventBounds gives the cursors of the oldest event that is kept and of the
	// newest. Who goes on from a cursor below oldest-1 may have missed events.
	EventBounds(ctx context.Context) (oldest, newest int64, err error)
	// EventsChanged returns a channel that is closed when there may be newer events.
	EventsChanged() <-chan struct{}
}

// TaskService is durable asynchronous work as callers see it.
type TaskService interface {
	GetTask(ctx context.Context, by Caller, id domain.ID) (*domain.Task, error)
	ListTasks(ctx context.Context, by Caller, f TaskFilter) (List[*domain.Task], error)
	// CancelTask asks a task to end; one that has ended is Conflict.
	CancelTask(ctx context.Context, by Caller, id domain.ID) (*domain.Task, error)
	// WaitTask blocks until the task has ended.
	WaitTask(ctx context.Context, by Caller, id domain.ID) (*domain.Task, error)
	// TaskForVM makes the task row that stands for an asynchronous VM creation.
	TaskForVM(ctx context.Context, by Caller, kind string, vm domain.ID, args json.RawMessage) (*domain.Task, error)
	Runs
}

// TaskFilter narrows a list. Zero fields do not filter.
type TaskFilter struct {
	States  []domain.TaskState
	Kind    string
	GroupID domain.ID
	Page
}

// Run is a command that is run in a VM of its own, which is gone afterwards.
type Run struct {
	Name string
	VM   CreateVM // without name and times
	// Command has no terminal, and takes no input but Stdin. Its timeout, which
	// it must have, is that of each attempt.
	Command domain.Command
	Stdin   []byte // the whole input
	// Files are written before the command starts, as its user.
	Files []RunFile
	// Results are paths of files that are kept when it has ended, with whatever status.
	Results []string
	// MaxAttempts: how often it is tried when it fails; 0: once. A command that
	// was started is run again for no other reason.
	MaxAttempts int
	Backoff     time.Duration // before the second attempt; doubled for each further one. 0: a second
	// After are tasks that must have ended before.
	After        []domain.ID
	AfterFailure domain.AfterFailure // when one of them has not succeeded; empty: skip
}

// RunFile is a file that a command finds.
type RunFile struct {
	Path    string
	Content []byte
	Mode    uint32 // permission bits; 0: 0644
}

// CreateRuns asks for tasks that are made together or not at all.
type CreateRuns struct {
	Runs  []Run
	Group bool // they are a group
	// IdempotencyKey: the same key by the same project yields the same tasks.
	IdempotencyKey string
	RequestDigest  string // compared when a key is used again (IdempotencyMismatch)
}

// TaskGroup is tasks that were made together.
type TaskGroup struct {
	ID     domain.ID
	Counts map[domain.TaskState]int
}

// Runs are tasks that run commands in VMs of their own.
type Runs interface {
	// CreateRuns returns NotFound for a task to come after that is not there,
	// QuotaExceeded when too many of the project's wait, IdempotencyMismatch.
	CreateRuns(ctx context.Context, by Caller, req CreateRuns) ([]*domain.Task, error)
	// RetryTask lets a run that failed or was canceled run once more. Returns
	// Conflict for one that has not, Unsupported for another task.
	RetryTask(ctx context.Context, by Caller, id domain.ID) (*domain.Task, error)
	// TaskExecution gives the command of a run's last attempt; with wait once it
	// has been started. Returns Conflict when none has been, Unsupported for a task
	// that has no command.
	TaskExecution(ctx context.Context, by Caller, id domain.ID, wait bool) (domain.ID, error)
	// GetTaskGroup returns NotFound.
	GetTaskGroup(ctx context.Context, by Caller, id domain.ID) (TaskGroup, error)
	// CancelTaskGroup asks those of a group that have not ended to end.
	CancelTaskGroup(ctx context.Context, by Caller, id domain.ID) (TaskGroup, error)
}
