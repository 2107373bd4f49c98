package network

import (
	"crypto/rand"
	"encoding/base32"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/firewall"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/hostlease"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/link"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
)

// makePair makes a pair and leaves it in state making, for the caller to pool
// or to claim. What fails is taken apart again.
func (m *Manager) makePair(mode domain.NetworkMode) (*pair, error) {
	var nat *natNetwork
	if mode == domain.NetworkNAT {
		var err error
		if nat, err = m.ensureNAT(); err != nil {
			return nil, err
		}
	}
	p, err := m.reserve(mode, nat)
	if err != nil {
		return nil, err
	}
	rec := p.rec
	if err := m.build(&rec, nat); err != nil {
		if undo := m.takeApart(p); undo != nil {
			m.cfg.Log.Warn("a half-made pair stays until the next start", "pair", rec.ID, "err", undo)
		}
		return nil, err
	}
	m.mu.Lock()
	p.rec = rec
	m.mu.Unlock()
	return p, nil
}

// reserve takes a name, IDs and an address for a new pair.
func (m *Manager) reserve(mode domain.NetworkMode, nat *natNetwork) (*pair, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rec := record{Version: recordVersion, State: stateMaking, Mode: mode, CreatedAt: time.Now().UTC()}
	for rec.ID == "" || m.pairs[rec.ID] != nil {
		rec.ID = newPairID()
	}
	base, err := m.takeIDs()
	if err != nil {
		return nil, err
	}
	rec.IDBase = base
	if nat != nil {
		n, ok := m.addrs.take()
		if ok && m.countNAT() >= MaxNAT {
			m.addrs.free(n)
			ok = false
		}
		if !ok {
			m.freeIDs(base)
			return nil, errors.New(errors.CapacityExhausted, "the instance's network has no room for another machine").
				WithHint("end machines; an instance holds at most %d with network nat, and not more than its subnet %s has addresses", MaxNAT, nat.subnet)
		}
		rec.Address = nat.address(n)
		rec.MAC = link.GuestMAC(rec.Address.Addr()).String()
		rec.Interface = nat.prefix + "v" + rec.ID
		rec.MTU = nat.mtu
	}
	p := &pair{rec: rec}
	m.pairs[rec.ID] = p
	return p, nil
}

func (m *Manager) countNAT() int {
	n := 0
	for _, p := range m.pairs {
		if p.rec.Mode == domain.NetworkNAT && p.rec.State != stateDraining {
			n++
		}
	}
	return n
}

// build makes what the record says. The record is on disk before.
func (m *Manager) build(rec *record, nat *natNetwork) error {
	dir := m.pairDir(rec.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot write to the runtime directory")
	}
	if err := m.save(*rec); err != nil {
		return err
	}
	is, err := m.maker.Make(m.ctx, dir, rec.IDBase, IDCount)
	if err != nil {
		return err
	}
	rec.Namespace = is
	netns := filepath.Join(dir, nspair.NetFile)
	if nat == nil {
		return link.SetUpGuest(netns, rec.idRange(), nil)
	}
	port := m.port(nat, *rec)
	if err := link.SetUpGuest(netns, rec.idRange(), &port); err != nil {
		return err
	}
	// The guard knows the address before the port carries frames.
	if err := nat.guard.Add(nat.member(*rec)); err != nil {
		return err
	}
	if err := link.Plug(port); err != nil {
		return err
	}
	// Docker or ufw may have come up since the last time.
	if _, err := firewall.MakeWay(nat.bridge.Name); err != nil {
		m.cfg.Log.Warn("another firewall of the host may drop machines' packets", "err", err)
	}
	return nil
}

// pool puts a made pair into the pool; mu is held.
func (m *Manager) pool(p *pair) error {
	rec := p.rec
	rec.State = stateReady
	if err := m.save(rec); err != nil {
		return err
	}
	p.rec = rec
	return nil
}

