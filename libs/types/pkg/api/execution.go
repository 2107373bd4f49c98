package api

import "time"

// ExecutionList is one page of a VM's executions.
type ExecutionList struct {
	List[Execution]
	Incomplete string `json:"incomplete,omitempty" doc:"Why those of the last moments can be missing, and one that has ended since be shown as running: the VM's worker is not reached"`
}

// Execution is one command run in a VM.
type Execution struct {
	ID          string     `json:"id"`
	VMID        string     `json:"vm_id"`
	OriginID    string     `json:"origin_id,omitempty" doc:"The execution that it goes on from, in a VM that was made from the memory of another, or of its template"`
	State       string     `json:"state" enum:"starting,running,exited,lost"`
	Args        []string   `json:"args" nullable:"false" doc:"Program and arguments"`
	Cwd         string     `json:"cwd,omitempty"`
	User        string     `json:"user,omitempty"`
	PTY         *PTYSize   `json:"pty,omitempty"`
	Stdin       bool       `json:"stdin" doc:"Its stdin was kept open for input"`
	TimeoutMS   int64      `json:"timeout_ms,omitempty"`
	Epoch       int64      `json:"epoch" doc:"Of the VM when it was started"`
	PID         int32      `json:"pid,omitempty" doc:"In the VM"`
	ExitCode    *int       `json:"exit_code,omitempty" doc:"128+n after signal n, as shells have it"`
	Signal      int        `json:"signal,omitempty" doc:"The signal that ended it"`
	TimedOut    bool       `json:"timed_out,omitempty"`
	LostReason  string     `json:"lost_reason,omitempty" doc:"Why it is lost; it does not run again"`
	OutputBytes int64      `json:"output_bytes" doc:"Written so far by all streams"`
	CreatedAt   time.Time  `json:"created_at"`
	StartedAt   *time.Time `json:"started_at,omitempty"`
	EndedAt     *time.Time `json:"ended_at,omitempty"`
	Stored      bool       `json:"output_stored,omitempty" doc:"It has ended, and its output is in the storage: it is read also while its worker is away"`
}

// PTYSize is a terminal's size in character cells.
type PTYSize struct {
	Cols uint16 `json:"cols" minimum:"1" maximum:"4096"`
	Rows uint16 `json:"rows" minimum:"1" maximum:"4096"`
}

// Command is what to run: either Args or Command.
type Command struct {
	Args      []string          `json:"args,omitempty" nullable:"false" minItems:"1" maxItems:"4096" maxLength:"131072" doc:"Program, looked up in PATH, and its arguments"`
	Command   string            `json:"command,omitempty" maxLength:"131072" doc:"Instead of args: a line for bash -lc"`
	Env       map[string]string `json:"env,omitempty" maxProperties:"256" doc:"On top of the VM's"`
	Cwd       string            `json:"cwd,omitempty" maxLength:"4096" doc:"Absent: the user's home"`
	User      string            `json:"user,omitempty" maxLength:"33" pattern:"^(?:[a-z_][a-z0-9_-]*[$]?|[0-9]{1,10})$" doc:"OS user; absent: the VM's default"`
	TimeoutMS int64             `json:"timeout_ms,omitempty" minimum:"0" maximum:"31536000000" doc:"Then its process group is killed; 0: none"`
}

// StartExecution asks for a command to be started.
type StartExecution struct {
	// ID may be minted by the caller: the same ID never runs twice.
	ID string `json:"id,omitempty" pattern:"^[a-z0-9]{20}$" doc:"May be minted by the caller: the same ID never runs twice"`
	Command
	PTY   *PTYSize `json:"pty,omitempty" doc:"Run on a terminal of this size"`
	Stdin bool     `json:"stdin,omitempty" doc:"Keep stdin open for input; else it is /dev/null"`
}

// Execute asks for a command to be run to its end.
type Execute struct {
	ID string `json:"id,omitempty" pattern:"^[a-z0-9]{20}$" doc:"May be minted by the caller: the same ID never runs twice"`
	Command
	Stdin          string `json:"stdin,omitempty" maxLength:"4194304" doc:"Whole input, as text"`
	MaxOutputBytes int64  `json:"max_output_bytes,omitempty" minimum:"0" maximum:"16777216" doc:"Keep so much of each stream in the answer; absent: 1 MiB"`
}

// Encodings of ExecuteResult's output.
const (
	EncodingUTF8   = "utf-8"
	EncodingBase64 = "base64"
)

// ExecuteResult is how a command ended and what it wrote. An exit code is a
// result, not an error.
type ExecuteResult struct {
	Execution       Execution `json:"execution"`
	Stdout          string    `json:"stdout"`
	Stderr          string    `json:"stderr"`
	StdoutTruncated bool      `json:"stdout_truncated" doc:"There was more; GET the execution's output"`
	StderrTruncated bool      `json:"stderr_truncated"`
	Encoding        string    `json:"encoding" enum:"utf-8,base64" doc:"Of stdout and stderr: base64 when one of them is not UTF-8"`
}

// Signal asks for a signal to the command's process group.
type Signal struct {
	Signal string `json:"signal" minLength:"1" maxLength:"12" pattern:"^(?:[A-Za-z][A-Za-z0-9]*|[0-9]{1,2})$" example:"TERM" doc:"TERM, SIGTERM or 15"`
}

// OutputEvent is one line of an execution's output as newline-delimited JSON.
// Exactly one of Data, Gap and End is set. A reader resumes at NextOffset and
// misses and repeats nothing.
type OutputEvent struct {
	Offset     int64       `json:"offset" doc:"Of data, among the bytes of all streams together"`
	NextOffset int64       `json:"next_offset" doc:"Where to resume after this event"`
	Stream     string      `json:"stream,omitempty" enum:"stdout,stderr,pty"`
	Data       []byte      `json:"data,omitempty" doc:"Base64"`
	Gap        *OutputGap  `json:"gap,omitempty" doc:"Output that is no longer kept"`
	End        *OutputExit `json:"end,omitempty" doc:"How it ended; the last event"`
}

// OutputGap says that [From, To) is no longer kept.
type OutputGap struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// OutputExit is how an execution ended.
type OutputExit struct {
	ExitCode    int    `json:"exit_code" doc:"128+n after signal n; means nothing when lost_reason is set"`
	Signal      int    `json:"signal,omitempty"`
	TimedOut    bool   `json:"timed_out,omitempty"`
	LostReason  string `json:"lost_reason,omitempty"`
	OutputBytes int64  `json:"output_bytes"`
}
