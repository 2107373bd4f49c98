package domain

import (
	"slices"
	"time"
)

// DesiredState is what the owner of a VM asked for.
type DesiredState string

// The desired states.
const (
	WantRunning DesiredState = "running"
	WantPaused  DesiredState = "paused"
	WantStopped DesiredState = "stopped"
	WantDeleted DesiredState = "deleted"
)

// ObservedState is what the worker last saw or is doing.
type ObservedState string

// The observed states. Those ending in -ing are steps under way; after a
// restart the worker takes each up again from what the driver really has.
const (
	Pending     ObservedState = "pending"  // the row exists, no machine yet
	Creating    ObservedState = "creating" // a machine is being made
	Starting    ObservedState = "starting" // its agent has not answered yet
	Running     ObservedState = "running"
	Pausing     ObservedState = "pausing"
	Paused      ObservedState = "paused"
	Resuming    ObservedState = "resuming"
	Stopping    ObservedState = "stopping"
	Stopped     ObservedState = "stopped" // the disk is kept, nothing runs
	Deleting    ObservedState = "deleting"
	Deleted     ObservedState = "deleted"     // a tombstone
	Failed      ObservedState = "failed"      // see Reason; only delete leads out
	Unreachable ObservedState = "unreachable" // its worker is away; the VM may well run
)

// Rests reports whether a VM that is s stays so whatever becomes of its worker.
func (s ObservedState) Rests() bool { return s == Stopped || s == Paused || s.Terminal() }

// Terminal reports whether no step leads on from s by itself.
func (s ObservedState) Terminal() bool { return s == Deleted || s == Failed }

// PauseMode is what happens to memory while a VM is paused.
type PauseMode string

// The pause modes.
const (
	PauseFreeze PauseMode = "freeze" // processes are frozen; memory stays and counts; lost at a reboot
	PauseMemory PauseMode = "memory" // memory is saved to disk and freed
	PauseDisk   PauseMode = "disk"   // processes end; the disk is kept
)

// OnTimeout is what the worker does when a VM's deadline passes.
type OnTimeout string

// What can happen at the deadline.
const (
	TimeoutKill  OnTimeout = "kill" // delete
	TimeoutPause OnTimeout = "pause"
	TimeoutStop  OnTimeout = "stop"
)

// Isolation is what separates a VM from its host, weakest first.
type Isolation string

// The isolation levels.
const (
	IsolationContainerRoot Isolation = "container-root" // shared kernel, and root in the VM is the host's root with less capabilities
	IsolationContainer     Isolation = "container"      // shared kernel: user namespace, seccomp, capabilities
	IsolationGVisor        Isolation = "gvisor"         // a user-space kernel in between
	IsolationMicroVM       Isolation = "microvm"        // own kernel behind hardware or emulated virtualization
)

// AtLeast reports whether i isolates no less than minimum. An empty minimum asks nothing.
func (i Isolation) AtLeast(minimum Isolation) bool {
	rank := map[Isolation]int{"": 0, IsolationContainerRoot: 1, IsolationContainer: 2, IsolationGVisor: 3, IsolationMicroVM: 4}
	return rank[i] >= rank[minimum]
}

// NetworkMode is what a VM can reach.
type NetworkMode string

// The network modes.
const (
	NetworkNone NetworkMode = "none" // loopback only
	NetworkNAT  NetworkMode = "nat"  // outside addresses by NAT; private ranges, link-local and the host refused
)

// Resources bound what a VM can use. Zero in a request means the template's
// or the server's default; a stored VM has no zero.
type Resources struct {
	MilliCPU    int64 `json:"milli_cpu"`    // thousandths of a core
	MemoryBytes int64 `json:"memory_bytes"` // RAM and page cache together; no swap
	DiskBytes   int64 `json:"disk_bytes"`   // what the VM may write on top of its template
	PIDs        int64 `json:"pids"`         // processes and threads
}

// Mount is an extra tree shown to a VM.
type Mount struct {
	Source   string `json:"source"` // a volume's name, or in a request its name or ID; never a host path
	VolumeID ID     `json:"volume_id,omitempty"`
	Target   string `json:"target"` // absolute path in the VM
	ReadOnly bool   `json:"read_only"`
}

// Previews is how a VM's servers are shown to the outside. The zero value is
// for who shows the VM's token, or came by a link, alone.
type Previews struct {
	// Public lets everybody in who knows the address.
	Public bool `json:"public,omitempty"`
	// Host, if set, is what servers are told as the host that was asked for;
	// ${PORT} in it stands for the port.
	Host string `json:"host,omitempty"`
	// HTTPS are the ports whose servers speak TLS themselves. Their certificates
	// are not verified: nobody else is at the other end.
	HTTPS []uint16 `json:"https,omitempty"`
}

