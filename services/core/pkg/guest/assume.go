package guest

import (
	"context"
	"crypto/rand"
	"net"
	"net/netip"
	"time"

	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

// FeatureAssume is what the agent of a machine with a kernel of its own can: [Client.Assume].
const FeatureAssume = "assume"

// Identity is what a machine with a kernel of its own is told of itself.
type Identity struct {
	Hostname  string
	Interface *Interface // nil: the loopback interface only
	Limits    Limits
	// Fork says that the machine goes on from the memory of another one: nothing
	// that must be unique stays as it was there, what that one was told is
	// forgotten, and its connections end.
	Fork bool
	// Moved says that the machine goes on from its own memory, but on another host:
	// its connections to others end.
	Moved bool
	// MachineID is 32 hexadecimal digits, see machine-id(5). Empty: the agent draws
	// one where there is none when it is first told, and in a fork.
	MachineID string
}

// Interface is a machine's one network interface. Its address stands alone:
// everything goes through the gateway.
type Interface struct {
	MAC        net.HardwareAddr
	Address    netip.Addr
	Gateway    netip.Addr
	GatewayMAC net.HardwareAddr // nil: the machine asks for it
	DNS        []netip.Addr
	MTU        int // 0: as the device has it
}

// Limits are those that the machine's own kernel keeps, so that its agent can
// always answer; 0 is no limit.
type Limits struct {
	PIDs     int64 // processes and threads beside the agent
	MilliCPU int64 // thousandths of a core
}

// Assume tells a machine with a kernel of its own who it is, before anything is
// run in it: after its boot, and after it was restored from memory. It gets
// the time and new entropy as well; one that goes on runs its hooks. Told
// again, nothing changes. A fork hears nothing else on connections that were
// made before: they end.
// Where it took long to hear, it is told the time again.
// Returns InvalidArgument, NotFound (it has no such network device), Unsupported
// (its kernel is not its own), Unavailable, GuestFault.
func (c *Client) Assume(ctx context.Context, who Identity) error {
	told := time.Now()
	_, err := assume.ask(ctx, c, c.o.CallTimeout+hooksLimit, who.message(told))
	for range timeTellings {
		if err != nil || time.Since(told) < timeIsOld {
			break
		}
		told = time.Now()
		if c.Thaw(ctx) != nil {
			break // it knows who it is; who cannot be reached is found to be so by what is asked next
		}
	}
	return err
}

// timeIsOld is how long a machine may take to hear the time: by as much its clock may be
// behind from then on. One that goes on from memory on a busy host without KVM can take
// seconds to read its first message.
const timeIsOld = 500 * time.Millisecond

// timeTellings is how often a machine is told the time again that takes too long to hear it.
const timeTellings = 3

func (who Identity) message(now time.Time) *guestv1.AssumeRequest {
	entropy := make([]byte, 64)
	_, _ = rand.Read(entropy) // never fails
	m := &guestv1.AssumeRequest{
		Hostname: who.Hostname, Fork: who.Fork, Moved: who.Moved, MachineId: who.MachineID,
		Limits:         &guestv1.Limits{Pids: who.Limits.PIDs, MilliCpu: who.Limits.MilliCPU},
		HostTimeUnixNs: now.UnixNano(), Entropy: entropy,
	}
	if i := who.Interface; i != nil {
		m.Interface = &guestv1.Interface{
			Mac: i.MAC.String(), Address: i.Address.String(), Gateway: i.Gateway.String(),
			GatewayMac: i.GatewayMAC.String(), Mtu: uint32(max(i.MTU, 0)),
		}
		for _, server := range i.DNS {
			m.Interface.Dns = append(m.Interface.Dns, server.String())
		}
	}
	return m
}
