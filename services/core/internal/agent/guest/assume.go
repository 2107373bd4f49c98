package guest

import (
	"context"
	"net"
	"net/netip"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/identity"
	"github.com/aetherium/aetherium/services/core/internal/agent/limits"
	"github.com/aetherium/aetherium/services/core/internal/agent/netif"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

// Assume makes the machine what the host says that it is. One that was restored
// from memory goes on with what was held in it, and with its hooks.
func (m *Machine) Assume(ctx context.Context, req *connect.Request[guestv1.AssumeRequest]) (*connect.Response[guestv1.AssumeResponse], error) {
	if m.Identity == nil {
		return nil, wire.Connect(errors.New(errors.Unsupported, "this machine's kernel is not its own: the host alone says who it is"))
	}
	who, err := identityOf(req.Msg)
	if err == nil && m.Own != nil {
		if late := m.Own.Settle(who.Interface != nil, who.Fork || who.Moved); late != nil {
			err = errors.Wrap(late, errors.Internal, "the machine's devices cannot be used")
		}
	}
	if err == nil {
		err = m.Identity.Assume(ctx, who)
	}
	if err == nil {
		m.Group.GoOn() // hooks may speak to what runs
		m.Hooks.Resume(ctx, who.Fork)
	}
	return connect.NewResponse(&guestv1.AssumeResponse{}), wire.Connect(err)
}

func identityOf(m *guestv1.AssumeRequest) (identity.Identity, error) {
	who := identity.Identity{
		Hostname: m.GetHostname(), Entropy: m.GetEntropy(), Fork: m.GetFork(), Moved: m.GetMoved(), MachineID: m.GetMachineId(),
		Limits: limits.Limits{PIDs: m.GetLimits().GetPids(), MilliCPU: m.GetLimits().GetMilliCpu()},
	}
	if ns := m.GetHostTimeUnixNs(); ns > 0 {
		who.Time = time.Unix(0, ns)
	}
	i := m.GetInterface()
	if i == nil {
		return who, nil
	}
	if i.GetMtu() > 1<<16 {
		return who, errors.New(errors.InvalidArgument, "an MTU of %d is not possible", i.GetMtu()).WithField("interface.mtu")
	}
	who.Interface = &netif.Interface{MTU: int(i.GetMtu())}
	for _, field := range []struct {
		name, text string
		mac        *net.HardwareAddr
	}{
		{"mac", i.GetMac(), &who.Interface.MAC},
		{"gateway_mac", i.GetGatewayMac(), &who.Interface.GatewayMAC},
	} {
		if field.text == "" {
			continue // whether it may be is checked with the rest
		}
		mac, err := net.ParseMAC(field.text)
		if err != nil {
			return who, errors.New(errors.InvalidArgument, "%.32q is not a hardware address", field.text).WithField("interface." + field.name)
		}
		*field.mac = mac
	}
	for _, field := range []struct {
		name, text string
		address    *netip.Addr
	}{
		{"address", i.GetAddress(), &who.Interface.Address},
		{"gateway", i.GetGateway(), &who.Interface.Gateway},
	} {
		address, err := netip.ParseAddr(field.text)
		if err != nil {
			return who, errors.New(errors.InvalidArgument, "%.64q is not an IP address", field.text).WithField("interface." + field.name)
		}
		*field.address = address
	}
	for _, text := range i.GetDns() {
		server, err := netip.ParseAddr(text)
		if err != nil {
			return who, errors.New(errors.InvalidArgument, "%.64q is not an IP address", text).WithField("interface.dns")
		}
		who.DNS = append(who.DNS, server)
	}
	return who, nil
}