// IsZero reports whether nothing is asked for.
func (p Previews) IsZero() bool { return !p.Public && p.Host == "" && len(p.HTTPS) == 0 }

// VMSpec is what a VM is made from. It does not change after creation, but for
// Tools, which get their exact versions when the VM's machine is made, and
// Egress, which its owner can change while it runs.
type VMSpec struct {
	Template     string       `json:"template"`              // as asked: name, name:tag or ID
	TemplateID   ID           `json:"template_id,omitempty"` // resolved; empty when made from a snapshot
	BuildID      ID           `json:"build_id,omitempty"`    // the immutable build it runs
	SnapshotID   ID           `json:"snapshot_id,omitempty"` // made from this snapshot
	Memory       bool         `json:"memory,omitempty"`      // its first start goes on from the snapshot's memory, or its build's
	Driver       string       `json:"driver"`                // "oci", …
	MinIsolation Isolation    `json:"min_isolation,omitempty"`
	Platform     string       `json:"platform"` // "linux/amd64", "linux/arm64"
	Resources    Resources    `json:"resources"`
	Network      NetworkMode  `json:"network"`
	Mounts       []Mount      `json:"mounts,omitempty"`
	Hostname     string       `json:"hostname"`
	DefaultUser  string       `json:"default_user,omitempty"` // OS user of executions that name none
	Egress       EgressPolicy `json:"egress,omitzero"`        // with network nat
	Secrets      []SecretUse  `json:"secrets,omitempty"`      // stored secrets that it is given
	Tools        []string     `json:"tools,omitempty"`        // programs beside the template's, see Tool
	Previews     Previews     `json:"previews,omitzero"`
	// ResumeFor is the time until the deadline of the VM when it is resumed by
	// itself and has none to come; 0: the server's default.
	ResumeFor time.Duration `json:"resume_for,omitempty"`
}

// VM is one isolated machine owned by a project, whatever its driver.
type VM struct {
	ID        ID
	ProjectID ID
	Name      string // optional; unique in the project among VMs that are not deleted
	Metadata  map[string]string
	Spec      VMSpec
	Isolation Isolation // what it really has

	Desired   DesiredState
	Observed  ObservedState
	PauseMode PauseMode // mode of the pause asked for or in force
	// Generation rises by one with every change of Desired; a worker's step
	// compares it, so that a step for an old wish never lands.
	Generation int64
	// Epoch rises by one with every start of a machine for this VM; executions
	// and journals belong to an epoch.
	Epoch int64
	// Revision is the store's optimistic lock; the store sets it.
	Revision int64

	WorkerID  ID
	MachineID ID // empty while no machine exists
	// StoredID is the snapshot that the VM's disk was put into the storage as, when
	// it left a worker. It is the VM's disk until a machine that was made from it
	// has run; empty: the disk is its machine's.
	StoredID ID
	// Moves are the workers that the VM has left, oldest first: what stays with them.
	Moves []Move
	// UnreachableSince is the last sign of life of a worker that is away; nil:
	// it is not, or nothing of the VM is there. It is the worker's, read with the VM
	// and not written.
	UnreachableSince *time.Time

	// Deadline is when OnTimeout happens; nil means never. DeadlineGen rises
	// with every change, and DeadlineAck is the newest the worker enforces.
	Deadline    *time.Time
	DeadlineGen int64
	DeadlineAck int64
	// EgressGen rises with every change of Spec.Egress or of the value of a
	// bound secret, and EgressAck is the newest that is in force. While
	// EgressGen is 0 the VM's egress is the default.
	EgressGen   int64
	EgressAck   int64
	OnTimeout   OnTimeout
	IdleTimeout time.Duration // 0: none. OnTimeout happens after so long without any use
	AutoResume  bool          // traffic to a paused VM resumes it

	// EnvSealed is the envelope-encrypted JSON object of environment variables.
	EnvSealed []byte
	// TokenSealed is the envelope-encrypted per-VM token for previews.
	TokenSealed []byte

	Reason    string // why Failed, or what it is waiting for, for people
	Tombstone *Tombstone

	CreatedAt time.Time
	UpdatedAt time.Time
	StartedAt *time.Time // of the present epoch
	EndedAt   *time.Time
}

