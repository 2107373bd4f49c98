package network

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/firewall"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/flows"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/egresslog"
)

// SetEgress says what a machine may reach. Before Acquire it is remembered,
// and in force when Acquire returns; later it is in force when SetEgress
// returns: connections that it refuses are cut by then. The zero Egress is the
// default: all but what the operator refuses. Release forgets it.
//
// Returns Unavailable when it is not in force; what was before may be, or
// something between: never more than both.
func (m *Manager) SetEgress(ctx context.Context, machineID string, e domain.Egress) error {
	if !machineForm.MatchString(machineID) {
		return errors.New(errors.InvalidArgument, "this is not a machine ID").WithField("machine_id")
	}
	if !m.begin() {
		return errClosed()
	}
	defer m.tasks.Done()
	m.mu.Lock()
	p := m.machines[machineID]
	if p == nil {
		if e.IsZero() {
			delete(m.wanted, machineID)
		} else {
			m.wanted[machineID] = e
		}
		m.mu.Unlock()
		return nil
	}
	m.mu.Unlock()
	return m.enforce(ctx, p, func() domain.Egress { return e })
}

// unrestricted reports whether nobody said what a claimed pair's machine may reach.
func (m *Manager) unrestricted(p *pair, machineID string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, wanted := m.wanted[machineID]
	return !wanted && p.egress.IsZero() && !p.rec.Proxied
}

// enforceWanted puts in force what SetEgress said before Acquire.
func (m *Manager) enforceWanted(ctx context.Context, p *pair, machineID string) error {
	return m.enforce(ctx, p, func() domain.Egress {
		if e, ok := m.wanted[machineID]; ok {
			delete(m.wanted, machineID)
			return e
		}
		return p.egress
	})
}

// enforce puts what a claimed pair's machine may reach in force: netd knows it
// before the kernel sends anything there, and what flows already is judged
// anew. want is called with mu held.
func (m *Manager) enforce(ctx context.Context, p *pair, want func() domain.Egress) error {
	p.op.Lock()
	defer p.op.Unlock()
	m.mu.Lock()
	rec, was, told := p.rec, p.egress, p.told
	if rec.State != stateClaimed {
		m.mu.Unlock()
		return errors.New(errors.Conflict, "the machine's network is being released")
	}
	p.egress = want()
	e := p.egress
	m.mu.Unlock()
	if rec.Mode != domain.NetworkNAT {
		return nil // nothing reaches anything
	}
	nat, err := m.ensureNAT()
	if err != nil {
		return err
	}
	rules := machineOf(rec, e).Rules()
	if told && !p.unsettled && reflect.DeepEqual(was, e) {
		return nil
	}
	p.unsettled = true
	// Written first: after a crash the kernel's rules are made from it.
	rec.Policy, rec.Proxied = e.Policy, rules.Proxied()
	if err := m.save(rec); err != nil {
		return err
	}
	m.mu.Lock()
	p.rec.Policy, p.rec.Proxied = rec.Policy, rec.Proxied
	inForce := p.inForce // making the network may have changed it
	m.mu.Unlock()
	if err := m.tellMachine(ctx, machineOf(rec, e)); err != nil {
		if ctx.Err() != nil || !e.IsZero() || rec.Proxied {
			return errors.Wrap(err, errors.Unavailable, "the egress policy cannot be put in force").WithHint("see netd.log in the instance's runtime directory")
		}
		// Without a policy nothing depends on netd but the log, and its next
		// start is told of all machines.
		m.cfg.Log.Warn("netd is not told of a machine", "machine", rec.Machine, "err", err)
	} else {
		told = true
	}
	now := kernelEgress(rec)
	if err := nat.guard.Change(inForce, now); err != nil {
		return err
	}
	m.mu.Lock()
	p.inForce, p.told = now, told
	m.mu.Unlock()
	// Without a policy before and after there is nothing to cut.
	if !was.IsZero() || !e.IsZero() || inForce.IP.IsValid() {
		if err := m.cut(rec, rules, nat); err != nil {
			return err
		}
	}
	p.unsettled = false
	return nil
}

// tellMachine tells netd of one machine.
func (m *Manager) tellMachine(ctx context.Context, machine egress.Machine) error {
	m.telling.RLock()
	defer m.telling.RUnlock()
	ctx, cancel := context.WithTimeout(ctx, netdTakesWithin)
	defer cancel()
	return m.netd.SetMachine(ctx, machine)
}

// cut ends the connections through the kernel that a machine's rules refuse, or
// that are the proxy's now.
func (m *Manager) cut(rec record, rules *egress.Rules, nat *natNetwork) error {
	return flows.Cut(rec.Address.Addr(), func(f flows.Flow) bool {
		if f.To == nat.bridge.Gateway.Addr() || f.Proxied(nat.bridge.Gateway.Addr()) {
			return true // netd's, which looked at them itself
		}
		if rec.Proxied && (f.TCP() || f.Port == 53 || f.UDP() && f.Port == 443) {
			return false
		}
		return rules.Address(f.To).Allow
	})
}

