package client

import (
	"context"
	"iter"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// CreateVolume makes a volume. Returns AlreadyExists (name), QuotaExceeded,
// CapacityExhausted, Unsupported where no driver can give VMs volumes.
func (c *Client) CreateVolume(ctx context.Context, req api.CreateVolume) (api.Volume, error) {
	return fetch[api.Volume](ctx, c, create(req, "volumes"))
}

// Volumes lists volumes.
func (c *Client) Volumes(ctx context.Context, p Page) iter.Seq2[api.Volume, error] {
	return all[api.Volume](ctx, c, get("volumes"), p)
}

// Volume gets a volume by ID or name. Returns NotFound.
func (c *Client) Volume(ctx context.Context, volume string) (api.Volume, error) {
	return fetch[api.Volume](ctx, c, get("volumes", volume))
}

// DeleteVolume deletes a volume with all that is in it. Returns NotFound,
// Conflict while a VM has it.
func (c *Client) DeleteVolume(ctx context.Context, volume string) error {
	return c.perform(ctx, remove("volumes", volume))
}
