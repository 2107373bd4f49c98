package client

import (
	"context"
	"net/http"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// Quota gets what a project may have, and has; "" is the key's own project.
func (c *Client) Quota(ctx context.Context, project string) (api.Quota, error) {
	if project == "" {
		return fetch[api.Quota](ctx, c, get("quota"))
	}
	return fetch[api.Quota](ctx, c, get("projects", project, "quota"))
}

// SetQuota replaces where a project's limits differ from the defaults.
// Returns PermissionDenied for keys that are no administrator's.
func (c *Client) SetQuota(ctx context.Context, project string, q api.SetQuota) (api.Quota, error) {
	return fetch[api.Quota](ctx, c, call{method: http.MethodPut, path: []string{"projects", project, "quota"}, body: q, safe: true})
}
