package queue

import (
	"context"
	"time"
)

// State is where a job is.
type State string

// The states of jobs.
const (
	Waiting   State = "waiting"   // may run now, or when its like has run
	Scheduled State = "scheduled" // waits for its time
	Running   State = "running"
	Dead      State = "dead" // given up
)

// States are all states in the order of a job's life.
func States() []State { return []State{Scheduled, Waiting, Running, Dead} }

// Inspector looks into a queue, and changes single jobs in it.
type Inspector interface {
	// Count counts the jobs in each state.
	Count(ctx context.Context) (map[State]int, error)
	// List tells at most limit jobs in a state, the oldest first; those that are
	// scheduled by their time, of the dead the newest first.
	List(ctx context.Context, s State, limit int) ([]Info, error)
	// Cancel ends a job that waits or runs: the context of one that runs ends,
	// whatever process it runs in, and it is not run again, whatever its
	// handler returns. Returns NotFound.
	Cancel(ctx context.Context, id string) error
	// Revive lets a dead job run again, as if for the first time; one whose key
	// has another waiting is taken in by that. Returns NotFound.
	Revive(ctx context.Context, id string) error
	// Remove forgets a dead job. Returns NotFound.
	Remove(ctx context.Context, id string) error
}

// Info is a job as seen from outside.
type Info struct {
	Job
	State    State
	Priority int
	// At is since when the job is due, runs or is dead, or when it is due.
	At    time.Time
	Error string // of the last attempt, for those who run the installation
}
