package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// What is here is for implementations of Queue.

// Bounds of what a queue keeps.
const (
	MaxArgs     = 64 << 10  // bytes of a job's arguments as JSON
	MaxPriority = 1000      // either way from 0
	MaxJobs     = 1_000_000 // that wait
	MaxDead     = 10_000    // beyond which the oldest are forgotten
	MaxError    = 1 << 10   // bytes kept of a job's last error
	maxName     = 255       // bytes of an ID, kind, key or tenant
)

// Prepare makes a job of what Enqueue is given. Returns InvalidArgument.
func Prepare(args Args, o Options) (Job, error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return Job{}, errors.Wrap(err, errors.InvalidArgument, "the arguments of the job cannot be stored")
	}
	if len(raw) > MaxArgs {
		return Job{}, errors.New(errors.InvalidArgument, "the arguments of a job take %d bytes; %d are allowed", len(raw), MaxArgs)
	}
	for what, name := range map[string]string{"ID": o.ID, "kind": args.Kind(), "key": o.Key, "tenant": o.Tenant} {
		if len(name) > maxName || strings.ContainsRune(name, 0) {
			return Job{}, errors.New(errors.InvalidArgument, "the %s of a job is longer than %d bytes or has a zero byte", what, maxName)
		}
	}
	switch {
	case o.ID != "" && o.Key != "":
		return Job{}, errors.New(errors.InvalidArgument, "a job has an ID or a key, not both")
	case o.Priority < -MaxPriority || o.Priority > MaxPriority:
		return Job{}, errors.New(errors.InvalidArgument, "a priority of %d is out of range", o.Priority).WithHint("-%d to %d", MaxPriority, MaxPriority)
	case o.Direct && (o.Key == "" || o.MaxAttempts != 0 || !o.RunAt.IsZero()):
		return Job{}, errors.New(errors.InvalidArgument, "a job that is run directly has a key, no time and no last attempt")
	case o.MaxAttempts < 0:
		return Job{}, errors.New(errors.InvalidArgument, "a job cannot have %d attempts", o.MaxAttempts)
	case o.ID == "":
		o.ID = string(domain.NewID())
	}
	return Job{
		ID: o.ID, Kind: args.Kind(), Key: o.Key, Tenant: o.Tenant, Args: raw, Attempt: 1, MaxAttempts: o.MaxAttempts,
	}, nil
}

// Run calls a handler; a panic of it is an error of this job alone.
func Run(ctx context.Context, h Handler, job Job, log *slog.Logger) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("job panicked", "kind", job.Kind, "key", job.Key, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = errors.New(errors.Internal, "the job panicked")
		}
	}()
	return h(ctx, job)
}

// Outcome is what becomes of a job that has run.
type Outcome struct {
	Verdict
	After time.Duration // until it runs again
	Error string
	// Moved: another queue has the job from here on, whatever the verdict.
	Moved bool
	// Counted: another queue has counted the attempt.
	Counted bool
}

// Moved is the outcome that an error decides, of a job that another queue has
// from here on.
func Moved(err error) error { return &decision{moved: true, because: err} }

// Counted is the outcome that an error decides, or nil, of an attempt that was made
// and counted by another queue.
func Counted(err error) error { return &decision{counted: true, because: err} }

// Verdict is the kind of an outcome.
type Verdict string

// The verdicts.
const (
	Done     Verdict = "done"
	Retried  Verdict = "retried" // again, and counted as an attempt
	Snoozed  Verdict = "snoozed" // again, and not counted
	GivenUp  Verdict = "dead"
	Canceled Verdict = "canceled" // from outside
)

// Decide turns a handler's error into what becomes of the job.
func Decide(err error, job Job) Outcome {
	if err == nil {
		return Outcome{Verdict: Done}
	}
	var d *decision
	if errors.As(err, &d) && (d.moved || d.counted) {
		out := Decide(d.because, job)
		out.Moved, out.Counted = d.moved, d.counted
		return out
	}
	out := Outcome{Verdict: Retried, After: Backoff(job.Attempt), Error: err.Error()}
	if len(out.Error) > MaxError {
		out.Error = strings.ToValidUTF8(out.Error[:MaxError], "")
	}
	if errors.As(err, &d) {
		out.After = max(0, d.after)
		switch {
		case d.cancel:
			out.Verdict = GivenUp
		case d.snooze:
			return Outcome{Verdict: Snoozed, After: out.After}
		}
	}
	if out.Verdict == Retried && job.MaxAttempts > 0 && job.Attempt >= job.MaxAttempts {
		out.Verdict = GivenUp
	}
	return out
}

// Backoff is the default pause after an attempt: 0.1 s doubling to a minute.
func Backoff(attempt int) time.Duration {
	d := 100 * time.Millisecond
	for range min(attempt-1, 10) {
		d *= 2
	}
	return min(d, time.Minute)
}

// Taken is the error for the ID of a dead job.
func Taken(id string) error {
	return errors.New(errors.AlreadyExists, "the job %s is dead", id).WithHint("let it run again, or remove it")
}

// Full is the error of a queue that has no place.
func Full() error {
	return errors.New(errors.CapacityExhausted, "%d jobs wait already", MaxJobs).WithRetryAfter(time.Minute)
}

// NoJob is the error for an ID that no job has in the states that are asked for.
func NoJob(id, what string) error {
	return errors.New(errors.NotFound, "there is no %s job %s", what, id)
}
