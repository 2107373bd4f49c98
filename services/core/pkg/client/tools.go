package client

import (
	"context"
	"io"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// Tools lists the tools that are installed.
func (c *Client) Tools(ctx context.Context) ([]api.Tool, error) {
	l, err := fetch[api.List[api.Tool]](ctx, c, get("tools"))
	return l.Items, err
}

// InstallTools has tools installed. The task's log tells how it goes.
func (c *Client) InstallTools(ctx context.Context, tools []string) (api.Task, error) {
	accepted, err := fetch[api.Accepted](ctx, c, create(api.InstallTools{Tools: tools}, "tools"))
	return accepted.Task, err
}

// FollowInstallation writes the log of an installation's task to w until the
// task ends, across disconnects.
func (c *Client) FollowInstallation(ctx context.Context, task string, w io.Writer) error {
	return c.followLog(ctx, get("tools", "installations", task, "log"), w)
}

// RemoveTool removes an installed tool by its ID; without a version: all of
// its versions. Returns NotFound, Conflict while a VM has it.
func (c *Client) RemoveTool(ctx context.Context, id string) error {
	return c.perform(ctx, remove("tools", id))
}
