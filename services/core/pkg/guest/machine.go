package guest

import (
	"context"
	"crypto/rand"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

// Protocol is the newest version of the guest protocol that this host speaks.
const Protocol = 1

// Agent is what a handshake learned.
type Agent struct {
	Protocol uint32
	Features []string
	Version  string
	BootID   string // random per agent process
	// Phases are how a machine with a kernel of its own came up; in one that goes
	// on from memory, how its origin did.
	Phases []Phase
	Took   time.Duration
}

// Phase is a part of a machine's start, and when it ended since its kernel started.
type Phase struct {
	Name string
	At   time.Duration
}

// maxPhases bounds the phases that an agent tells of.
const maxPhases = 16

// Has reports whether both sides know a feature.
func (a Agent) Has(feature string) bool { return slices.Contains(a.Features, feature) }

// Handshake negotiates with the agent; a machine is ready when it answered.
// The agent may be just starting: dialling blocks until it listens, and the
// call waits until ctx ends or CallTimeout passed since it was connected to.
// Returns Unavailable, GuestFault.
func (c *Client) Handshake(ctx context.Context) (Agent, error) {
	began := time.Now()
	m, err := handshake.ask(ctx, c, c.o.CallTimeout, &guestv1.HandshakeRequest{
		Protocol: Protocol, Features: c.o.Features, HostVersion: c.o.HostVersion,
		HostTimeUnixNs: began.UnixNano(),
	})
	if err != nil {
		return Agent{}, err
	}
	if m.GetProtocol() < 1 || m.GetProtocol() > Protocol {
		return Agent{}, errors.New(errors.GuestFault, "the guest agent speaks protocol %d, the host up to %d", m.GetProtocol(), Protocol)
	}
	if len(m.GetFeatures()) > 256 || len(m.GetBootId()) > 128 {
		return Agent{}, errors.New(errors.GuestFault, "the guest agent's handshake is out of bounds")
	}
	a := Agent{Protocol: m.GetProtocol(), Version: clean(m.GetAgentVersion()), BootID: clean(m.GetBootId()), Took: time.Since(began)}
	for _, f := range m.GetFeatures() {
		a.Features = append(a.Features, clean(f))
	}
	if len(m.GetPhases()) <= maxPhases {
		for _, p := range m.GetPhases() {
			a.Phases = append(a.Phases, Phase{Name: clean(p.GetName()), At: time.Duration(p.GetAtNs())})
		}
	}
	return a, nil
}

// Config is what a machine is told once it is known whose it is.
type Config struct {
	Env            map[string]string
	DefaultUser    string
	AccessToken    string // what envd clients must show; empty: none
	DefaultWorkdir string
}

// Configure tells the machine its configuration, replacing what it was told before.
// Returns InvalidArgument (an unknown user), Unavailable, GuestFault.
func (c *Client) Configure(ctx context.Context, cfg Config) error {
	_, err := configure.ask(ctx, c, c.o.CallTimeout, &guestv1.ConfigureRequest{
		Env: cfg.Env, DefaultUser: cfg.DefaultUser, AccessToken: cfg.AccessToken, DefaultWorkdir: cfg.DefaultWorkdir,
	})
	return err
}

// hooksLimit is how long the machine may take for its hooks: those before a
// snapshot and, where one failed, those after it.
const hooksLimit = time.Minute

// Quiesce has the machine run its hooks and flush its file systems before a
// snapshot. Returns Conflict when a hook failed, which is then undone;
// Unavailable, GuestFault.
func (c *Client) Quiesce(ctx context.Context) error {
	_, err := quiesce.ask(ctx, c, c.o.FileTimeout+hooksLimit, &guestv1.QuiesceRequest{})
	return err
}

// Thaw undoes Quiesce and runs the machine's hooks. In a machine restored from memory it also sets the
// clock and adds entropy, so that clones do not share their random numbers.
func (c *Client) Thaw(ctx context.Context) error {
	entropy := make([]byte, 64)
	_, _ = rand.Read(entropy) // never fails
	_, err := thaw.ask(ctx, c, c.o.CallTimeout+hooksLimit, &guestv1.ThawRequest{HostTimeUnixNs: time.Now().UnixNano(), Entropy: entropy})
	return err
}

// Hold has everything that runs in a machine with a kernel of its own stop, just
// before its memory is saved: in a machine that goes on from that nothing runs
// before Assume has told it who it is, and what time. Nothing is started
// meanwhile, either. Release or Thaw lets it go on, or a minute of the machine's
// own time. Returns Unsupported (an older agent), Unavailable, GuestFault.
func (c *Client) Hold(ctx context.Context) error {
	_, err := hold.ask(ctx, c, c.o.CallTimeout, &guestv1.HoldRequest{})
	return err
}

// Release ends Hold in a machine that was not restored. Nothing held is success.
// Returns as Hold does.
func (c *Client) Release(ctx context.Context) error {
	_, err := release.ask(ctx, c, c.o.CallTimeout, &guestv1.ReleaseRequest{})
	return err
}
