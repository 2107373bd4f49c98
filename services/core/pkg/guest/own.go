package guest

import (
	"context"
	"time"

	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

// Usage is what a machine with a kernel of its own uses, by its own account.
type Usage struct {
	MemoryTotal int64 // bytes
	MemoryUsed  int64 // without what could be given to others at once
	OOMKills    int64 // since its start
	PIDs        int64 // threads of programs
}

// Usage asks a machine with a kernel of its own what it uses. What it says is a
// guest's word. Returns Unsupported, Unavailable, GuestFault.
func (c *Client) Usage(ctx context.Context) (Usage, error) {
	m, err := usage.ask(ctx, c, c.o.CallTimeout, &guestv1.UsageRequest{})
	if err != nil {
		return Usage{}, err
	}
	return Usage{
		MemoryTotal: max(0, m.GetMemoryTotal()), MemoryUsed: max(0, m.GetMemoryUsed()),
		OOMKills: max(0, m.GetOomKills()), PIDs: max(0, m.GetPids()),
	}, nil
}

// Shutdown has a machine with a kernel of its own end what runs in it within a
// time, and power off. It returns when that has begun. Returns Unsupported,
// InvalidArgument, Unavailable, GuestFault.
func (c *Client) Shutdown(ctx context.Context, grace time.Duration) error {
	_, err := shutdown.ask(ctx, c, c.o.CallTimeout, &guestv1.ShutdownRequest{GraceMs: grace.Milliseconds()})
	return err
}
