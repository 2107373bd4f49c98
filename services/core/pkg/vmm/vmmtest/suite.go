// Package vmmtest is the conformance suite of drivers: behaviours that every
// [vmm.Driver] must have, tried with real commands in real machines by way of
// the guest agent, as the product uses them.
//
// A driver's test calls [Run]. What it claims to be able to do, by its
// capabilities and its [Config], is tested; nothing else is skipped silently.
// The machines need a POSIX shell, coreutils and python3, and users "user" and
// "root".
package vmmtest

import (
	"slices"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Harness is one node with the driver under test.
type Harness struct {
	Driver vmm.Driver
	// Spec is a machine of the smallest usual size. The suite sets MachineID,
	// Hostname, DiskFrom, Memory and, with Config.Outside, Network, and lowers limits.
	Spec vmm.Spec
	// Reopen lets go of the driver as a worker that ends does, and gives a
	// fresh one over the same node.
	Reopen func(t *testing.T) vmm.Driver
	// LeakCheck fails the test for whatever is left on the node of machines that
	// were all deleted.
	LeakCheck func(t *testing.T)
}

// Config says what is tested.
type Config struct {
	// New makes a node of its own for a test, and cleans up with the test.
	New func(t *testing.T) Harness
	// Isolated: machines share neither files nor processes nor network with
	// each other and the host, and have a hostname of their own.
	Isolated bool
	// Limits: memory, processes, CPU and disk are enforced.
	Limits bool
	// DiskUnlimited: the driver says that what it stands on cannot limit disks.
	DiskUnlimited bool
	// Sudo: "user" becomes root by sudo without a password.
	Sudo bool
	// Replays: what ran at a memory snapshot begins anew in the machines that are
	// made from it, and does not go on: a stand-in for memory.
	Replays bool
	// Outside gives the address and port of a TCP server that sends back what it
	// reads, and that machines reach whose network is nat. nil: there are none.
	Outside func(t *testing.T) string
}

// callTimeout bounds each call and each command of the suite. It is only there
// to end a test that hangs.
const callTimeout = 2 * time.Minute

// behaviour is one test: it is given a machine's surroundings and makes its own machines.
type behaviour struct {
	name string
	need func(Config, []string) bool // nil: always
	test func(*testing.T, *bed)
}

func can(capability string) func(Config, []string) bool {
	return func(_ Config, has []string) bool { return slices.Contains(has, capability) }
}

func isolated(c Config, _ []string) bool  { return c.Isolated }
func limits(c Config, _ []string) bool    { return c.Limits }
func diskLimit(c Config, _ []string) bool { return c.Limits && !c.DiskUnlimited }
func sudo(c Config, _ []string) bool      { return c.Sudo }

// Run tests a driver.
func Run(t *testing.T, c Config) {
	t.Helper()
	groups := []struct {
		name       string
		behaviours []behaviour
	}{
		{"lifecycle", lifecycleTests},
		{"exec", execTests},
		{"streams", streamTests},
		{"terminal", terminalTests},
		{"files", fileTests},
		{"tar", tarTests},
		{"ports", portTests},
		{"pause", pauseTests},
		{"snapshot", snapshotTests},
		{"memory", memoryTests},
		{"forks", forkTests},
		{"forks share nothing", apartTests},
		{"recover", recoverTests},
		{"limits", limitTests},
		{"isolation", isolationTests},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			h := c.New(t)
			info := h.Driver.Info(t.Context())
			if !info.Usable {
				t.Fatalf("the driver is not usable: %s", info.Reason)
			}
			for _, b := range g.behaviours {
				if b.need != nil && !b.need(c, info.Capabilities) {
					continue
				}
				t.Run(b.name, func(t *testing.T) {
					bed := &bed{Harness: &h, config: c, info: info}
					b.test(t, bed)
				})
			}
			t.Run("nothing is left", func(t *testing.T) {
				states, err := h.Driver.List(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range states {
					t.Errorf("machine %s is left, %s", s.MachineID, s.Status)
				}
				h.LeakCheck(t)
			})
		})
	}
}

// spec is a machine with a new ID.
func (b *bed) spec() vmm.Spec {
	s := b.Spec
	s.MachineID = string(domain.NewID())
	s.Hostname = "host-" + s.MachineID[:8]
	return s
}
