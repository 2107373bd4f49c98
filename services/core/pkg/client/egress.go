package client

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// Egress tells what a VM may reach. Returns NotFound.
func (c *Client) Egress(ctx context.Context, vm string) (api.VMEgress, error) {
	return fetch[api.VMEgress](ctx, c, get("vms", vm, "egress"))
}

// SetEgress replaces what a VM may reach; it is in force when this returns.
// Returns NotFound, InvalidArgument, Unavailable when it is stored but not in
// force yet.
func (c *Client) SetEgress(ctx context.Context, vm string, p api.EgressPolicy) (api.VMEgress, error) {
	return fetch[api.VMEgress](ctx, c, call{method: http.MethodPut, path: []string{"vms", vm, "egress"}, body: p, safe: true})
}

// EgressLog reads a VM's egress log behind an entry's number, oldest first,
// one page of it. Where there is nothing yet it waits for something so long.
func (c *Client) EgressLog(ctx context.Context, vm string, after int64, wait time.Duration) ([]api.EgressEntry, error) {
	l, err := fetch[api.List[api.EgressEntry]](ctx, c, get("vms", vm, "egress", "log").
		param("after", strconv.FormatInt(after, 10)).param("wait_ms", strconv.FormatInt(wait.Milliseconds(), 10)))
	return l.Items, err
}

// EgressLearned gives the policy that a VM needed so far. Returns NotFound.
func (c *Client) EgressLearned(ctx context.Context, vm string) (api.EgressPolicy, error) {
	return fetch[api.EgressPolicy](ctx, c, get("vms", vm, "egress", "learned"))
}
