package api

import "time"

// Archive is what is kept of ended VMs, executions and tasks once they are not listed
// any more.
type Archive struct {
	ID           string    `json:"id"`
	VMs          int       `json:"vms" doc:"How many records of VMs it has"`
	Executions   int       `json:"executions" doc:"How many of executions"`
	Tasks        int       `json:"tasks" doc:"How many of tasks"`
	FirstEndedAt time.Time `json:"first_ended_at" doc:"When the first of them ended"`
	LastEndedAt  time.Time `json:"last_ended_at" doc:"When the last of them ended"`
	SizeBytes    int64     `json:"size_bytes" doc:"That it takes, packed"`
	CreatedAt    time.Time `json:"created_at"`
}

// The kinds of archived records.
const (
	ArchivedVM        = "vm"
	ArchivedExecution = "execution"
	ArchivedTask      = "task"
)

// ArchivedRecord is one thing that has ended, as it was told of last. Output is not
// archived, nor are results of tasks of more than 16 KiB.
type ArchivedRecord struct {
	Kind      string     `json:"kind" enum:"vm,execution,task"`
	VM        *VM        `json:"vm,omitempty" nullable:"false"`
	Execution *Execution `json:"execution,omitempty" nullable:"false"`
	Task      *Task      `json:"task,omitempty" nullable:"false"`
}
