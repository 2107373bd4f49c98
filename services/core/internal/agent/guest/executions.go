package guest

import (
	"context"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/execution"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
)

// Executions serves ExecutionService.
type Executions struct {
	Registry *execution.Registry
}

var _ guestv1connect.ExecutionServiceHandler = (*Executions)(nil)

// List tells every execution that is remembered, in the order of their start.
func (s *Executions) List(context.Context, *connect.Request[guestv1.ListRequest]) (*connect.Response[guestv1.ListResponse], error) {
	list, _, _ := s.Registry.After(0)
	res := &guestv1.ListResponse{}
	for _, ex := range list {
		res.Executions = append(res.Executions, infoOf(ex))
	}
	return connect.NewResponse(res), nil
}

// Watch tells every execution that is remembered and then each new one. It
// reads the registry by sequence number, so a slow watcher costs no memory.
func (s *Executions) Watch(ctx context.Context, _ *connect.Request[guestv1.WatchRequest], out *connect.ServerStream[guestv1.WatchResponse]) error {
	return s.watch(ctx, out.Send)
}

// watch sends nothing first.
func (s *Executions) watch(ctx context.Context, send func(*guestv1.WatchResponse) error) error {
	defer s.Registry.Watching()()
	// Headers at once: the watcher knows that it watches before anything starts.
	if err := send(nil); err != nil {
		return err
	}
	var seq uint64
	for {
		list, last, changed := s.Registry.After(seq)
		for _, ex := range list {
			if err := send(&guestv1.WatchResponse{Execution: infoOf(ex)}); err != nil {
				return err
			}
		}
		seq = last
		select {
		case <-changed:
		case <-ctx.Done():
			return wire.Connect(ctx.Err())
		}
	}
}

// maxForget bounds one request.
const maxForget = 2 * execution.MaxExecutions

// Forget drops ended executions; others are skipped.
func (s *Executions) Forget(_ context.Context, req *connect.Request[guestv1.ForgetRequest]) (*connect.Response[guestv1.ForgetResponse], error) {
	if len(req.Msg.GetExecutionIds()) > maxForget {
		return nil, wire.Connect(errors.New(errors.TooLarge, "more than %d IDs", maxForget))
	}
	s.Registry.Forget(req.Msg.GetExecutionIds())
	return connect.NewResponse(&guestv1.ForgetResponse{}), nil
}

func infoOf(ex *execution.Execution) *guestv1.ExecutionInfo {
	c := &ex.Command
	info := &guestv1.ExecutionInfo{
		ExecutionId: ex.ID(), Pid: int32(ex.PID), Foreign: ex.Foreign,
		Command: &guestv1.Command{
			Args: c.Args, Env: c.Env, Cwd: c.Cwd, User: ex.User, Stdin: c.Stdin,
			TimeoutMs: c.Timeout.Milliseconds(), Tag: c.Tag,
		},
	}
	if c.Size != nil {
		info.Command.Pty = &guestv1.TerminalSize{Cols: uint32(c.Size.Cols), Rows: uint32(c.Size.Rows)}
	}
	info.AckedOffset, info.OutputBytes = ex.Offsets()
	if end, ended := ex.End(); ended {
		info.End = endOf(end)
	}
	return info
}

// Rename gives executions new IDs.
func (s *Executions) Rename(_ context.Context, req *connect.Request[guestv1.RenameRequest]) (*connect.Response[guestv1.RenameResponse], error) {
	if len(req.Msg.GetExecutionIds()) > maxForget {
		return nil, wire.Connect(errors.New(errors.TooLarge, "more than %d IDs", maxForget))
	}
	return connect.NewResponse(&guestv1.RenameResponse{}), wire.Connect(s.Registry.Rename(req.Msg.GetExecutionIds()))
}
