package client

import (
	"context"
	"iter"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// CreateWebhook has events told to a URL: those of some types, or all. It is not
// repeated when the answer is lost: the secret was told once, and would be
// nobody's. Returns InvalidArgument, Conflict when there are too many webhooks.
func (c *Client) CreateWebhook(ctx context.Context, req api.CreateWebhook) (api.NewWebhook, error) {
	return fetch[api.NewWebhook](ctx, c, post(req, "webhooks"))
}

// Webhooks lists the project's webhooks, newest first.
func (c *Client) Webhooks(ctx context.Context, p Page) iter.Seq2[api.Webhook, error] {
	return all[api.Webhook](ctx, c, get("webhooks"), p)
}

// Webhook returns NotFound.
func (c *Client) Webhook(ctx context.Context, id string) (api.Webhook, error) {
	return fetch[api.Webhook](ctx, c, get("webhooks", id))
}

// RotateWebhookSecret makes a webhook another secret; messages are signed with
// the one before as well for the time of the overlap, at most a week. It is not
// repeated when the answer is lost, as CreateWebhook. Returns NotFound,
// InvalidArgument, Conflict when another was made at the same time.
func (c *Client) RotateWebhookSecret(ctx context.Context, id string, overlap time.Duration) (api.NewWebhook, error) {
	ms := overlap.Milliseconds()
	return fetch[api.NewWebhook](ctx, c, post(api.RotateWebhookSecret{OverlapMS: &ms}, "webhooks", id, "secret"))
}

// EnableWebhook has a disabled webhook told again. Returns NotFound.
func (c *Client) EnableWebhook(ctx context.Context, id string) (api.Webhook, error) {
	return fetch[api.Webhook](ctx, c, post(nil, "webhooks", id, "enable").repeatable())
}

// DisableWebhook has a webhook told nothing until it is enabled. Returns NotFound.
func (c *Client) DisableWebhook(ctx context.Context, id string) (api.Webhook, error) {
	return fetch[api.Webhook](ctx, c, post(nil, "webhooks", id, "disable").repeatable())
}

// DeleteWebhook has a webhook told nothing more. Returns NotFound.
func (c *Client) DeleteWebhook(ctx context.Context, id string) error {
	return c.perform(ctx, remove("webhooks", id))
}

// WebhookDeliveries lists what a webhook is told, newest first. Returns NotFound.
func (c *Client) WebhookDeliveries(ctx context.Context, id string, p Page) iter.Seq2[api.WebhookDelivery, error] {
	return all[api.WebhookDelivery](ctx, c, get("webhooks", id, "deliveries"), p)
}