// forgetEgress takes a pair's policy out of the kernel and of netd, before its
// address can be another's; op is held.
func (m *Manager) forgetEgress(p *pair) error {
	m.mu.Lock()
	inForce, told := p.inForce, p.told
	p.inForce, p.told = firewall.Egress{}, false
	m.mu.Unlock()
	if inForce.IP.IsValid() {
		rules := firewall.Rules{Table: tableName(m.cfg.Instance)}
		if err := rules.Change(inForce, firewall.Egress{}); err != nil {
			m.mu.Lock()
			p.inForce, p.told = inForce, told
			m.mu.Unlock()
			return err
		}
	}
	if !told {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.ctx), netdAnswersWithin)
	defer cancel()
	m.telling.RLock()
	defer m.telling.RUnlock()
	if err := m.netd.RemoveMachine(ctx, p.rec.Address.Addr()); err != nil {
		// Nothing comes from the address until a machine has it that netd is told of.
		m.cfg.Log.Warn("netd is not told of a machine's end", "machine", p.rec.Machine, "err", err)
	}
	return nil
}

const (
	// netdAnswersWithin bounds a word with netd that nobody waits for.
	netdAnswersWithin = 2 * time.Second
	// netdTakesWithin and netdTakesAllWithin bound what it is told of one machine, and
	// of all: one that hangs must not hold up their ends for ever.
	netdTakesWithin, netdTakesAllWithin = 30 * time.Second, 2 * time.Minute
)

// kernelEgress is what a record's policy means in the kernel.
func kernelEgress(r record) firewall.Egress {
	if r.Policy.IsZero() && !r.Proxied {
		return firewall.Egress{}
	}
	rules := egress.New(r.Policy, nil)
	e := firewall.Egress{IP: r.Address.Addr(), Proxied: r.Proxied, Filtered: r.Proxied || rules.AsksFewer()}
	e.Allow, e.Deny = rules.Addresses()
	if rules.Learns() {
		e.Deny = nil
	}
	return e
}

func machineOf(r record, e domain.Egress) egress.Machine {
	return egress.Machine{Address: r.Address.Addr(), ID: r.Machine, Policy: e.Policy, Secrets: e.Secrets, Headers: e.Rules, Proxy: e.Proxy}
}

// claimedNAT gives what netd must know of the machines that are there.
func (m *Manager) claimedNAT(which func(record) bool) []egress.Machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []egress.Machine
	for _, p := range m.pairs {
		if p.rec.Mode == domain.NetworkNAT && p.rec.State == stateClaimed && which(p.rec) {
			out = append(out, machineOf(p.rec, p.egress))
		}
	}
	return out
}

// tellNetd tells a netd that has just started everything, and one that was
// adopted what it may have missed: it has secrets that this process does not
// know until it is told them again.
func (m *Manager) tellNetd(ctx context.Context, adopted bool) error {
	m.telling.Lock() // nobody tells it anything newer between the look and the word
	defer m.telling.Unlock()
	ctx, cancel := context.WithTimeout(ctx, netdTakesAllWithin)
	defer cancel()
	if !adopted {
		return m.netd.SetState(ctx, egress.State{Machines: m.claimedNAT(func(record) bool { return true }), CA: m.cfg.EgressCA})
	}
	for _, machine := range m.claimedNAT(func(r record) bool { return !r.Proxied }) {
		if err := m.netd.SetMachine(ctx, machine); err != nil {
			return err
		}
	}
	return nil
}

// EgressLog reads what a machine did, after an entry's number and at most
// limit of it, oldest first; where there is none it waits for one so long. The
// log outlives the machine until ForgetEgressLog.
func (m *Manager) EgressLog(ctx context.Context, machineID string, after int64, limit int, wait time.Duration) ([]domain.EgressEntry, error) {
	if !machineForm.MatchString(machineID) {
		return nil, errors.New(errors.InvalidArgument, "this is not a machine ID").WithField("machine_id")
	}
	return m.logs.Wait(ctx, machineID, after, limit, wait)
}

// ForgetEgressLog removes a machine's log; absent is success.
func (m *Manager) ForgetEgressLog(machineID string) error {
	if !machineForm.MatchString(machineID) {
		return errors.New(errors.InvalidArgument, "this is not a machine ID").WithField("machine_id")
	}
	return egresslog.Remove(m.cfg.EgressLogDir, machineID)
}

// prepareLogs makes the directory of logs netd's, whose user may be another
// than at the last boot.
func (m *Manager) prepareLogs(user uint32) error {
	dir := m.cfg.EgressLogDir
	failed := func(err error) error {
		return errors.Wrap(err, errors.Unavailable, "cannot prepare the directory of egress logs")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return failed(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return failed(err)
	}
	for _, e := range entries {
		// A netd that was taken over may have put a link to another's file here.
		path := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
			continue
		}
		if err := os.Lchown(path, int(user), int(user)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return failed(err)
		}
	}
	if err := os.Lchown(dir, int(user), int(user)); err != nil {
		return failed(err)
	}
	return nil
}
