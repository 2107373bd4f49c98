package domain

import "time"

// ExecutionState is where an execution stands.
type ExecutionState string

// The states of an execution.
const (
	ExecutionStarting ExecutionState = "starting" // not confirmed by the agent yet
	ExecutionRunning  ExecutionState = "running"
	ExecutionExited   ExecutionState = "exited" // see ExitCode
	ExecutionLost     ExecutionState = "lost"   // see LostReason; it will not run again
)

// Ended reports whether s is final.
func (s ExecutionState) Ended() bool { return s == ExecutionExited || s == ExecutionLost }

// PTYSize is a terminal's size in character cells.
type PTYSize struct {
	Cols uint16 `json:"cols"`
	Rows uint16 `json:"rows"`
}

// Command is what to run in a VM.
type Command struct {
	Args  []string          `json:"args"`            // program and arguments; the program is looked up in PATH
	Env   map[string]string `json:"env,omitempty"`   // on top of the VM's
	Cwd   string            `json:"cwd,omitempty"`   // default: the user's home
	User  string            `json:"user,omitempty"`  // OS user name; default: the VM's default user
	PTY   *PTYSize          `json:"pty,omitempty"`   // run on a terminal
	Stdin bool              `json:"stdin,omitempty"` // keep stdin open for input; else it is /dev/null
	// Timeout kills the command's process group; 0: none.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Request is the digest of the request with an idempotency key that asked for
	// it; else empty. A repeat of that request has the same.
	Request string `json:"request,omitempty"`
	// Kill with the stream: false. A client that goes away never ends a command.
}

// Execution is one command run in a VM, with its journaled output and exit code.
type Execution struct {
	ID        ID
	ProjectID ID
	VMID      ID
	Epoch     int64 // of the VM when it was started
	// OriginID is the execution that it goes on from, in a VM that was made from
	// the memory of another one or of its template; else empty.
	OriginID ID
	// CommandSealed is the envelope-encrypted Command: arguments and environment carry secrets.
	CommandSealed []byte
	Command       Command // in clear in memory only
	State         ExecutionState
	PID           int32
	ExitCode      *int   // 128+n after a signal n, as shells have it
	Signal        int    // the signal that ended it; 0: none
	LostReason    string // for ExecutionLost
	OutputBytes   int64  // total written, dropped bytes included
	TimedOut      bool
	CreatedAt     time.Time
	StartedAt     *time.Time
	EndedAt       *time.Time
	// PackID names the [OutputPack] that has its output; empty: it is on its worker alone.
	PackID ID
}

// OutputStorage is the name of the part of a storage that has output, of that of the
// part that has templates and snapshots.
func OutputStorage(name string) string { return name + "-output" }

// OutputPack is the output of some ended executions of a project, together in
// storage that workers share.
type OutputPack struct {
	ID        ID
	ProjectID ID
	Packed    Packed
	KeySealed []byte // envelope-encrypted, of what is stored
	CreatedAt time.Time
}

// OutputStream tells apart what a command writes.
type OutputStream uint8

// The output streams.
const (
	Stdout OutputStream = 1
	Stderr OutputStream = 2
	PTY    OutputStream = 3
)

func (s OutputStream) String() string {
	switch s {
	case Stdout:
		return "stdout"
	case Stderr:
		return "stderr"
	case PTY:
		return "pty"
	}
	return "unknown"
}

// OutputEvent is one thing that a reader of an execution's output sees. Exactly
// one of Data, Gap and End is set.
//
// Offset counts the bytes of all streams together in the order the agent saw
// them, from 0. A reader that kept (Offset + len(Data)) of its last event
// resumes there and misses and repeats nothing.
type OutputEvent struct {
	Offset int64
	Stream OutputStream
	Data   []byte
	Gap    *OutputGap
	End    *ExecutionEnd
}

// OutputGap says that [From, To) was dropped to keep the journal within its bound.
type OutputGap struct{ From, To int64 }

// ExecutionEnd is how an execution ended.
type ExecutionEnd struct {
	ExitCode   int    `json:"exit_code"`
	Signal     int    `json:"signal,omitempty"`
	TimedOut   bool   `json:"timed_out,omitempty"`
	LostReason string `json:"lost_reason,omitempty"` // set: it was lost and ExitCode means nothing
}
