package api

// CreateTask asks for a command to be run in a VM of its own, which is gone
// afterwards.
type CreateTask struct {
	Name string    `json:"name,omitempty" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" patternDescription:"letters, digits, dots, dashes and underscores" doc:"For people; need not be unique"`
	VM   *CreateVM `json:"vm,omitempty" doc:"What it runs in; without name, timeout_ms, idle_timeout_ms, on_timeout and auto_resume: the task decides on these"`
	Command
	Stdin        string     `json:"stdin,omitempty" maxLength:"262144" doc:"Whole input, as text"`
	Files        []TaskFile `json:"files,omitempty" nullable:"false" maxItems:"32" doc:"Written before the command starts, 256 KiB in all"`
	Results      []string   `json:"results,omitempty" nullable:"false" maxItems:"16" minLength:"1" maxLength:"4095" doc:"Paths of files that are kept when it has ended, at most 256 KiB in all; absolute, or relative to the user's home"`
	MaxAttempts  int        `json:"max_attempts,omitempty" minimum:"0" maximum:"100" doc:"How often it is tried while it fails; absent: once"`
	BackoffMS    int64      `json:"backoff_ms,omitempty" minimum:"0" maximum:"3600000" doc:"Before the second attempt, doubled for each further one; up to half of it is taken away at random; absent: 1000"`
	After        []string   `json:"after,omitempty" nullable:"false" maxItems:"100" maxLength:"20" pattern:"^[a-z0-9]{20}$" patternDescription:"IDs of tasks" doc:"Tasks that must have ended before"`
	AfterFailure string     `json:"after_failure,omitempty" enum:"skip,fail,run" doc:"When one of these has not succeeded: cancel it (skip), fail it, or run it all the same; absent: skip"`
}

// TaskFile is a file that a task's command finds.
type TaskFile struct {
	Path    string `json:"path" minLength:"1" maxLength:"4095" doc:"Absolute, or relative to the user's home"`
	Content []byte `json:"content" doc:"Base64"`
	Mode    string `json:"mode,omitempty" maxLength:"5" pattern:"^0?[0-7]{3}$" patternDescription:"octal permission bits" doc:"Absent: 0644"`
}

// CreateTaskGroup asks for tasks that are made together or not at all.
type CreateTaskGroup struct {
	Tasks []CreateTask `json:"tasks" nullable:"false" minItems:"1" maxItems:"1000"`
}

// TaskGroup is tasks that were made together.
type TaskGroup struct {
	ID     string         `json:"id"`
	Total  int            `json:"total" doc:"Those that are still kept"`
	Ended  bool           `json:"ended" doc:"None is to end any more"`
	States map[string]int `json:"states" doc:"How many there are by state"`
}

// TaskResult is what is kept of a task's last attempt: the result of the kind run.
type TaskResult struct {
	VMID        string           `json:"vm_id"`
	ExecutionID string           `json:"execution_id"`
	ExitCode    *int             `json:"exit_code,omitempty" doc:"128+n after signal n; absent: the command was not started, or is lost"`
	Signal      int              `json:"signal,omitempty"`
	TimedOut    bool             `json:"timed_out,omitempty"`
	LostReason  string           `json:"lost_reason,omitempty"`
	OutputBytes int64            `json:"output_bytes"`
	Files       []TaskResultFile `json:"files,omitempty" nullable:"false"`
}

// TaskResultFile is a file that a task's command left.
type TaskResultFile struct {
	Path      string `json:"path"`
	SizeBytes int64  `json:"size_bytes"`
	Content   []byte `json:"content,omitempty" doc:"Base64"`
	Error     string `json:"error,omitempty" doc:"The code of why it is not here, such as not_found or too_large"`
}