// takeApart removes a pair's kernel objects and leaves it draining.
func (m *Manager) takeApart(p *pair) error {
	p.op.Lock()
	defer p.op.Unlock()
	m.mu.Lock()
	rec := p.rec
	if rec.State == stateDraining {
		m.mu.Unlock()
		return nil
	}
	rec.State = stateRemoving
	p.rec = rec
	m.mu.Unlock()
	if err := m.saveExisting(rec); err != nil {
		return err
	}
	if rec.Mode == domain.NetworkNAT {
		if err := m.unplug(rec); err != nil {
			return err
		}
		if err := m.forgetEgress(p); err != nil {
			return err
		}
	}
	if err := nspair.Remove(m.pairDir(rec.ID)); err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot remove a machine's namespaces")
	}
	machine := rec.Machine
	rec.State, rec.Machine, rec.Policy, rec.Proxied = stateDraining, "", domain.EgressPolicy{}, false
	if err := m.saveExisting(rec); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p.rec = rec
	if m.machines[machine] == p {
		delete(m.machines, machine)
	}
	if rec.Address.IsValid() && m.addrs != nil {
		m.addrs.free(hostNumber(rec.Address))
	}
	return nil
}

// saveExisting saves unless the pair failed so early that it has no directory.
func (m *Manager) saveExisting(rec record) error {
	if _, err := os.Stat(m.pairDir(rec.ID)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return m.save(rec)
}

// reap takes apart what could not be before and frees the IDs of drained
// pairs that no process has any more. It tells how many are still waiting.
func (m *Manager) reap() (waiting int, err error) {
	for _, p := range m.inState(stateRemoving) {
		err = errors.Join(err, m.takeApart(p)) // the others are not kept by it
	}
	drained := m.inState(stateDraining)
	if len(drained) == 0 {
		return 0, err
	}
	inUse, perr := nspair.Processes()
	if perr != nil {
		return len(drained), errors.Join(err, errors.Wrap(perr, errors.Unavailable, "cannot look at the host's processes"))
	}
	for _, p := range drained {
		if inUse.In(p.rec.idRange()) {
			waiting++
			continue
		}
		p.op.Lock()
		eerr := m.eraseRecord(p.rec.ID)
		p.op.Unlock()
		if eerr != nil {
			err = errors.Join(err, eerr)
			continue
		}
		m.mu.Lock()
		if m.pairs[p.rec.ID] == p {
			delete(m.pairs, p.rec.ID)
			m.freeIDs(p.rec.IDBase)
		}
		m.mu.Unlock()
	}
	return waiting, err
}

func (m *Manager) inState(s pairState) []*pair {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*pair
	for _, p := range m.pairs {
		if p.rec.State == s {
			out = append(out, p)
		}
	}
	return out
}

const rangesPerBlock = hostlease.BlockSize / IDCount

// takeIDs reserves a range of IDs; mu is held. It leases another block from
// the host when the instance's are used up.
func (m *Manager) takeIDs() (uint32, error) {
	i, ok := m.ids.take()
	if !ok {
		if err := m.updateLease(m.addBlock); err != nil {
			return 0, err
		}
		m.ids.grow(len(m.blocks()) * rangesPerBlock)
		if i, ok = m.ids.take(); !ok {
			return 0, errors.New(errors.Internal, "a new block of user IDs is full")
		}
	}
	return m.blocks()[i/rangesPerBlock] + uint32(i%rangesPerBlock)*IDCount, nil
}

// addBlock leases another block of IDs and saves the lease.
func (m *Manager) addBlock(v *hostlease.View) error {
	reserved, err := hostlease.ReservedIDs("")
	if err != nil {
		return err
	}
	if _, err := v.AddBlock(m.cfg.IDLow, m.cfg.IDHigh, reserved); err != nil {
		return err
	}
	return v.Save()
}

// markIDs notes the range of a pair that was found on disk; false when it is
// not in the lease.
func (m *Manager) markIDs(base uint32) bool {
	i := m.placeOf(base)
	if i >= 0 {
		m.ids.mark(i)
	}
	return i >= 0
}

func (m *Manager) freeIDs(base uint32) {
	if i := m.placeOf(base); i >= 0 {
		m.ids.free(i)
	}
}

func (m *Manager) placeOf(base uint32) int {
	for i, b := range m.blocks() {
		if base >= b && base-b < hostlease.BlockSize {
			return i*rangesPerBlock + int((base-b)/IDCount)
		}
	}
	return -1
}

func (m *Manager) blocks() []uint32 {
	m.leaseMu.Lock()
	defer m.leaseMu.Unlock()
	return m.lease.Blocks
}

// newPairID mints six letters: with an instance's eight-letter prefix and one
// letter between them they fill an interface name (15 bytes, IFNAMSIZ - 1).
func newPairID() string {
	var b [5]byte
	_, _ = rand.Read(b[:])
	return strings.ToLower(base32.HexEncoding.EncodeToString(b[:]))[:6]
}