// InStorage reports whether the VM rests in the storage: no worker has anything
// of it.
func (vm *VM) InStorage() bool { return vm.StoredID != "" && vm.MachineID == "" }

// KeepsMemory reports whether the VM rests, and what it had in its memory does.
func (vm *VM) KeepsMemory() bool {
	return vm.Desired == WantPaused && vm.Observed == Paused && vm.PauseMode == PauseMemory
}

// Move is a worker that a VM has left. The output of its executions up to an
// epoch stays there, but for what went on elsewhere.
type Move struct {
	WorkerID ID        `json:"worker_id"`
	Epoch    int64     `json:"epoch"`
	At       time.Time `json:"at"`
	// Memory: what ran in the epoch goes on elsewhere, and its output with it.
	Memory bool `json:"memory,omitempty"`
}

// MaxMoves bounds how many workers a VM remembers.
const MaxMoves = 32

// Moved notes that the VM leaves its worker, with what it has in its memory or
// without.
func (vm *VM) Moved(at time.Time, memory bool) {
	m := Move{WorkerID: vm.WorkerID, Epoch: vm.Epoch, At: at, Memory: memory}
	n := len(vm.Moves)
	same := n > 0 && vm.Moves[n-1].Epoch == vm.Epoch
	switch {
	case vm.Epoch == 0 || same && vm.InStorage():
		return // nothing has run there
	case same && vm.Moves[n-1].WorkerID == vm.WorkerID:
		vm.Moves[n-1] = m
		return
	}
	vm.Moves = append(vm.Moves, m)
	if n := len(vm.Moves); n > MaxMoves {
		vm.Moves = vm.Moves[n-MaxMoves:]
	}
}

// OutputAt is the workers that may have the output of the VM's executions of an
// epoch, those first where an execution was last.
func (vm *VM) OutputAt(epoch int64) (at []ID) {
	note := func(id ID) {
		at = slices.DeleteFunc(at, func(other ID) bool { return other == id })
		at = append([]ID{id}, at...)
	}
	for _, m := range vm.Moves {
		if epoch > m.Epoch {
			continue
		}
		note(m.WorkerID)
		if !m.Memory || epoch < m.Epoch {
			return at
		}
	}
	note(vm.WorkerID)
	return at
}

// State is Observed as it is told outside: what a worker that is away is doing
// is not known, but what rests stays at rest.
func (vm *VM) State() ObservedState {
	if vm.UnreachableSince != nil && !vm.Observed.Rests() {
		return Unreachable
	}
	return vm.Observed
}

// Cause says why a VM ended.
type Cause string

// The causes.
const (
	CauseRequested   Cause = "requested"    // somebody asked
	CauseDeadline    Cause = "deadline"     // its time was up
	CauseIdle        Cause = "idle"         // nobody used it for its idle timeout
	CauseOOM         Cause = "oom"          // the kernel killed it for memory
	CauseGuestExit   Cause = "guest_exit"   // its first process ended
	CauseGuestFault  Cause = "guest_fault"  // its agent never answered, or lied
	CauseCreateFault Cause = "create_fault" // the driver could not make it
	CauseDrained     Cause = "drained"      // its worker was drained
	CauseHostLost    Cause = "host_lost"    // gone while nobody looked: a reboot, or killed from outside
)

// Tombstone tells what became of a VM; kept for days after its end.
type Tombstone struct {
	Cause      Cause     `json:"cause"`
	By         string    `json:"by,omitempty"` // who asked: a key's name, or "worker"
	Detail     string    `json:"detail,omitempty"`
	Code       string    `json:"code,omitempty"`        // of the error that Detail is the message of
	Hint       string    `json:"hint,omitempty"`        // that error's
	MachineID  ID        `json:"machine_id,omitempty"`  // its last machine, which names what is kept of it
	LastOutput string    `json:"last_output,omitempty"` // tail of the last execution's output, at most 4 KiB
	At         time.Time `json:"at"`
}

// Machine is what runs on a node. A ready machine that nobody owns yet has no VMID.
type Machine struct {
	ID        ID
	WorkerID  ID
	Driver    string
	Handle    []byte // the driver's own versioned state, to find the machine again
	BuildID   ID
	Shape     Shape
	Memory    bool // it was made from a memory, in which its build's start command runs
	VMID      ID   // empty: unclaimed
	Epoch     int64
	CreatedAt time.Time
}

// Shape is the pool key of a machine beside driver and build.
type Shape struct {
	Resources Resources   `json:"resources"`
	Network   NetworkMode `json:"network"`
}
