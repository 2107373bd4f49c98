// Package queue runs typed jobs. Args know their kind; handlers decide whether
// a job is done, tried again or given up. The queue carries IDs, the database
// carries the facts: a job that is lost in a crash is found again by a sweep,
// so an in-process queue loses nothing. For the same reason jobs carry no
// secrets: what is secret is in the database, sealed, under the ID.
//
// A job runs at least once: one whose process dies while it runs is run again,
// by whatever process is there, and one whose process was only cut off may run
// twice at a time. What must not happen twice, a user's command above all, its
// handler fences by the facts: it compares and sets a state, generation or
// epoch in the store before it acts.
package queue

import (
	"context"
	"encoding/json"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Args are the arguments of a job. They must marshal to JSON, of at most
// [MaxArgs] bytes.
type Args interface {
	// Kind names the job's type; one kind has one handler.
	Kind() string
}

// Options of one job. The zero value is a job to be run now.
type Options struct {
	// ID names the job; one whose ID is that of a job that waits or runs is
	// taken for the same. Empty: a new one.
	ID string
	// Key makes jobs of a kind unique and serial: one that waits takes in any
	// further one of its key, and one that arrives while its like runs makes
	// it run once more afterwards. Empty: neither. It goes without an ID.
	Key string
	// Tenant is on whose behalf the job runs. Of several that have jobs waiting,
	// the one with the fewest running is next, then the one that waits longest.
	Tenant string
	// RunAt is the earliest time; zero is now.
	RunAt time.Time
	// Priority: higher first among those of a tenant that wait, within ±[MaxPriority].
	Priority int
	// MaxAttempts is after how many attempts the job is given up; 0: never.
	MaxAttempts int
	// Direct has the process that adds the job run it as soon as it has a place
	// free. A queue that processes share is told of it only when that takes its
	// time, or is to be tried again; what it was not told of, a sweep finds if the
	// process ends before. It goes with a key, and without a time or MaxAttempts.
	Direct bool
}

// Job is a job as its handler sees it.
type Job struct {
	ID          string
	Kind        string
	Key         string
	Tenant      string
	Args        json.RawMessage
	Attempt     int // from 1; one that its process did not survive counts, too
	MaxAttempts int
}

// Handler runs one job. It returns nil when the job is done, [Retry], [Snooze]
// or [Cancel] to decide, or any other error, which counts as a retry with the
// default backoff. A job that is given up is kept among the dead.
type Handler func(ctx context.Context, job Job) error

// Typed makes a handler of a function that takes the arguments as what they
// are. Arguments that do not unmarshal give the job up.
func Typed[A Args](f func(ctx context.Context, args A, job Job) error) Handler {
	return func(ctx context.Context, job Job) error {
		var args A
		if err := json.Unmarshal(job.Args, &args); err != nil {
			return Cancel(errors.Wrap(err, errors.InvalidArgument, "the arguments of a %s job are damaged", job.Kind))
		}
		return f(ctx, args, job)
	}
}

// On registers a typed handler for the kind that its arguments name.
func On[A Args](q Queue, f func(ctx context.Context, args A, job Job) error) {
	var zero A
	q.Handle(zero.Kind(), Typed(f))
}

// Queue runs jobs at least once while it runs.
type Queue interface {
	// Handle registers the handler of a kind, before Start.
	Handle(kind string, h Handler)
	// Enqueue adds a job. Returns Unavailable after Stop and when the queue
	// cannot be reached, InvalidArgument for a kind without a handler or a job
	// out of bounds, AlreadyExists for the ID of a dead job, CapacityExhausted
	// when too many wait, NoSpace when there is no room to keep it.
	Enqueue(ctx context.Context, args Args, o Options) error
	// Start begins to run jobs. Starting twice is fine.
	Start(ctx context.Context) error
	// Stop takes nothing new and waits for running jobs until ctx ends, then
	// cancels them and waits for them to return. Stopping twice is fine.
	Stop(ctx context.Context) error
	Inspector
}

// decision is a handler's error that says what becomes of the job.
type decision struct {
	after   time.Duration
	snooze  bool
	cancel  bool
	moved   bool
	counted bool
	because error
}

func (d *decision) Error() string {
	if d.because != nil {
		return d.because.Error()
	}
	return "run again later"
}

func (d *decision) Unwrap() error { return d.because }

// Retry asks for the job to be run again after a time because of an error.
func Retry(after time.Duration, because error) error {
	return &decision{after: after, because: because}
}

// Snooze asks for the job to be run again after a time without counting an attempt.
func Snooze(after time.Duration) error { return &decision{after: after, snooze: true} }

// ErrCanceled is why the context of a job has ended that was canceled from outside.
var ErrCanceled = errors.Plain("the job was canceled")

// Cancel gives the job up because of an error.
func Cancel(because error) error { return &decision{cancel: true, because: because} }
