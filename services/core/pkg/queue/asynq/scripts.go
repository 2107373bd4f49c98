package asynq

import (
	"context"
	"embed"
	"math"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/redis"
	goredis "github.com/redis/go-redis/v9"
)

//go:embed lua
var lua embed.FS

// scripts change the queue's state, each at once or not at all.
type scripts struct {
	client goredis.UniversalClient
	prefix string

	enqueue, admit, begin, finish, sweep, orphan, reclaim *goredis.Script
	cancel, revive, remove, list                          *goredis.Script
}

func newScripts(client goredis.UniversalClient, prefix string) (*scripts, error) {
	s := &scripts{client: client, prefix: prefix}
	common, err := lua.ReadFile("lua/common.lua")
	if err != nil {
		return nil, err
	}
	for name, script := range map[string]**goredis.Script{
		"enqueue": &s.enqueue, "admit": &s.admit, "begin": &s.begin, "finish": &s.finish, "sweep": &s.sweep, "orphan": &s.orphan, "reclaim": &s.reclaim,
		"cancel": &s.cancel, "revive": &s.revive, "remove": &s.remove, "list": &s.list,
	} {
		own, err := lua.ReadFile("lua/" + name + ".lua")
		if err != nil {
			return nil, err
		}
		*script = goredis.NewScript(string(common) + string(own))
	}
	return s, nil
}

// run runs a script. Its "nothing" is a nil result.
func (s *scripts) run(ctx context.Context, script *goredis.Script, args ...any) (any, error) {
	out, err := script.Run(ctx, s.client, []string{s.prefix}, args...).Result()
	if err == goredis.Nil { //nolint:errorlint // it is never wrapped
		return nil, nil
	}
	return out, redis.Error(err)
}

// found runs a script that returns 1 when it has found its job.
func (s *scripts) found(ctx context.Context, script *goredis.Script, args ...any) (bool, error) {
	out, err := s.run(ctx, script, args...)
	n, _ := out.(int64)
	return n == 1, err
}

// micros is a duration as scripts take it, never shorter than it is.
func micros(d time.Duration) int64 {
	return int64(math.Ceil(float64(max(0, d)) / float64(time.Microsecond)))
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

func number(v any) int64 {
	n, _ := v.(int64)
	return n
}
