package attack

import (
	"slices"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Config is a node with the driver under test.
type Config struct {
	Driver vmm.Driver
	// Spec is a machine of the smallest usual size with a network of mode nat.
	// Its root filesystem needs nothing but the user "root".
	Spec vmm.Spec
	Lab  *Lab
	// Attachment tells how a machine is on the network.
	Attachment func(machineID string) network.Attachment
	// Shared says that machines run on the host's kernel: every power over it must
	// be refused, and what there is one stock of must be shared. Where it is false
	// a machine's kernel is its own, and root may do there as it likes: the same is
	// tried, whatever is refused of it, and must change nothing for anybody else.
	Shared bool
	// Common are files of the host that all machines have something of.
	Common []string
	// Differs are attacks that this driver does not withstand, each with the
	// reason: they are left out, and the driver's documentation says so.
	Differs map[string]string
	// Permits says why a single attempt succeeds with this driver; "" where it
	// must not. nil: none may.
	Permits func(attempt string) string
}

// bed is what an attack is tried in.
type bed struct {
	Config
	memory string // a snapshot of a machine with the intruder in it; "": the driver has no such
}

// Run tries every attack, one after another: what they must not change is the host's.
func Run(t *testing.T, c Config) {
	t.Helper()
	info := c.Driver.Info(t.Context())
	if !info.Usable {
		t.Fatalf("the driver is not usable: %s", info.Reason)
	}
	b := &bed{Config: c}
	victim := b.boot(t)
	if slices.Contains(info.Capabilities, "fork:memory") {
		// Machines that share what they can with each other.
		b.memory = b.remember(t, victim)
	}
	common := b.sums(t)
	for _, group := range []struct {
		name    string
		attacks map[string]func(*testing.T, *bed, *machine)
		need    bool
	}{
		{"kernel", kernelAttacks, true},
		{"a kernel of its own", ownKernelAttacks, !c.Shared},
		{"network", networkAttacks, true},
		{"egress policy", egressAttacks, slices.Contains(info.Capabilities, "egress")},
		{"agent", agentAttacks, true},
		{"neighbours", neighbourAttacks, c.Shared},
		{"neighbours", ownNeighbourAttacks, !c.Shared},
	} {
		if !group.need {
			continue
		}
		t.Run(group.name, func(t *testing.T) {
			for name, try := range group.attacks {
				t.Run(name, func(t *testing.T) {
					if why := c.Differs[name]; why != "" {
						t.Skip(why)
					}
					before := hostFacts(t)
					try(t, b, b.boot(t))
					victim.alive(t, "the neighbour")
					for what, was := range before {
						if is := hostFacts(t)[what]; is != was {
							t.Errorf("%s of the host changed from %q to %q", what, was, is)
						}
					}
				})
			}
		})
	}
	for path, was := range common {
		if is := b.sums(t)[path]; is != was {
			t.Errorf("%s, which machines have in common, changed", path)
		}
	}
}
