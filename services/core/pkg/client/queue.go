package client

import (
	"context"
	"strconv"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// Queue counts the server's jobs. Returns PermissionDenied for keys that are no
// administrator's, as all of these do, and Unavailable while the queue is away.
func (c *Client) Queue(ctx context.Context) (api.Queue, error) {
	return fetch[api.Queue](ctx, c, get("queue"))
}

// Jobs lists at most limit of the server's jobs, in a state or all; 0: as many
// as the server tells by default.
func (c *Client) Jobs(ctx context.Context, state string, limit int) ([]api.Job, error) {
	cl := get("queue", "jobs")
	if state != "" {
		cl = cl.param("state", state)
	}
	if limit > 0 {
		cl = cl.param("limit", strconv.Itoa(limit))
	}
	list, err := fetch[api.List[api.Job]](ctx, c, cl)
	return list.Items, err
}

// RetryJob lets a dead job run again. Returns NotFound.
func (c *Client) RetryJob(ctx context.Context, id string) error {
	return c.perform(ctx, post(nil, "queue", "jobs", id, "retry"))
}

// DeleteJob forgets a dead job. Returns NotFound.
func (c *Client) DeleteJob(ctx context.Context, id string) error {
	return c.perform(ctx, remove("queue", "jobs", id))
}
