package guest

import (
	"context"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

// WarmUp has the agent do once what it will be asked to do for its first
// command, so that the kernel has mapped what it needs and the connection is
// there: that command then takes as long as any later one. It leaves nothing
// behind. That no program could be run is no error.
func (c *Client) WarmUp(ctx context.Context) error {
	if err := c.Configure(ctx, Config{}); err != nil {
		return err
	}
	_, err := bounded(ctx, c.o.CallTimeout, "warming up", func(ctx context.Context) (struct{}, error) {
		id := string(domain.NewID())
		if err := c.runTrue(ctx, id); err != nil {
			return struct{}{}, err
		}
		_, err := c.executions.Forget(ctx, connect.NewRequest(&guestv1.ForgetRequest{ExecutionIds: []string{id}}))
		return struct{}{}, err
	})
	return err
}

func (c *Client) runTrue(ctx context.Context, id string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	str := c.executions.Attach(ctx)
	_ = str.Send(&guestv1.AttachRequest{Request: &guestv1.AttachRequest_Start_{Start: &guestv1.AttachRequest_Start{
		ExecutionId: id, Command: &guestv1.Command{Args: []string{"true"}},
	}}}) // Receive tells why it cannot be sent
	for range maxWarmUp {
		m, err := str.Receive()
		if wireCode(err) == connect.CodeInvalidArgument {
			return nil // there is no such program
		}
		if err != nil || m.GetEnd() != nil {
			return err
		}
	}
	return misbehaved("does not end `true`")
}

// maxWarmUp bounds the messages about `true`.
const maxWarmUp = 16
