package runner

import (
	"context"
	"log/slog"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/queue/asynq"
	"github.com/aetherium/aetherium/services/core/pkg/queue/standby"
)

// attended is how many runs a process follows at once.
const attended = 256

// OpenQueue makes the queue of runs to be looked at; processes with the same name
// share the work. Where client is nil, or Redis is away, jobs wait in memory: two
// processes may follow the same run then. Its VM and its command are made once,
// its files are written by one of them, and its steps go forward only.
func OpenQueue(client *goredis.Client, c asynq.Config) (queue.Queue, error) {
	c.Workers = attended
	return standby.Open(client, c)
}

// attendKind is the kind of the job that has a run looked at.
const attendKind = "task.attend"

type attendArgs struct {
	Task domain.ID `json:"task_id"`
	Room bool      `json:"room,omitempty"` // it tries whether there is room for its project again
}

// Kind implements queue.Args.
func (attendArgs) Kind() string { return attendKind }

// fillKind is the kind of the job that has those of a project's runs looked at
// that may begin now.
const fillKind = "task.fill"

type fillArgs struct {
	These []domain.ID `json:"task_ids,omitempty"` // whatever may begin
}

// Kind implements queue.Args.
func (fillArgs) Kind() string { return fillKind }

// Waker implements service.RunQueue.
type Waker struct {
	Queue queue.Queue
	Log   *slog.Logger
}

// enqueueLimit is how long it may take to add a job; the sweep finds those that
// took longer.
const enqueueLimit = 5 * time.Second

// WakeRun has a project's run looked at.
func (w Waker) WakeRun(project, id domain.ID) { w.wakeIn(project, id, 0) }

// WakeRuns has those of a project's runs looked at that may begin now, and these.
func (w Waker) WakeRuns(project domain.ID, these []domain.ID) {
	w.enqueue(fillArgs{these}, queue.Options{Tenant: string(project)})
}

// probe has it look for room, though its project waits.
func (w Waker) probe(project, id domain.ID) {
	w.add(project, attendArgs{Task: id, Room: true}, time.Time{})
}

// wakeIn has it looked at after a while, which the queue counts by its own clock.
func (w Waker) wakeIn(project, id domain.ID, wait time.Duration) {
	var at time.Time
	if wait > 0 {
		at = time.Now().Add(wait)
	}
	w.add(project, attendArgs{Task: id}, at)
}

func (w Waker) add(project domain.ID, args attendArgs, at time.Time) {
	w.enqueue(args, queue.Options{Key: string(args.Task), Tenant: string(project), RunAt: at})
}

func (w Waker) enqueue(args queue.Args, o queue.Options) {
	ctx, cancel := context.WithTimeout(context.Background(), enqueueLimit)
	defer cancel()
	err := w.Queue.Enqueue(ctx, args, o)
	if err != nil && !errors.HasCode(err, errors.Unavailable) {
		w.Log.Error("job not queued; the sweep finds it", "kind", args.Kind(), "project", o.Tenant, "task", o.Key, "error", err)
	}
}
