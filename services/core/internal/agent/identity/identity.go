// Package identity makes a machine with a kernel of its own who its host says
// that it is: its name, its network, its limits and its IDs, after its boot and
// after it was restored from memory.
package identity

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/limits"
	"github.com/aetherium/aetherium/services/core/internal/agent/machine"
	"github.com/aetherium/aetherium/services/core/internal/agent/netif"
)

const (
	// MaxEntropy bounds a seed.
	MaxEntropy = 64 << 10
	maxDNS     = 16
)

// isHostname tells whether a name is one of letters, digits, dots and hyphens,
// which begins and ends with one of the former.
func isHostname(name string) bool {
	const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	return name != "" && len(name) <= 63 && strings.Trim(name, alphanumeric+".-") == "" &&
		strings.ContainsRune(alphanumeric, rune(name[0])) && strings.ContainsRune(alphanumeric, rune(name[len(name)-1]))
}

// Identity is what a machine is told of itself.
type Identity struct {
	Hostname  string
	Interface *netif.Interface // nil: the loopback interface only
	DNS       []netip.Addr
	Limits    limits.Limits
	Time      time.Time // zero: the clock stays
	Entropy   []byte
	Fork      bool   // it goes on from the memory of another machine
	Moved     bool   // it goes on from its own, on another host
	MachineID string // machine-id(5); empty: drawn where there is none, and in a fork
}

func (i Identity) check() error {
	if !isHostname(i.Hostname) {
		return errors.New(errors.InvalidArgument, "%.64q is not a hostname", i.Hostname).WithField("hostname")
	}
	if i.Interface != nil {
		if err := i.Interface.Check(); err != nil {
			return err
		}
	}
	if len(i.DNS) > maxDNS {
		return errors.New(errors.TooLarge, "more than %d name servers", maxDNS).WithField("interface.dns")
	}
	for _, server := range i.DNS {
		if !server.IsValid() || server.IsMulticast() || server.Zone() != "" {
			return errors.New(errors.InvalidArgument, "a name server is not an IP address").WithField("interface.dns")
		}
	}
	if err := i.Limits.Check(); err != nil {
		return err
	}
	if len(i.Entropy) > MaxEntropy {
		return errors.New(errors.TooLarge, "more than %d bytes of entropy", MaxEntropy).WithField("entropy")
	}
	if raw, err := hex.DecodeString(i.MachineID); i.MachineID != "" && (err != nil || len(raw) != 16) {
		return errors.New(errors.InvalidArgument, "a machine-id has 32 hexadecimal digits").WithField("machine_id")
	}
	return nil
}

func (i Identity) address() netip.Addr {
	if i.Interface == nil {
		return netip.Addr{}
	}
	return i.Interface.Address
}

// Keeper keeps a machine's identity.
type Keeper struct {
	Root   string // of its file systems; empty: "/"
	Clock  *machine.Clock
	Random *machine.Random
	Group  *limits.Group // gets the limits
	Log    *slog.Logger
	// Forget makes the agent of a fork forget what its origin's host told it and
	// ends that one's connections; ctx is the request's.
	Forget func(ctx context.Context)

	mu      sync.Mutex
	forks   atomic.Int64 // how often the machine became another
	last    *told        // nil: what the file says
	linked  bool         // it has a network, and may have connections
	settled bool         // the kernel's settings are made and lo is up; whoever changes them since may
}

// Assume makes the machine what i says. Called again with the same it changes
// nothing. What cannot be written to a full or read-only disk is logged and keeps no
// machine from its network. In a fork, what must be unique is made new. Returns InvalidArgument, TooLarge, NotFound (no
// network device), Internal (the kernel refused).
func (k *Keeper) Assume(ctx context.Context, i Identity) error {
	if err := i.check(); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if i.Fork {
		k.forks.Add(1)
		k.Forget(ctx)
	}
	// What all else is made with: the time of files, keys.
	if !i.Time.IsZero() {
		k.Clock.Set(i.Time)
	}
	if len(i.Entropy) > 0 {
		if err := k.Random.Add(i.Entropy); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte(i.Hostname)); err != nil {
		return errors.Wrap(err, errors.Internal, "the hostname cannot be set")
	}
	if err := k.network(i.Interface); err != nil {
		return err
	}
	if (i.Fork || i.Moved) && k.linked {
		if err := netif.DropConnections(); err != nil {
			k.Log.Warn("connections that were made elsewhere last until they time out", "error", err)
		}
	}
	k.linked = i.Interface != nil
	if err := k.Group.Set(i.Limits); err != nil {
		return err
	}
	k.files(i)
	if i.Fork {
		k.renewHostKeys(i.Hostname)
	}
	return nil
}

func (k *Keeper) network(i *netif.Interface) error {
	if !k.settled {
		if err := netif.Settings(); err != nil {
			return err
		}
		if err := netif.Loopback(); err != nil {
			return err
		}
		k.settled = true
	}
	if i == nil {
		return nil
	}
	return netif.SetUp(*i)
}
