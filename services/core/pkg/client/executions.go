package client

import (
	"context"
	"encoding/json"
	"io"
	"iter"
	"strconv"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Execute runs a command to its end and returns what it wrote. An exit code
// is a result, not an error.
func (c *Client) Execute(ctx context.Context, vm string, req api.Execute) (api.ExecuteResult, error) {
	if req.ID == "" {
		req.ID = domain.NewID().String()
	}
	return fetch[api.ExecuteResult](ctx, c, create(req, "vms", vm, "execute"))
}

// StartExecution starts a command and returns when the guest agent confirmed
// it. Nobody is attached to it.
func (c *Client) StartExecution(ctx context.Context, vm string, req api.StartExecution) (api.Execution, error) {
	if req.ID == "" {
		req.ID = domain.NewID().String()
	}
	return fetch[api.Execution](ctx, c, create(req, "vms", vm, "executions"))
}

// Execution gets an execution. Returns NotFound.
func (c *Client) Execution(ctx context.Context, id string) (api.Execution, error) {
	return fetch[api.Execution](ctx, c, get("executions", id))
}

// Executions lists a VM's executions.
func (c *Client) Executions(ctx context.Context, vm string, p Page) iter.Seq2[api.Execution, error] {
	return all[api.Execution](ctx, c, get("vms", vm, "executions"), p)
}

// SignalExecution signals a command's process group: a name such as TERM, or
// a number. It is never repeated: a second signal is another signal.
func (c *Client) SignalExecution(ctx context.Context, id, signal string) error {
	return c.perform(ctx, post(api.Signal{Signal: signal}, "executions", id, "signal"))
}

// Output reads what is kept of an execution's output from an offset, without
// waiting for more.
func (c *Client) Output(ctx context.Context, id string, offset int64) iter.Seq2[api.OutputEvent, error] {
	return func(yield func(api.OutputEvent, error) bool) {
		resp, err := c.open(ctx, get("executions", id, "output").
			param("offset", strconv.FormatInt(offset, 10)).with("Accept", "application/x-ndjson"))
		if err != nil {
			yield(api.OutputEvent{}, err)
			return
		}
		defer func() { _ = resp.Body.Close() }()
		dec := json.NewDecoder(resp.Body)
		for {
			var ev api.OutputEvent
			err := dec.Decode(&ev)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				err = c.unreachable(ctx, err)
			}
			if !yield(ev, err) || err != nil {
				return
			}
		}
	}
}
