package guest

import (
	"context"
	"maps"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/version"
	"github.com/aetherium/aetherium/services/core/internal/agent/hooks"
	"github.com/aetherium/aetherium/services/core/internal/agent/identity"
	"github.com/aetherium/aetherium/services/core/internal/agent/limits"
	"github.com/aetherium/aetherium/services/core/internal/agent/machine"
	"github.com/aetherium/aetherium/services/core/internal/agent/settings"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
)

// protocol is the newest version of aetherium.guest.v1 that is spoken here.
const protocol = 1

// Features of this agent. A host relies on what is listed, so that an agent
// inside an old snapshot keeps working with it.
const (
	FeatureExecutions = "executions" // ExecutionService
	FeatureEnvd       = "envd"       // process.Process, filesystem.Filesystem, /files
	FeatureFile       = "file"       // /aetherium/file
	FeatureTar        = "tar"        // /aetherium/tar
	FeaturePort       = "port"       // /aetherium/port
	FeatureQuiesce    = "quiesce"    // Quiesce and Thaw
	FeatureAssume     = "assume"     // Assume; only of a machine with a kernel of its own
)

// Machine serves MachineService.
type Machine struct {
	Settings *settings.Store
	Clock    *machine.Clock
	Random   *machine.Random
	BootID   string           // random per agent process
	Identity *identity.Keeper // nil: the machine shares its host's kernel
	Own      *OwnKernel       // nil: as above
	Meter    *machine.Meter
	Hooks    *hooks.Runner
	Group    *limits.Group // of what runs; nil: the machine shares its host's kernel
}

var _ guestv1connect.MachineServiceHandler = (*Machine)(nil)

// Handshake negotiates the protocol.
func (m *Machine) Handshake(_ context.Context, req *connect.Request[guestv1.HandshakeRequest]) (*connect.Response[guestv1.HandshakeResponse], error) {
	if req.Msg.GetProtocol() < protocol {
		return nil, wire.Connect(errors.New(errors.Conflict, "the host speaks protocol %d, this agent %d", req.Msg.GetProtocol(), protocol))
	}
	features := []string{FeatureExecutions, FeatureEnvd, FeatureFile, FeatureTar, FeaturePort, FeatureQuiesce}
	if m.Identity != nil {
		features = append(features, FeatureAssume)
	}
	return connect.NewResponse(&guestv1.HandshakeResponse{
		Protocol:     protocol,
		Features:     features,
		AgentVersion: version.Version,
		BootId:       m.BootID,
		Phases:       m.Own.phases(),
	}), nil
}

// Configure replaces what the machine was told before.
func (m *Machine) Configure(_ context.Context, req *connect.Request[guestv1.ConfigureRequest]) (*connect.Response[guestv1.ConfigureResponse], error) {
	err := m.Settings.Update(func(s *settings.Settings) error {
		s.Env = maps.Clone(req.Msg.GetEnv())
		s.DefaultUser = req.Msg.GetDefaultUser()
		s.AccessToken = req.Msg.GetAccessToken()
		s.Workdir = req.Msg.GetDefaultWorkdir()
		return nil
	})
	return connect.NewResponse(&guestv1.ConfigureResponse{}), wire.Connect(err)
}

// Quiesce runs the machine's hooks and writes the file systems to disk. What
// runs goes on until Hold.
func (m *Machine) Quiesce(ctx context.Context, _ *connect.Request[guestv1.QuiesceRequest]) (*connect.Response[guestv1.QuiesceResponse], error) {
	if m.Own != nil {
		// Once, and not in each machine that goes on from here. What cannot be used
		// is no reason not to save the rest.
		_ = m.Own.Settle(true, true)
		meetMessages()
		m.Identity.Foresee()
	}
	if err := m.Hooks.Quiesce(ctx); err != nil {
		return nil, wire.Connect(err)
	}
	machine.Sync()
	return connect.NewResponse(&guestv1.QuiesceResponse{}), nil
}

// Thaw tells a machine that was stopped or restored the time and randomness,
// and runs its hooks if Quiesce ran some.
func (m *Machine) Thaw(ctx context.Context, req *connect.Request[guestv1.ThawRequest]) (*connect.Response[guestv1.ThawResponse], error) {
	if len(req.Msg.GetEntropy()) > identity.MaxEntropy {
		return nil, wire.Connect(errors.New(errors.TooLarge, "more than %d bytes of entropy", identity.MaxEntropy))
	}
	if ns := req.Msg.GetHostTimeUnixNs(); ns > 0 {
		m.Clock.Set(time.Unix(0, ns))
	}
	if len(req.Msg.GetEntropy()) > 0 {
		if err := m.Random.Add(req.Msg.GetEntropy()); err != nil {
			return nil, wire.Connect(err)
		}
	}
	m.Group.Release()
	m.Hooks.Resume(ctx, false)
	return connect.NewResponse(&guestv1.ThawResponse{}), nil
}

// Hold stops what runs, and has nothing started.
func (m *Machine) Hold(context.Context, *connect.Request[guestv1.HoldRequest]) (*connect.Response[guestv1.HoldResponse], error) {
	return connect.NewResponse(&guestv1.HoldResponse{}), wire.Connect(m.Group.Hold())
}

// Release ends Hold.
func (m *Machine) Release(context.Context, *connect.Request[guestv1.ReleaseRequest]) (*connect.Response[guestv1.ReleaseResponse], error) {
	m.Group.Release()
	return connect.NewResponse(&guestv1.ReleaseResponse{}), nil
}
