// Package queue runs typed jobs. Args know their kind; handlers decide whether
// a job is done, tried again or given up. The queue carries IDs, the database
// carries the facts: a job that is lost in a crash is found again by a sweep,
// so an in-process queue loses nothing.
package queue

import (
	"context"
	"encoding/json"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Args are the arguments of a job. They must marshal to JSON.
type Args interface {
	// Kind names the job's type; one kind has one handler.
	Kind() string
}

// Options of one job. The zero value is a job to be run now.
type Options struct {
	// Key makes jobs of a kind unique and serial: one that waits takes in any
	// further one of its key, and one that arrives while its like runs makes
	// it run once more afterwards. Empty: neither.
	Key string
	// RunAt is the earliest time; zero is now.
	RunAt time.Time
	// Priority: higher first among those that wait.
	Priority int
}

// Job is a job as its handler sees it.
type Job struct {
	Kind    string
	Key     string
	Args    json.RawMessage
	Attempt int // from 1
}

// Handler runs one job. It returns nil when the job is done, [Retry], [Snooze]
// or [Cancel] to decide, or any other error, which counts as a retry with the
// default backoff.
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
	// Enqueue adds a job. Returns Unavailable after Stop, InvalidArgument for
	// a kind without a handler or args that do not marshal.
	Enqueue(ctx context.Context, args Args, o Options) error
	// Start begins to run jobs. Starting twice is fine.
	Start(ctx context.Context) error
	// Stop takes nothing new and waits for running jobs until ctx ends, then
	// cancels them and waits for them to return. Stopping twice is fine.
	Stop(ctx context.Context) error
}

// decision is a handler's error that says what becomes of the job.
type decision struct {
	after   time.Duration
	snooze  bool
	cancel  bool
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

// Cancel gives the job up because of an error.
func Cancel(because error) error { return &decision{cancel: true, because: because} }

// Decide turns a handler's error into what becomes of the job: again tells
// whether to run it again, after how long, and counted whether as an attempt.
// It is exported for implementations of Queue.
func Decide(err error, attempt int) (again bool, after time.Duration, counted bool) {
	var d *decision
	switch {
	case err == nil:
		return false, 0, true
	case !errors.As(err, &d):
		return true, Backoff(attempt), true
	case d.cancel:
		return false, 0, true
	}
	return true, d.after, !d.snooze
}

// Backoff is the default pause after an attempt: 0.1 s doubling to a minute.
func Backoff(attempt int) time.Duration {
	d := 100 * time.Millisecond
	for range min(attempt-1, 10) {
		d *= 2
	}
	return min(d, time.Minute)
}
