package asynq

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/redis"
	hibiken "github.com/hibiken/asynq"
)

func (s slip) taskID() string { return s.ID + ":" + strconv.FormatInt(s.Run, 10) }

// hand gives a slip to Asynq; one that it has already is fine.
func (q *Queue) hand(ctx context.Context, s slip) error {
	t, options, err := q.task(s)
	if err != nil {
		return err
	}
	if _, err = q.tasks.EnqueueContext(ctx, t, options...); errors.Is(err, hibiken.ErrTaskIDConflict) {
		return nil
	}
	return redis.Error(err)
}

// listen follows what other processes tell. What is told while Redis is away is
// made up for: by the backstop, and by the sweep.
func (q *Queue) listen() {
	wake, cancel := q.scripts.prefix+"wake", q.scripts.prefix+"cancel"
	sub := q.client.Subscribe(q.ctx, wake, cancel)
	defer func() { _ = sub.Close() }()
	told := sub.Channel()
	for {
		select {
		case <-q.ctx.Done():
			return
		case m, open := <-told:
			switch {
			case !open:
				return
			case m.Channel == cancel:
				q.end(m.Payload)
			default:
				q.rouse()
			}
		}
	}
}

// end cancels a job that runs in this process.
func (q *Queue) end(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, h := range q.running {
		if h.id == id {
			h.cancel(queue.ErrCanceled)
		}
	}
}

// reclaim puts back what ran or was about to in the owner's last process.
func (q *Queue) reclaim(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := q.scripts.run(ctx, q.scripts.reclaim, q.owner, q.life)
	if n := number(out); n > 0 {
		q.log.Info("jobs of the process that was here before are put back", "jobs", n)
		q.rouse()
	}
	return err
}

// reclaims does so once Redis is there.
func (q *Queue) reclaims() {
	for q.reclaim(q.ctx) != nil {
		select {
		case <-q.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// sweeps looks after what was handed out until the queue ends.
func (q *Queue) sweeps() {
	tick := time.NewTicker(handedOut / 2)
	defer tick.Stop()
	for {
		if err := q.sweep(q.ctx); err != nil && q.ctx.Err() == nil {
			q.log.Warn("jobs cannot be looked after", "error", err)
		}
		select {
		case <-q.ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sweep gives jobs to Asynq that a process has not come to give it, and puts
// jobs back that Asynq knows nothing of.
func (q *Queue) sweep(ctx context.Context) error {
	out, err := q.scripts.run(ctx, q.scripts.sweep, micros(handedOut))
	sets, ok := out.([]any)
	if err != nil || !ok || len(sets) != 2 {
		return err
	}
	for _, s := range slips(sets[0]) {
		if err := q.hand(ctx, s); err != nil {
			return err
		}
	}
	for _, s := range slips(sets[1]) {
		_, err := q.tasked.GetTaskInfo(q.name, s.taskID())
		if !errors.Is(err, hibiken.ErrTaskNotFound) && !errors.Is(err, hibiken.ErrQueueNotFound) {
			continue
		}
		back, err := q.scripts.found(ctx, q.scripts.orphan, s.ID, s.Run)
		if err != nil {
			return err
		}
		if back {
			q.log.Warn("a job that nothing ran is put back", "id", s.ID)
		}
	}
	return nil
}

func slips(v any) []slip {
	list, _ := v.([]any)
	var out []slip
	for i := 0; i+1 < len(list); i += 2 {
		if run, err := strconv.ParseInt(text(list[i+1]), 10, 64); err == nil {
			out = append(out, slip{ID: text(list[i]), Run: run})
		}
	}
	return out
}

// quiet is Asynq's log: what it says of single tasks and connections is told
// in the terms of jobs elsewhere.
type quiet struct{ log *slog.Logger }

func (l quiet) Debug(args ...any) { l.log.Debug("asynq", "text", fmt.Sprint(args...)) }
func (l quiet) Info(args ...any)  { l.log.Debug("asynq", "text", fmt.Sprint(args...)) }
func (l quiet) Warn(args ...any)  { l.log.Debug("asynq", "text", fmt.Sprint(args...)) }
func (l quiet) Error(args ...any) { l.log.Warn("asynq", "text", fmt.Sprint(args...)) }

// Fatal does not end the process: that is for those who made it to say.
func (l quiet) Fatal(args ...any) { l.log.Error("asynq", "text", fmt.Sprint(args...)) }
