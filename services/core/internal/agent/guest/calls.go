package guest

import (
	"context"
	"io"
	"log/slog"
	"net"
	"runtime/debug"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/lane"
)

// Calls serves what package lane has of both services.
type Calls struct {
	Machine    *Machine
	Executions *Executions
	Log        *slog.Logger
}

// call is one that was asked for.
type call struct {
	method  lane.Method
	message []byte
}

// Serve serves a connection after [lane.Hello], of which from is what is read,
// until it or ctx ends, and closes it.
func (c *Calls) Serve(ctx context.Context, conn net.Conn, from io.Reader) {
	defer func() { _ = conn.Close() }()
	// As in a server of HTTP, what one call does wrong ends no other connection.
	defer func() {
		if p := recover(); p != nil {
			c.Log.Error("a call failed", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	callee := lane.NewCallee(conn, from)
	calls := make(chan call)
	go func() {
		defer close(calls)
		for {
			method, message, err := callee.Next()
			if err != nil {
				cancel() // whoever asked is gone
				return
			}
			select {
			case calls <- call{method, message}:
			case <-ctx.Done():
				return
			}
			if method == lane.Attach {
				return // what follows is the lane's
			}
		}
	}()
	for next := range calls {
		var err error
		switch next.method {
		case lane.Attach:
			c.Executions.lane(ctx, conn, from, true)
			return
		case lane.Watch:
			err = c.Executions.watch(ctx, func(m *guestv1.WatchResponse) error { return callee.Answer(message(m)) })
			_ = c.refuse(callee, err) // or the host is gone
			return
		default:
			var answer proto.Message
			if answer, err = c.answer(ctx, next); err == nil {
				err = callee.Answer(answer)
			} else {
				err = c.refuse(callee, err)
			}
		}
		if err != nil {
			return
		}
	}
}

// message is nil where there is none, as an interface as well.
func message(m *guestv1.WatchResponse) proto.Message {
	if m == nil {
		return nil
	}
	return m
}

// refuse answers with an error.
func (c *Calls) refuse(callee *lane.Callee, err error) error {
	var told *connect.Error
	if !errors.As(wire.Connect(err), &told) {
		return nil
	}
	return callee.Refuse(told.Code(), told.Message())
}

func (c *Calls) answer(ctx context.Context, asked call) (proto.Message, error) {
	switch asked.method {
	case lane.Handshake:
		return answer(ctx, asked, new(guestv1.HandshakeRequest), c.Machine.Handshake)
	case lane.Assume:
		return answer(ctx, asked, new(guestv1.AssumeRequest), c.Machine.Assume)
	case lane.Configure:
		return answer(ctx, asked, new(guestv1.ConfigureRequest), c.Machine.Configure)
	case lane.List:
		return answer(ctx, asked, new(guestv1.ListRequest), c.Executions.List)
	case lane.Rename:
		return answer(ctx, asked, new(guestv1.RenameRequest), c.Executions.Rename)
	case lane.Forget:
		return answer(ctx, asked, new(guestv1.ForgetRequest), c.Executions.Forget)
	case lane.Hold:
		return answer(ctx, asked, new(guestv1.HoldRequest), c.Machine.Hold)
	case lane.Release:
		return answer(ctx, asked, new(guestv1.ReleaseRequest), c.Machine.Release)
	case lane.Quiesce:
		return answer(ctx, asked, new(guestv1.QuiesceRequest), c.Machine.Quiesce)
	case lane.Thaw:
		return answer(ctx, asked, new(guestv1.ThawRequest), c.Machine.Thaw)
	case lane.Usage:
		return answer(ctx, asked, new(guestv1.UsageRequest), c.Machine.Usage)
	case lane.Shutdown:
		return answer(ctx, asked, new(guestv1.ShutdownRequest), c.Machine.Shutdown)
	case lane.Watch, lane.Attach: // have no one answer
	}
	return nil, errors.New(errors.Unsupported, "there is no call %d", asked.method)
}

// answer has a service answer a call.
func answer[Req, Res any, M interface {
	*Req
	proto.Message
}, A interface {
	*Res
	proto.Message
}](ctx context.Context, asked call, into M, method func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error)) (proto.Message, error) {
	if err := proto.Unmarshal(asked.message, into); err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "not a message of call %d", asked.method)
	}
	res, err := method(ctx, connect.NewRequest((*Req)(into)))
	if err != nil {
		return nil, err
	}
	return A(res.Msg), nil
}
