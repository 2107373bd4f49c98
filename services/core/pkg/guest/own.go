package guest

import (
	"context"
	"time"

	"connectrpc.com/connect"

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
	resp, err := bounded(ctx, c.o.CallTimeout, "telling what it uses", func(ctx context.Context) (*connect.Response[guestv1.UsageResponse], error) {
		return c.machine.Usage(ctx, connect.NewRequest(&guestv1.UsageRequest{}))
	})
	if err != nil {
		return Usage{}, err
	}
	m := resp.Msg
	return Usage{
		MemoryTotal: max(0, m.GetMemoryTotal()), MemoryUsed: max(0, m.GetMemoryUsed()),
		OOMKills: max(0, m.GetOomKills()), PIDs: max(0, m.GetPids()),
	}, nil
}

// Shutdown has a machine with a kernel of its own end what runs in it within a
// time, and power off. It returns when that has begun. Returns Unsupported,
// InvalidArgument, Unavailable, GuestFault.
func (c *Client) Shutdown(ctx context.Context, grace time.Duration) error {
	_, err := bounded(ctx, c.o.CallTimeout, "shutting down", func(ctx context.Context) (*connect.Response[guestv1.ShutdownResponse], error) {
		return c.machine.Shutdown(ctx, connect.NewRequest(&guestv1.ShutdownRequest{GraceMs: grace.Milliseconds()}))
	})
	return err
}
