package guest

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/boot"
	"github.com/aetherium/aetherium/services/core/internal/agent/machine"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

// OwnKernel is what only a machine with a kernel of its own has.
type OwnKernel struct {
	Phases []boot.Phase
	// Settle completes the machine when it is first told who it is: with all, or
	// with its network if it has one, and soon the rest. Once done it does nothing.
	Settle func(network, all bool) error
	// Shutdown begins to end the machine and returns.
	Shutdown func(grace time.Duration)
}

// errShared is what machines without a kernel of their own answer.
func errShared() error {
	return wire.Connect(errors.New(errors.Unsupported, "this machine has no kernel of its own"))
}

func (o *OwnKernel) phases() []*guestv1.Phase {
	if o == nil {
		return nil
	}
	all := make([]*guestv1.Phase, len(o.Phases))
	for i, p := range o.Phases {
		all[i] = &guestv1.Phase{Name: p.Name, AtNs: int64(p.At)}
	}
	return all
}

// Usage tells what the machine uses.
func (m *Machine) Usage(context.Context, *connect.Request[guestv1.UsageRequest]) (*connect.Response[guestv1.UsageResponse], error) {
	if m.Own == nil {
		return nil, errShared()
	}
	u, err := m.Meter.Read(time.Now())
	if err != nil {
		return nil, wire.Connect(err)
	}
	return connect.NewResponse(&guestv1.UsageResponse{
		MemoryTotal: int64(u.MemoryTotal), MemoryUsed: int64(u.MemoryUsed),
		OomKills: machine.OOMKills(), Pids: machine.Threads(),
	}), nil
}

// maxGrace bounds how long a machine's programs are waited for.
const maxGrace = 10 * time.Minute

// Shutdown begins to end the machine.
func (m *Machine) Shutdown(_ context.Context, req *connect.Request[guestv1.ShutdownRequest]) (*connect.Response[guestv1.ShutdownResponse], error) {
	if m.Own == nil {
		return nil, errShared()
	}
	grace := time.Duration(req.Msg.GetGraceMs()) * time.Millisecond
	if grace < 0 || grace > maxGrace {
		return nil, wire.Connect(errors.New(errors.InvalidArgument, "a grace of %s is not possible", grace).WithField("grace_ms"))
	}
	m.Own.Shutdown(grace)
	return connect.NewResponse(&guestv1.ShutdownResponse{}), nil
}
