package network

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/firewall"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/hostlease"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/link"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/egresslog"
)

// IDCount is how many user and group IDs each machine has.
const IDCount = 1 << 16

// GuestInterface is the name of the interface inside a machine with mode nat.
const GuestInterface = "eth0"

// Attachment is what a machine gets: a user and a network namespace made
// together, and in mode nat an address that is already configured in there.
type Attachment struct {
	// UserNS and NetNS are nsfs files; they live until Release.
	UserNS, NetNS string
	// IDBase is the host's ID that root of the user namespace is; the IDs
	// 0..IDCount-1 inside are IDBase.. outside, users and groups alike.
	IDBase, IDCount uint32

	// The rest is set in mode nat only.

	// Address is the machine's address in the instance's subnet. Inside it
	// stands alone, as /32: everything goes through the gateway.
	Address       netip.Prefix
	Gateway       netip.Addr       // the host's end; answers DNS and nothing else
	GatewayMAC    net.HardwareAddr // so that nobody need ask for it
	DNS           []netip.Addr     // the resolvers for /etc/resolv.conf
	HostInterface string           // the host's end of the veth pair
	MAC           net.HardwareAddr // of [GuestInterface]
	MTU           int
}

// Manager owns the network of one instance on this host. Its methods are safe
// for concurrent use.
type Manager struct {
	cfg   Config
	reg   *hostlease.Registry
	lock  *os.File // flock: one manager per runtime directory
	maker *nspair.Maker

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup // background work and calls under way
	wake   chan struct{}  // pool or drain need a look

	leaseMu sync.Mutex
	lease   hostlease.Lease

	natMu sync.Mutex
	// telling is held for writing while netd is told of all machines, and for
	// reading while it is told of one.
	telling sync.RWMutex
	nat     *natNetwork // nil until it stands
	netd    *netd.Client
	logs    *egresslog.Follower

	mu       sync.Mutex // order: natMu, mu, leaseMu
	closed   bool
	pairs    map[string]*pair
	machines map[string]*pair
	coming   map[string]chan struct{} // machines whose pair is being made; closed when it is decided
	wanted   map[string]domain.Egress // of machines that have no pair yet
	ids      *slots                   // ranges of user IDs, by their place in the lease's blocks
	addrs    *slots                   // nil until the subnet is known
}

// pair is a record in memory, guarded by Manager.mu; op lets one goroutine at a
// time change what the pair may reach, or take it apart.
type pair struct {
	rec     record
	egress  domain.Egress   // asked for; after Open without secrets, which are nowhere on disk
	inForce firewall.Egress // in the kernel
	told    bool            // netd knows the machine

	op        sync.Mutex
	unsettled bool // what was asked for last may be in force in part only; guarded by op
}

