package domain

import (
	"encoding/json"
	"time"
)

// TaskState is where a task stands.
type TaskState string

// The task states.
const (
	TaskPending   TaskState = "pending"
	TaskRunning   TaskState = "running"
	TaskSucceeded TaskState = "succeeded"
	TaskFailed    TaskState = "failed"
	TaskCanceled  TaskState = "canceled"
)

// Ended reports whether s is final.
func (s TaskState) Ended() bool {
	return s == TaskSucceeded || s == TaskFailed || s == TaskCanceled
}

// Task is durable asynchronous work with retries and a result.
type Task struct {
	ID          ID
	ProjectID   ID
	Kind        string // "vm.create", "template.build", …
	Subject     ID     // what it works on
	WorkerID    ID     // the worker that runs it; empty: none does, it stands for what its subject comes to
	State       TaskState
	Args        json.RawMessage
	Result      json.RawMessage
	Error       *TaskError
	Attempts    int
	MaxAttempts int
	CancelAsked bool
	CreatedAt   time.Time
	UpdatedAt   time.Time
	RunAt       time.Time // not before
	EndedAt     *time.Time
	Revision    int64

	// What follows is of runs.

	Name        string   // its owner's, need not be unique
	GroupID     ID       // of tasks made together; empty: it was made alone
	Step        TaskStep // how far its attempt is
	VMID        ID       // the VM of its last attempt
	ExecutionID ID       // the command of its last attempt
	SpecSealed  []byte   // what it does, encrypted: it has secrets
}

// TaskStep is how far the attempt of a run is.
type TaskStep string

// The steps of a run, in order.
const (
	StepQueued     TaskStep = "queued"     // it waits: for its time, other tasks, a place or room
	StepCreating   TaskStep = "creating"   // its VM is being made
	StepRunning    TaskStep = "running"    // its command is being started, or runs
	StepCollecting TaskStep = "collecting" // result files are being read
	StepEnding     TaskStep = "ending"     // how it ended is known, and its VM is being deleted
	StepDone       TaskStep = "done"
)

// AfterFailure is what becomes of a task when one that it was to come after has
// not succeeded.
type AfterFailure string

// What can become of it.
const (
	AfterFailureSkip AfterFailure = "skip" // it is canceled
	AfterFailureFail AfterFailure = "fail" // it fails
	AfterFailureRun  AfterFailure = "run"  // it runs all the same
)

// The bounds on runs.
const (
	MaxTaskAttempts    = 100
	MaxTaskAfter       = 100
	MaxTaskGroup       = 1000
	MaxTaskStdin       = 256 << 10
	MaxTaskFiles       = 32        // that a command finds
	MaxTaskFileBytes   = 256 << 10 // of all of them
	MaxTaskResults     = 16        // that are kept
	MaxTaskResultBytes = 256 << 10 // of all of them
	MaxTaskTime        = 7 * 24 * time.Hour
	MaxTaskBackoff     = time.Hour
)

// The codes of failed runs, beside those of errors.
const (
	TaskCommandFailed    = "command_failed"    // its exit status is not 0
	TaskCommandTimedOut  = "command_timed_out" // it was killed when its time was up
	TaskCommandLost      = "command_lost"      // what became of it is not known
	TaskDependencyFailed = "dependency_failed"
)

// TaskError is why a task failed.
type TaskError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Worker is the daemon on a node that owns the VMs there.
type Worker struct {
	ID       ID
	Name     string // host name
	Address  string // host:port of its node link; empty: it is in the gateway's own process
	Version  string
	Platform string
	Drivers  []DriverInfo
	Storage  string    // name of the storage that it has others' builds from; empty: none
	Capacity Resources // what the node gives to VMs in all
	Reserved Resources // what its VMs may use, summed
	VMs      int       // VMs there that are not deleted
	Active   int       // those of them that run, are on their way there, or are kept in memory
	Tasks    int       // builds and installations there that have not ended
	State    WorkerState
	Cordoned bool       // it takes nothing new; outlasts its being away
	DrainAt  *time.Time // when it ends the VMs that are active then; nil: it does not. Only with Cordoned
	Moving   bool       // VMs that rest move away from it. Only with DrainAt
	Staying  int        // of those, how many cannot
	SeenAt   time.Time  // the last sign of life, by the database's clock
	JoinedAt time.Time
	Revision int64
}

// Standing is the state of the worker while it is not away.
func (w *Worker) Standing() WorkerState {
	if w.Cordoned {
		return WorkerCordoned
	}
	return WorkerReady
}

// MaxDrain bounds how long a drain may wait for VMs to end by themselves.
const MaxDrain = 24 * time.Hour

// WorkerState says whether a worker is there and takes what is new.
type WorkerState string

// The worker states.
const (
	WorkerReady    WorkerState = "ready"
	WorkerCordoned WorkerState = "cordoned" // it takes nothing new
	WorkerAway     WorkerState = "away"     // nothing is heard of it; what it has may well run
)

// DriverInfo is what a driver on a worker can do.
type DriverInfo struct {
	Name         string    `json:"name"`
	Version      string    `json:"version"`
	Isolation    Isolation `json:"isolation"`
	Usable       bool      `json:"usable"`
	Reason       string    `json:"reason,omitempty"` // why not usable
	Capabilities []string  `json:"capabilities"`     // "pause:freeze", "snapshot:disk", "fork", "meter"
}

// Usage is what a VM used in a span of time.
type Usage struct {
	ProjectID     ID
	VMID          ID
	From, To      time.Time
	CPUSeconds    float64
	MemoryByteSec float64 // integral of resident bytes over seconds
	DiskBytes     int64   // at the end of the span
	EgressBytes   int64
}

// Event is a fact in the outbox, written in the transaction of what it tells.
type Event struct {
	Seq       int64 // the cursor: commit order
	ProjectID ID
	Type      string // "vm.running", "execution.exited", "task.succeeded", …
	Subject   ID
	VMID      ID // set where the subject belongs to a VM
	Data      json.RawMessage
	At        time.Time
}
