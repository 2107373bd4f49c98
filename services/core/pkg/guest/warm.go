package guest

import (
	"context"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

// WarmUp has the agent do once what it will be asked to do for its first
// command, so that the kernel has mapped what it needs and the connection is
// there: that command then takes as long as any later one. The agent is told
// cfg before, which stays; nothing else is left behind. That no program could be
// run is no error.
func (c *Client) WarmUp(ctx context.Context, cfg Config) error {
	if err := c.Configure(ctx, cfg); err != nil {
		return err
	}
	_, err := bounded(ctx, c.o.CallTimeout, "warming up", func(ctx context.Context) (struct{}, error) {
		ids := []string{string(domain.NewID()), string(domain.NewID())}
		if !c.calls.knows.Load() { // else the first command has a lane as well
			err := c.warmUp(ctx, ids[0], func(ctx context.Context) stream { return c.web().executions.Attach(ctx) })
			if err != nil {
				return struct{}{}, err
			}
		}
		c.fillSpare(ctx)
		if conn := c.spare.take(); conn != nil {
			err := c.warmUp(ctx, ids[1], func(ctx context.Context) stream {
				str, _ := laneOn(ctx, conn)
				return str
			})
			if err != nil {
				return struct{}{}, err
			}
			c.fillSpare(ctx)
		}
		if err := c.warmWatch(ctx); err != nil {
			return struct{}{}, err
		}
		_, err := forget.askNow(ctx, c, &guestv1.ForgetRequest{ExecutionIds: ids})
		return struct{}{}, err
	})
	return err
}

// warmWatch begins to watch what is started, as a session does, and ends that.
func (c *Client) warmWatch(ctx context.Context) error {
	told, err := c.watch(ctx)
	if err == nil {
		told.close()
	}
	return err
}

// warmUp runs a program that writes a line, over a stream that open makes.
func (c *Client) warmUp(ctx context.Context, id string, open func(context.Context) stream) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	str := open(ctx)
	_ = str.Send(&guestv1.AttachRequest{Request: &guestv1.AttachRequest_Start_{Start: &guestv1.AttachRequest_Start{
		ExecutionId: id, Command: &guestv1.Command{Args: []string{"echo"}},
	}}}) // Receive tells why it cannot be sent
	for range maxWarmUp {
		m, err := str.Receive()
		if code := wireCode(err); code == connect.CodeInvalidArgument || code == connect.CodeUnauthenticated {
			return nil // there is no such program, or user
		}
		if err != nil || m.GetEnd() != nil {
			return err
		}
		if out := m.GetOutput(); out != nil {
			next := out.GetOffset() + int64(len(out.GetData()))
			_ = str.Send(&guestv1.AttachRequest{Request: &guestv1.AttachRequest_Ack_{Ack: &guestv1.AttachRequest_Ack{Offset: next}}})
		}
	}
	return misbehaved("does not end `echo`")
}

// maxWarmUp bounds the messages about `echo`.
const maxWarmUp = 16
