// Package service holds the use cases: it implements vmm.Orchestrator and
// vmm.TaskService. The life cycle is validated, persisted as a wish and the
// owning worker woken; the interactive calls go straight to that worker.
package service

import (
	"context"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// Node is a worker as the service reaches it: a value in this process, or a
// client of one elsewhere. Its methods trust their arguments: the service has
// checked who asks and what for.
type Node interface {
	// Wake asks the node to converge a project's VM now. It waits for nothing; ctx
	// is of whoever wishes that.
	Wake(ctx context.Context, project, vm domain.ID)
	// Live returns a running VM that the node serves, from this process's memory.
	Live(vm domain.ID) (*domain.VM, bool)

	StartExecution(ctx context.Context, vm *domain.VM, req vmm.StartExecution) (*domain.Execution, error)
	// Execute starts an execution and reads its output from the beginning to the end.
	// Of vm it looks at ID and project alone. The reader ends with ctx; it is nil
	// where the execution was started, and its output is not to be had in this way.
	Execute(ctx context.Context, vm *domain.VM, req vmm.StartExecution) (*domain.Execution, vmm.OutputReader, error)
	// Execution returns what the node knows of an execution, fresher than the database.
	// Returns NotFound where it knows nothing of it (any more).
	Execution(ctx context.Context, id domain.ID) (*domain.Execution, error)
	Output(ctx context.Context, x *domain.Execution, from int64, follow bool) (vmm.OutputReader, error)
	WaitExecution(ctx context.Context, id domain.ID) (*domain.Execution, error)
	// FlushExecutions writes what is only in memory beside the database.
	FlushExecutions(ctx context.Context) error
	WriteStdin(ctx context.Context, id domain.ID, offset int64, data []byte) error
	StdinOffset(ctx context.Context, id domain.ID) (int64, error)
	CloseStdin(ctx context.Context, id domain.ID) error
	ResizePTY(ctx context.Context, id domain.ID, size domain.PTYSize) error
	SignalExecution(ctx context.Context, id domain.ID, signal int) error

	Files(ctx context.Context, vm *domain.VM) (GuestFiles, error)
	Dial(ctx context.Context, vm *domain.VM, port uint16) (net.Conn, error)
	Usage(ctx context.Context, vm *domain.VM) (vmm.Usage, error)
	// ApplyEgress puts in force what the VM's row says that it may reach.
	ApplyEgress(ctx context.Context, vm domain.ID) error
	EgressLog(ctx context.Context, vm *domain.VM, q vmm.EgressLogQuery) ([]domain.EgressEntry, error)
	Trace(ctx context.Context, vm domain.ID) ([]vmm.Phase, error)

	Snapshot(ctx context.Context, vm *domain.VM, snapshot domain.ID, kind domain.SnapshotKind) (vmm.SnapshotInfo, error)
	// SnapshotsChanged tells the node that a snapshot on it is ready: it stores it
	// where other nodes get it, if it can.
	SnapshotsChanged(ctx context.Context)
	// DeleteSnapshot removes what the node, and storage that it shares, have of a
	// snapshot whose row is gone. Absent is success.
	DeleteSnapshot(ctx context.Context, s *domain.Snapshot) error
	Drivers(ctx context.Context) ([]domain.DriverInfo, error)

	// RunTask wakes the node for a project's task that is in the database.
	RunTask(project, id domain.ID)
	// KeepLogin keeps, in memory and until the task has ended, what a build shows
	// to a registry. It comes before RunTask.
	KeepLogin(ctx context.Context, task domain.ID, login vmm.RegistryLogin) error
	// KeepUpload keeps all of r as a project's upload until it has expired, in place
	// of one with its ID, and tells its size and SHA-256 in hexadecimal digits. It is
	// not kept if want, unless empty, is another sum. Returns InvalidArgument for
	// nothing, NoSpace, Internal for another sum, and r's own errors.
	KeepUpload(ctx context.Context, project, id domain.ID, want string, r io.Reader) (bytes int64, sha256 string, err error)
	// DropUpload removes what KeepUpload kept. Absent is success.
	DropUpload(ctx context.Context, project, id domain.ID) error
	// OpenUpload reads what KeepUpload kept. Returns NotFound.
	OpenUpload(ctx context.Context, project, id domain.ID) (io.ReadCloser, error)
	// CancelTask tells a running task to end.
	CancelTask(id domain.ID)
	BuildLog(ctx context.Context, build domain.ID, from int64, follow bool) (io.ReadCloser, error)
	Tools(ctx context.Context) ([]vmm.ToolInfo, error)
	ToolLog(ctx context.Context, task domain.ID, from int64, follow bool) (io.ReadCloser, error)
	// RemoveTool removes a tool's exact version unless a VM has it.
	RemoveTool(ctx context.Context, exact domain.Tool) error
	// TemplatesChanged tells the node that tags moved or a template went: what
	// it keeps ready or stored of builds that nobody gets any more can go.
	TemplatesChanged(ctx context.Context)
	// MakeVolume makes a volume that is in the database. Returns NoSpace.
	MakeVolume(ctx context.Context, v *domain.Volume) error
	// DeleteVolume removes a volume's data; absent is success.
	DeleteVolume(ctx context.Context, id domain.ID) error
	OpenVolume(ctx context.Context, v *domain.Volume) (vmm.VolumeFiles, error)
	// ForgetProject removes what is left of a project's VMs that are deleted:
	// tombstones, executions with their output, logs.
	ForgetProject(ctx context.Context, project domain.ID) error
}

// GuestFiles is one VM's file system with the calls of vmm.Files.
type GuestFiles interface {
	Stat(ctx context.Context, path string, o vmm.FileOptions) (vmm.FileInfo, error)
	List(ctx context.Context, path string, depth int, o vmm.FileOptions) ([]vmm.FileInfo, error)
	MakeDir(ctx context.Context, path string, o vmm.FileOptions) (vmm.FileInfo, error)
	Move(ctx context.Context, from, to string, o vmm.FileOptions) (vmm.FileInfo, error)
	Remove(ctx context.Context, path string, o vmm.FileOptions) error
	Read(ctx context.Context, path string, o vmm.FileOptions) (vmm.FileInfo, io.ReadCloser, error)
	Write(ctx context.Context, path string, r io.Reader, o vmm.FileOptions) (vmm.FileInfo, error)
	TarDown(ctx context.Context, path string, o vmm.FileOptions) (io.ReadCloser, error)
	TarUp(ctx context.Context, path string, r io.Reader, o vmm.FileOptions) error
	Watch(ctx context.Context, path string, recursive bool, o vmm.FileOptions) (<-chan vmm.FileEvent, error)
}

// Nodes finds workers.
type Nodes interface {
	// Node returns Unavailable when the worker cannot be reached.
	Node(id domain.ID) (Node, error)
	// Here is the worker of this process, which is asked before the database:
	// what it knows is fresher and costs no trip. nil: this process has none.
	Here() Node
}

// OneNode is the fleet of a process that has the only worker it knows of.
type OneNode struct {
	Only interface {
		Node
		ID() domain.ID // known once it has started
	}
}

// Node implements Nodes.
func (o OneNode) Node(id domain.ID) (Node, error) {
	if id != o.Only.ID() {
		return nil, errors.New(errors.Unavailable, "the worker %s is not this one", id)
	}
	return o.Only, nil
}

// Here implements Nodes.
func (o OneNode) Here() Node { return o.Only }

// Config is what an installation gives its VMs.
type Config struct {
	DefaultTemplate string
	DefaultDriver   string // may be domain.DriverAuto
	BuildDriver     string // of machines that templates are built in; default: DefaultDriver
	Defaults        domain.Resources
	DefaultNetwork  domain.NetworkMode
	DefaultTools    []string // of VMs that are not made from a snapshot
	// DefaultTimeout is until the deadline of a VM that names none; 0: no deadline.
	DefaultTimeout time.Duration
	MaxTimeout     time.Duration
	Platform       string
	// AwayAfter is how long a worker gives no sign of life until it is taken for
	// away; 0: 20 s.
	AwayAfter time.Duration
	// KeepTombstones is how long ended VMs stay visible.
	KeepTombstones time.Duration
	// Overcommit is how many times a worker's capacity may be promised; 0: without bound.
	Overcommit Overcommit
	// Quota is what projects may have and do that have no quota of their own.
	Quota domain.Quota
	// MaxUploads bounds the bytes of a project's uploads; 0: without bound.
	MaxUploads int64
	// MaxOpenRuns bounds the runs of a project that have not ended; 0: 10000.
	MaxOpenRuns int
}

// Overcommit multiplies capacity at admission. VMs are how many may run on one
// worker, or be on their way there, or be kept in memory; 0: any.
type Overcommit struct {
	CPU, Memory, Disk float64
	VMs               int
}

// Service implements vmm.Orchestrator and vmm.TaskService.
type Service struct {
	store   storage.Store
	nodes   Nodes
	sealer  seal.Sealer
	changes watch.Changes[domain.ID] // woken by the worker after commits for a VM or task but for a step's beginning
	runs    RunQueue
	config  Config
	metrics *metrics
	log     *slog.Logger
	now     func() time.Time
	opened  openedTokens
	roster  roster
	backlog backlog             // of VMs and tasks to be made
	recents recents             // of other processes' workers
	looked  watch.Hub[struct{}] // woken when it was looked which workers are away
}

var (
	_ vmm.Orchestrator = (*Service)(nil)
	_ vmm.TaskService  = (*Service)(nil)
)

// Deps are what a service works with.
type Deps struct {
	Store   storage.Store
	Nodes   Nodes
	Sealer  seal.Sealer
	Changes watch.Changes[domain.ID]
	Runs    RunQueue // nil: what carries runs out finds them by itself
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now
}

// RunQueue is where it is told that a run is to be looked at.
type RunQueue interface {
	WakeRun(project, id domain.ID)
	// WakeRuns has those looked at of a project's runs that may begin now, and
	// these, in one call however many they are.
	WakeRuns(project domain.ID, these []domain.ID)
}

// New makes a service.
func New(config Config, d Deps) *Service {
	if d.Now == nil {
		d.Now = time.Now
	}
	if config.BuildDriver == "" {
		config.BuildDriver = config.DefaultDriver
	}
	if config.AwayAfter == 0 {
		config.AwayAfter = 20 * time.Second
	}
	if config.MaxOpenRuns == 0 {
		config.MaxOpenRuns = 10_000
	}
	return &Service{store: d.Store, nodes: d.Nodes, sealer: d.Sealer, changes: d.Changes, runs: d.Runs, config: config, metrics: newMetrics(), log: d.Log, now: d.Now, backlog: backlog{now: d.Now}}
}

// time returns the present in the precision that the store keeps.
func (s *Service) time() time.Time { return s.now().UTC().Truncate(time.Microsecond) }

// running returns a VM that can be talked to and its node. A paused VM that
// resumes by itself is resumed first.
// Returns NotFound, Gone, Conflict.
func (s *Service) running(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.VM, Node, error) {
	if vm, node := s.hereLive(id); vm != nil && vm.ProjectID == by.ProjectID {
		return vm, node, nil
	}
	vm, err := s.GetVM(ctx, by, id)
	if err != nil {
		return nil, nil, err
	}
	return s.ready(ctx, by, vm)
}

// runningAny is running for callers that hold no key but the VM's token.
func (s *Service) runningAny(ctx context.Context, name string, id domain.ID) (*domain.VM, Node, error) {
	if vm, node := s.hereLive(id); vm != nil {
		return vm, node, nil
	}
	vm, err := s.anyVM(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	return s.ready(ctx, vmm.Caller{ProjectID: vm.ProjectID, Name: name}, vm)
}

// hereLive gives a VM that this process's own worker has a session with, and that
// worker; nil: there is none such.
func (s *Service) hereLive(id domain.ID) (*domain.VM, Node) {
	if node := s.nodes.Here(); node != nil {
		if vm, ok := node.Live(id); ok {
			return vm, node
		}
	}
	return nil, nil
}

// ready is running for a VM whose row was read.
func (s *Service) ready(ctx context.Context, by vmm.Caller, vm *domain.VM) (*domain.VM, Node, error) {
	if vm.UnreachableSince != nil {
		if vm.Desired == domain.WantDeleted {
			return nil, nil, notRunning(vm) // also when its worker is back
		}
		return nil, nil, unreachable(vm)
	}
	wait := vm.Desired == domain.WantRunning && vm.Observed != domain.Running && !vm.Observed.Terminal()
	if vm.Desired == domain.WantPaused && vm.AutoResume {
		if _, err := s.ResumeVM(ctx, by, vm.ID); err != nil {
			return nil, nil, err
		}
		wait = true // also where the row said that it runs: it was about to be paused
	}
	if wait {
		// It is on its way (created, starting, or being taken up by a restarted worker).
		var err error
		if vm, err = s.WaitVM(ctx, by, vm.ID); err != nil {
			return nil, nil, err
		}
	}
	if vm.Observed != domain.Running {
		return nil, nil, notRunning(vm)
	}
	node, err := s.nodeOf(vm)
	return vm, node, err
}

func notRunning(vm *domain.VM) error {
	switch {
	case vm.Observed == domain.Deleted || vm.Desired == domain.WantDeleted:
		e := errors.New(errors.Gone, "the VM is deleted")
		if vm.Tombstone != nil {
			return e.WithHint("it ended because of: %s", vm.Tombstone.Cause)
		}
		return e
	case vm.Observed == domain.Failed:
		return errors.New(errors.Conflict, "the VM has failed: %s", vm.Reason).WithHint("delete it and create a new one")
	case vm.Observed == domain.Paused && vm.Reason != "":
		return errors.New(errors.Conflict, "the VM is paused: %s", vm.Reason)
	case vm.Observed == domain.Paused:
		return errors.New(errors.Conflict, "the VM is paused").WithHint("resume it, or create VMs with auto_resume")
	case vm.Observed == domain.Stopped:
		return errors.New(errors.Conflict, "the VM is stopped").WithHint("start it first")
	}
	return errors.New(errors.Conflict, "the VM is %s", vm.Observed).WithRetryAfter(time.Second)
}

func notFound(what, name string) error {
	return errors.New(errors.NotFound, "there is no %s %q", what, name)
}
