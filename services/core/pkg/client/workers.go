package client

import (
	"context"
	"iter"
	"net/url"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// Worker gets a worker by ID or name, for administrators. Returns NotFound, as
// those below do.
func (c *Client) Worker(ctx context.Context, worker string) (api.Worker, error) {
	return fetch[api.Worker](ctx, c, get("workers", worker))
}

// CordonWorker has a worker take nothing new.
func (c *Client) CordonWorker(ctx context.Context, worker string) (api.Worker, error) {
	return fetch[api.Worker](ctx, c, post(nil, "workers", worker, "cordon").repeatable())
}

// UncordonWorker takes a cordon back, and a drain.
func (c *Client) UncordonWorker(ctx context.Context, worker string) (api.Worker, error) {
	return fetch[api.Worker](ctx, c, post(nil, "workers", worker, "uncordon").repeatable())
}

// DrainWorker has a worker take nothing new, and end the VMs that are active
// after a time; with move, those that rest leave it. Asked again, the earlier time
// counts, and move stays. Returns Unsupported to move VMs of a worker without storage.
func (c *Client) DrainWorker(ctx context.Context, worker string, within time.Duration, move bool) (api.Worker, error) {
	ms := within.Milliseconds()
	return fetch[api.Worker](ctx, c, post(api.DrainWorker{WithinMS: &ms, Move: move}, "workers", worker, "drain").repeatable())
}

// RemoveWorker removes a worker that is away. One that has something still has to be
// fenced: nothing of it runs any more. Returns Conflict where it is not away, or has
// something and is not fenced.
func (c *Client) RemoveWorker(ctx context.Context, worker string, fenced bool) error {
	r := remove("workers", worker)
	if fenced {
		r.query = url.Values{"fenced": {"true"}}
	}
	return c.perform(ctx, r)
}

// JoinTokens lists the tokens by which workers join, ended ones as well, for administrators.
func (c *Client) JoinTokens(ctx context.Context, p Page) iter.Seq2[api.JoinToken, error] {
	return all[api.JoinToken](ctx, c, get("workers", "tokens"), p)
}

// CreateJoinToken makes a token by which one worker can join. It is not
// repeated when the answer is lost: the token's text was told once, and would be
// nobody's. Zero is an hour.
func (c *Client) CreateJoinToken(ctx context.Context, ttl time.Duration) (api.NewJoinToken, error) {
	return fetch[api.NewJoinToken](ctx, c, post(api.CreateJoinToken{TTLMS: ttl.Milliseconds()}, "workers", "tokens"))
}

// RevokeJoinToken makes a join token count no longer. Returns NotFound.
func (c *Client) RevokeJoinToken(ctx context.Context, id string) error {
	return c.perform(ctx, remove("workers", "tokens", id))
}

// JoinWorker makes a worker of who has a join token; it needs no key. Returns
// Unauthenticated, Gone, Conflict, AlreadyExists, InvalidArgument.
func (c *Client) JoinWorker(ctx context.Context, req api.JoinWorker) (api.WorkerCertificate, error) {
	return fetch[api.WorkerCertificate](ctx, c, post(req, "workers", "join").repeatable())
}

// RenewWorker gives a worker a certificate of another key; it needs no API key.
// Returns Unauthenticated, Gone, InvalidArgument.
func (c *Client) RenewWorker(ctx context.Context, id string, req api.RenewWorker) (api.WorkerCertificate, error) {
	return fetch[api.WorkerCertificate](ctx, c, post(req, "workers", id, "certificate").repeatable())
}
