package client

import (
	"context"
	"net/http"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// Secrets lists the stored secrets by name. Their values are never read back.
func (c *Client) Secrets(ctx context.Context) ([]api.Secret, error) {
	l, err := fetch[api.List[api.Secret]](ctx, c, get("secrets"))
	return l.Items, err
}

// SetSecret stores a value under a name, in the place of an earlier one.
// Returns InvalidArgument, Conflict when there are too many secrets.
func (c *Client) SetSecret(ctx context.Context, name, value string) (api.Secret, error) {
	return fetch[api.Secret](ctx, c, call{method: http.MethodPut, path: []string{"secrets", name}, body: api.SetSecret{Value: value}, safe: true})
}

// DeleteSecret removes a stored secret. Returns NotFound.
func (c *Client) DeleteSecret(ctx context.Context, name string) error {
	return c.perform(ctx, remove("secrets", name))
}