// The form of machine IDs and hostnames that are taken; both come from the worker.
var (
	machineForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)
	hostnameForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$`)
)

// Acquire gives a machine its pair; the same machine always gets the same one
// until Release. What SetEgress said is in force. From the pool it takes well
// under a millisecond, else the time to make one.
//
// Returns InvalidArgument; Conflict when the machine has a pair of another
// mode or is being released; CapacityExhausted when addresses or IDs are used
// up; Unsupported when this host cannot do the mode (the message says why);
// Unavailable after Close.
func (m *Manager) Acquire(ctx context.Context, machineID string, mode domain.NetworkMode, hostname string) (Attachment, error) {
	return m.acquire(ctx, machineID, mode, hostname, "")
}

func (m *Manager) acquire(ctx context.Context, machineID string, mode domain.NetworkMode, hostname, owner string) (Attachment, error) {
	if !machineForm.MatchString(machineID) {
		return Attachment{}, errors.New(errors.InvalidArgument, "this is not a machine ID").WithField("machine_id")
	}
	if hostname != "" && !hostnameForm.MatchString(hostname) {
		return Attachment{}, errors.New(errors.InvalidArgument, "this is not a hostname").WithField("hostname")
	}
	if mode != domain.NetworkNone && mode != domain.NetworkNAT {
		return Attachment{}, errors.New(errors.InvalidArgument, "the network mode is none or nat").WithField("network")
	}
	if !m.begin() {
		return Attachment{}, errClosed()
	}
	defer m.tasks.Done()
	defer m.poke()

	p, err := m.claim(ctx, machineID, mode, hostname, owner)
	if err != nil {
		return Attachment{}, err
	}
	if m.unrestricted(p, machineID) {
		// Only its log waits for netd to know it; its first packet is far away.
		m.tasks.Add(1)
		go func() {
			defer m.tasks.Done()
			err := m.enforceWanted(m.ctx, p, machineID)
			if err != nil && m.ctx.Err() == nil && !errors.HasCode(err, errors.Conflict) { // released already
				m.cfg.Log.Warn("netd is not told of a machine", "machine", machineID, "err", err)
			}
		}()
	} else if err := m.enforceWanted(ctx, p, machineID); err != nil {
		return Attachment{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.attachment(p.rec), nil
}

// claim gives a machine the pair that it has, or one of the pool, or a new one.
func (m *Manager) claim(ctx context.Context, machineID string, mode domain.NetworkMode, hostname, owner string) (*pair, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		if p := m.machines[machineID]; p != nil {
			return p, p.usableBy(mode)
		}
		busy := m.coming[machineID]
		if busy == nil {
			break
		}
		m.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
		}
		m.mu.Lock()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	p := m.ready(mode)
	if p == nil {
		decided := make(chan struct{})
		m.coming[machineID] = decided
		m.mu.Unlock()
		// Made for the pool's sake too: the caller going away does not undo it.
		made, err := m.makePair(mode)
		m.mu.Lock()
		delete(m.coming, machineID)
		close(decided)
		if err != nil {
			return nil, err
		}
		if p = made; ctx.Err() != nil {
			return nil, errors.Join(ctx.Err(), m.pool(p))
		}
	}
	claimed := p.rec
	claimed.State, claimed.Machine, claimed.Owner, claimed.Hostname, claimed.ClaimedAt = stateClaimed, machineID, owner, hostname, time.Now().UTC()
	if err := m.save(claimed); err != nil {
		return nil, err
	}
	p.rec = claimed
	m.machines[machineID] = p
	return p, nil
}

// usableBy says why a pair is not the one that its machine asks for; mu is held.
func (p *pair) usableBy(mode domain.NetworkMode) error {
	if p.rec.State != stateClaimed {
		return errors.New(errors.Conflict, "the machine's network is being released")
	}
	if p.rec.Mode != mode {
		return errors.New(errors.Conflict, "the machine already has a network of mode %s", p.rec.Mode)
	}
	return nil
}

// ready finds the pooled pair that waits longest; mu is held.
func (m *Manager) ready(mode domain.NetworkMode) *pair {
	var oldest *pair
	for _, p := range m.pairs {
		if p.rec.State == stateReady && p.rec.Mode == mode && (oldest == nil || p.rec.CreatedAt.Before(oldest.rec.CreatedAt)) {
			oldest = p
		}
	}
	return oldest
}

func (m *Manager) attachment(r record) Attachment {
	dir := m.pairDir(r.ID)
	a := Attachment{
		UserNS: filepath.Join(dir, nspair.UserFile), NetNS: filepath.Join(dir, nspair.NetFile),
		IDBase: r.IDBase, IDCount: IDCount,
	}
	if r.Mode == domain.NetworkNAT {
		gateway := gatewayOf(r.Address)
		a.Address, a.Gateway, a.DNS = r.Address, gateway, []netip.Addr{gateway}
		a.GatewayMAC = link.GuestMAC(gateway) // the bridge's
		a.HostInterface, a.MAC, a.MTU = r.Interface, r.mac(), r.MTU
	}
	return a
}

// Lookup finds the pair of a machine without making one. A machine that is
// being released, or whose namespaces someone else took away, has none.
func (m *Manager) Lookup(_ context.Context, machineID string) (Attachment, bool, error) {
	m.mu.Lock()
	p := m.machines[machineID]
	if p == nil || p.rec.State != stateClaimed {
		m.mu.Unlock()
		return Attachment{}, false, nil
	}
	rec := p.rec
	m.mu.Unlock()
	if is, err := nspair.Identify(m.pairDir(rec.ID)); err != nil || is != rec.Namespace {
		return Attachment{}, false, nil //nolint:nilerr // what cannot be identified is not there
	}
	return m.attachment(rec), true, nil
}

// List gives the machines that hold something here, sorted; those whose
// release has not succeeded yet too.
func (m *Manager) List(context.Context) ([]string, error) {
	return m.list(func(string) bool { return true }), nil
}

func (m *Manager) list(whose func(owner string) bool) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]string, 0, len(m.machines))
	for id, p := range m.machines {
		if whose(p.rec.Owner) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// Release takes a machine's pair apart: its packets are cut off, its links
// and namespaces go. The processes of the machine should have ended before;
// its range of IDs is not used again while one lives. Absent is success. An
// error leaves the rest for the next Release or Open.
func (m *Manager) Release(ctx context.Context, machineID string) error {
	if !m.begin() {
		return errClosed()
	}
	defer m.tasks.Done()
	defer m.poke()
	m.mu.Lock()
	for m.coming[machineID] != nil {
		decided := m.coming[machineID]
		m.mu.Unlock()
		select {
		case <-decided:
		case <-ctx.Done():
			return ctx.Err()
		}
		m.mu.Lock()
	}
	p := m.machines[machineID]
	delete(m.wanted, machineID)
	m.mu.Unlock()
	if p == nil {
		return nil
	}
	return m.takeApart(p)
}

// Close lets go: background work ends, what machines need stays. It is safe
// to call twice.
func (m *Manager) Close() error {
	m.mu.Lock()
	already := m.closed
	m.closed = true
	m.mu.Unlock()
	m.cancel()
	m.tasks.Wait()
	if already {
		return nil
	}
	m.netd.Close()
	return errors.Join(m.logs.Close(), m.maker.Close(), m.lock.Close())
}

// begin counts a call as under way, unless the manager is closed.
func (m *Manager) begin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.tasks.Add(1)
	return true
}

func errClosed() error { return errors.New(errors.Unavailable, "the network manager is closed") }
