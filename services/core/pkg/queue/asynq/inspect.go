package asynq

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/redis"
	goredis "github.com/redis/go-redis/v9"
)

// sets are the keys that jobs in a state are in.
func sets() map[queue.State]string {
	return map[queue.State]string{queue.Scheduled: "later", queue.Waiting: "due", queue.Running: "running", queue.Dead: "dead"}
}

// Count implements queue.Inspector.
func (q *Queue) Count(ctx context.Context) (map[queue.State]int, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	counts := make(map[queue.State]*goredis.IntCmd)
	_, err := q.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for state, set := range sets() {
			counts[state] = p.ZCard(ctx, q.scripts.prefix+set)
		}
		return nil
	})
	if err != nil {
		return nil, redis.Error(err)
	}
	out := make(map[queue.State]int)
	for state, n := range counts {
		out[state] = int(n.Val())
	}
	return out, nil
}

// List implements queue.Inspector.
func (q *Queue) List(ctx context.Context, s queue.State, limit int) ([]queue.Info, error) {
	if limit <= 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	newest := 0
	if s == queue.Dead {
		newest = 1
	}
	reply, err := q.scripts.run(ctx, q.scripts.list, sets()[s], limit, newest)
	if err != nil {
		return nil, err
	}
	rows, _ := reply.([]any)
	out := make([]queue.Info, 0, len(rows))
	for _, row := range rows {
		f, _ := row.([]any)
		if len(f) != 11 || f[1] == nil { // it ended meanwhile
			continue
		}
		at := f[8]
		if s == queue.Running || s == queue.Dead {
			at = f[9]
		}
		out = append(out, queue.Info{
			Job: queue.Job{
				ID: text(f[0]), Kind: text(f[1]), Key: text(f[2]), Tenant: text(f[3]), Args: json.RawMessage(text(f[4])),
				Attempt: int(parsed(f[5])), MaxAttempts: int(parsed(f[6])),
			},
			State: s, Priority: int(parsed(f[7])), At: time.UnixMicro(parsed(at)), Error: text(f[10]),
		})
	}
	return out, nil
}

// parsed is a number that a hash has as text.
func parsed(v any) int64 {
	n, _ := strconv.ParseInt(text(v), 10, 64)
	return n
}

// Cancel implements queue.Inspector.
func (q *Queue) Cancel(ctx context.Context, id string) error {
	if err := q.change(ctx, q.scripts.cancel, id, "waiting or running"); err != nil {
		return err
	}
	q.end(id)
	return nil
}

// Revive implements queue.Inspector.
func (q *Queue) Revive(ctx context.Context, id string) error {
	return q.change(ctx, q.scripts.revive, id, "dead")
}

// Remove implements queue.Inspector.
func (q *Queue) Remove(ctx context.Context, id string) error {
	return q.change(ctx, q.scripts.remove, id, "dead")
}

func (q *Queue) change(ctx context.Context, script *goredis.Script, id, state string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	found, err := q.scripts.found(ctx, script, id)
	if err == nil && !found {
		return queue.NoJob(id, state)
	}
	return err
}
