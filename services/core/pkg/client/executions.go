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
	return fetch[api.ExecuteResult](ctx, c, startCall(req, req.ID, vm, "execute"))
}

// StartExecution starts a command and returns when the guest agent confirmed
// it. Nobody is attached to it.
func (c *Client) StartExecution(ctx context.Context, vm string, req api.StartExecution) (api.Execution, error) {
	if req.ID == "" {
		req.ID = domain.NewID().String()
	}
	return fetch[api.Execution](ctx, c, startCall(req, req.ID, vm, "executions"))
}

// startCall tells the ID of what is to be started ahead of the body, too. One that is
// none is for the server to refuse.
func startCall(req any, id, vm, how string) call {
	cl := create(req, "vms", vm, how)
	if domain.IsID(id) {
		cl = cl.with(api.HeaderExecution, id)
	}
	return cl
}

// Execution gets an execution. Returns NotFound.
func (c *Client) Execution(ctx context.Context, id string) (api.Execution, error) {
	return fetch[api.Execution](ctx, c, get("executions", id))
}

// ExecutionFilter says which executions of a VM are meant.
type ExecutionFilter struct {
	Page
	// Incomplete takes why those of the last moments can be missing, for each page
	// of which the server says so. Where it is nil such a list is refused.
	Incomplete func(reason string)
}

// Executions lists a VM's executions. Returns Unavailable where not all may be
// told and the filter does not take that.
func (c *Client) Executions(ctx context.Context, vm string, f ExecutionFilter) iter.Seq2[api.Execution, error] {
	return pages(get("vms", vm, "executions"), f.Page, func(req call) (api.List[api.Execution], error) {
		page, err := fetch[api.ExecutionList](ctx, c, req)
		switch {
		case err != nil || page.Incomplete == "":
		case f.Incomplete == nil:
			err = errors.New(errors.Unavailable, "not all executions are known: %s", page.Incomplete)
		default:
			f.Incomplete(page.Incomplete)
		}
		return page.List, err
	})
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
