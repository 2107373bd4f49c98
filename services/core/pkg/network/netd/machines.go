package netd

import (
	"maps"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/egresslog"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/internal/nflog"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/proxy"
)

// machine is one that netd was told of.
type machine struct {
	id    string
	rules atomic.Pointer[egress.Rules]
	log   *egresslog.Log
}

// Rules implements proxy.Machine.
func (m *machine) Rules() *egress.Rules { return m.rules.Load() }

// Note implements proxy.Machine.
func (m *machine) Note(e domain.EgressEntry) { m.log.Add(e) }

// machines is who netd was told of, by address.
type machines struct {
	logs   *egresslog.Dir
	minter atomic.Pointer[proxy.Minter]

	mu       sync.RWMutex
	by       map[netip.Addr]*machine
	lossTold time.Time
	lossDue  bool // one more is to be told
}

func (t *machines) find(a netip.Addr) (*machine, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	m, ok := t.by[a]
	return m, ok
}

// proxied is find for the proxy.
func (t *machines) proxied(a netip.Addr) (proxy.Machine, bool) {
	m, ok := t.find(a)
	if !ok {
		return nil, false
	}
	return m, true
}

// set takes over what a machine may reach.
func (t *machines) set(told egress.Machine) error {
	if !told.Address.Is4() {
		return errors.New(errors.InvalidArgument, "a machine has no IPv4 address").WithField("address")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	log, err := t.logs.Log(told.ID)
	if err != nil {
		return err
	}
	m := t.by[told.Address]
	if m == nil || m.id != told.ID {
		m = &machine{id: told.ID, log: log}
		t.by[told.Address] = m
	}
	m.rules.Store(told.Rules())
	return nil
}

// settle lets go of the logs of machines that are no more. It is called when
// their connections have been cut, whose ends are noted.
func (t *machines) settle() {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := make(map[string]bool, len(t.by))
	for _, m := range t.by {
		ids[m.id] = true
	}
	t.logs.Keep(func(id string) bool { return ids[id] })
}

// lossEvery is how often a loss is told: one machine's flood must not fill the
// logs of the others.
const lossEvery = time.Minute

// lost notes in every log that flows were not told: whose they were is not
// known. What is lost soon after is noted once, later.
func (t *machines) lost() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lossDue {
		return
	}
	if wait := lossEvery - time.Since(t.lossTold); !t.lossTold.IsZero() && wait > 0 {
		t.lossDue = true
		time.AfterFunc(wait, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.lossDue = false
			t.tellLoss()
		})
		return
	}
	t.tellLoss()
}

// tellLoss is called with mu held.
func (t *machines) tellLoss() {
	t.lossTold = time.Now()
	for _, m := range t.by {
		m.Note(domain.EgressEntry{Verdict: domain.EgressGap, Via: "kernel"})
	}
}

// remove forgets a machine; absent is success.
func (t *machines) remove(a netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.by, a)
}

// replace takes over everything; what is not in it is forgotten.
func (t *machines) replace(s egress.State) error {
	var minter *proxy.Minter
	if s.CA != nil {
		var err error
		if minter, err = proxy.NewMinter(*s.CA); err != nil {
			return err
		}
	}
	t.minter.Store(minter)
	keep := map[netip.Addr]bool{}
	for _, m := range s.Machines {
		if err := t.set(m); err != nil {
			return err
		}
		keep[m.Address] = true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.by, func(a netip.Addr, _ *machine) bool { return !keep[a] })
	return nil
}

// flow notes what the kernel decided about a new flow.
func (t *machines) flow(f nflog.Flow) {
	m, ok := t.find(f.From)
	if !ok {
		return
	}
	verdict, reason, _ := strings.Cut(f.Prefix, " ")
	e := domain.EgressEntry{Verdict: domain.EgressAllow, Via: "kernel", Proto: protocol(f.Protocol), Addr: f.To.String(), Port: f.Port, Reason: reason}
	if verdict != domain.EgressAllow {
		e.Verdict = domain.EgressDeny
	}
	// The kernel knows networks, not which entry of the policy they are of.
	if d := m.Rules().Address(f.To); e.Verdict == domain.EgressAllow || reason == domain.EgressPolicyDenied {
		e.Rule, e.Learned = d.Rule, d.Learned
	}
	m.Note(e)
}

func protocol(n uint8) string {
	switch n {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	}
	return strconv.Itoa(int(n))
}
