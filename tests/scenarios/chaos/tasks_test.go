package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/scenarios/chaos/history"
)

// A VM made for a task has the task's name under this in its metadata.
const taskLabel = "task"

// commissioner has commands run by tasks, a few at a time.
type commissioner struct{ user }

// atOnce is how many tasks a commissioner waits for.
const atOnce = 3

// lastTask is how long before the end of the faults the last is asked for: who
// takes over the run of a gateway that is gone first waits until its lease is over.
const lastTask = time.Minute

func (c *commissioner) work(ctx, end context.Context) {
	until, _ := ctx.Deadline()
	for ctx.Err() == nil && (time.Until(until) > lastTask || c.made == 0) {
		var tasks []*history.Task
		for range atOnce {
			tasks = append(tasks, c.commission(ctx, end))
		}
		for _, t := range tasks {
			c.await(end, t)
		}
	}
}

// commission asks for a task until it is known what came of that.
func (c *commissioner) commission(ctx, end context.Context) *history.Task {
	c.made++
	cmd := c.command()
	t := &history.Task{Name: fmt.Sprintf("task-%d", c.made), Command: cmd}
	c.h.AddTask(t)
	req := api.CreateTask{
		Name: t.Name, Command: api.Command{Args: script(cmd)}, Results: []string{ranPath},
		VM: &api.CreateVM{Template: c.templates[c.IntN(len(c.templates))], Metadata: map[string]string{taskLabel: t.Name}},
	}
	key := domain.NewID().String()
	for {
		err := c.call(end, "create a task", func(ctx context.Context, c *client.Client) error {
			made, err := c.CreateTaskOnce(ctx, key, req)
			t.ID = made.ID
			return err
		})
		if err == nil {
			return t
		}
		t.Refused = append(t.Refused, string(errors.CodeOf(err)))
		if !mayPass(err) || ctx.Err() != nil {
			return t
		}
		c.pause(end, 50*time.Millisecond, 400*time.Millisecond)
	}
}

// await waits for the end of a task that was accepted, and takes what is kept of it.
func (c *commissioner) await(ctx context.Context, t *history.Task) {
	var ended bool
	for t.ID != "" && !ended {
		err := c.until(ctx, "look at a task", func(ctx context.Context, c *client.Client) error {
			now, err := c.Task(ctx, t.ID)
			if err == nil {
				ended, err = now.EndedAt != nil, seen(t, now)
			}
			return err
		})
		if err != nil {
			return
		}
		c.pause(ctx, 100*time.Millisecond, 300*time.Millisecond)
	}
	if t.Command.State != "exited" {
		return
	}
	_ = c.until(ctx, "read a task's output", func(ctx context.Context, c *client.Client) error {
		var out bytes.Buffer
		err := c.TaskOutput(ctx, t.ID, false, &out)
		t.Command.Got = out.Bytes()
		return err
	})
}

// seen notes what a task shows.
func seen(t *history.Task, now api.Task) error {
	t.State = now.State
	if now.Error != nil {
		t.Failure = now.Error.Code
	}
	if len(now.Result) == 0 {
		return nil
	}
	var result api.TaskResult
	if err := json.Unmarshal(now.Result, &result); err != nil {
		return err
	}
	cmd := t.Command
	switch {
	case result.ExitCode != nil:
		cmd.State, cmd.Code, cmd.Acknowledged = "exited", *result.ExitCode, true
	case result.LostReason != "":
		cmd.State, cmd.Lost = "lost", result.LostReason
	}
	for _, f := range result.Files {
		if f.Error == "" {
			t.Ran = strings.Fields(string(f.Content))
		}
	}
	return nil
}
