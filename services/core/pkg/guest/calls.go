package guest

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
	"github.com/aetherium/aetherium/services/core/pkg/guest/lane"
)

// call is one that the agent answers once: how it is made by frames, and how by
// HTTP where the agent does not know it so.
type call[S, Req, Res any] struct {
	method  lane.Method
	what    string // the agent does meanwhile
	service func(*web) S
	http    func(S, context.Context, *connect.Request[Req]) (*connect.Response[Res], error)
}

func callOf[S, Req, Res any](m lane.Method, what string, service func(*web) S, http func(S, context.Context, *connect.Request[Req]) (*connect.Response[Res], error)) call[S, Req, Res] {
	return call[S, Req, Res]{m, what, service, http}
}

// The calls.
var (
	handshake = callOf(lane.Handshake, "shaking hands", toMachine, guestv1connect.MachineServiceClient.Handshake)
	assume    = callOf(lane.Assume, "assuming its identity", toMachine, guestv1connect.MachineServiceClient.Assume)
	configure = callOf(lane.Configure, "being configured", toMachine, guestv1connect.MachineServiceClient.Configure)
	quiesce   = callOf(lane.Quiesce, "flushing its file systems", toMachine, guestv1connect.MachineServiceClient.Quiesce)
	thaw      = callOf(lane.Thaw, "going on after a snapshot", toMachine, guestv1connect.MachineServiceClient.Thaw)
	hold      = callOf(lane.Hold, "holding what runs", toMachine, guestv1connect.MachineServiceClient.Hold)
	release   = callOf(lane.Release, "letting go on what was held", toMachine, guestv1connect.MachineServiceClient.Release)
	usage     = callOf(lane.Usage, "telling what it uses", toMachine, guestv1connect.MachineServiceClient.Usage)
	shutdown  = callOf(lane.Shutdown, "shutting down", toMachine, guestv1connect.MachineServiceClient.Shutdown)

	list   = callOf(lane.List, "listing executions", toListing, guestv1connect.ExecutionServiceClient.List)
	rename = callOf(lane.Rename, "renaming executions", toExecutions, guestv1connect.ExecutionServiceClient.Rename)
	forget = callOf(lane.Forget, "forgetting executions", toExecutions, guestv1connect.ExecutionServiceClient.Forget)
)

func toMachine(w *web) guestv1connect.MachineServiceClient      { return w.machine }
func toExecutions(w *web) guestv1connect.ExecutionServiceClient { return w.executions }
func toListing(w *web) guestv1connect.ExecutionServiceClient    { return w.listing }

// ask makes the call, within a time.
func (m call[S, Req, Res]) ask(ctx context.Context, c *Client, limit time.Duration, req *Req) (*Res, error) {
	return bounded(ctx, limit, m.what, func(ctx context.Context) (*Res, error) { return m.askNow(ctx, c, req) })
}

func (m call[S, Req, Res]) askNow(ctx context.Context, c *Client, req *Req) (*Res, error) {
	if c.calls.has(m.method) {
		res := new(Res)
		err := c.calls.ask(ctx, m.method, message(req), message(res))
		if !c.calls.lacks(m.method, err) {
			return res, err
		}
	}
	resp, err := m.http(m.service(c.web()), ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

// message is a request or an answer as what it is: those of calls are all messages.
func message(m any) proto.Message { return m.(proto.Message) } //nolint:forcetypeassert // generated
