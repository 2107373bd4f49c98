package network

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/firewall"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/hostlease"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/link"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd"
)

// natNetwork is an instance's bridge with all that belongs to it.
type natNetwork struct {
	prefix string // of interface names
	subnet netip.Prefix
	mtu    int
	bridge link.Bridge
	guard  firewall.Rules
}

// address is the n-th machine's: the first address is the gateway's.
func (n *natNetwork) address(i int) netip.Prefix {
	return netip.PrefixFrom(addTo(n.subnet.Addr(), uint32(i)+2), n.subnet.Bits())
}

// hostNumber is the inverse of address.
func hostNumber(p netip.Prefix) int {
	b := p.Addr().As4()
	m := p.Masked().Addr().As4()
	return int(binary.BigEndian.Uint32(b[:])-binary.BigEndian.Uint32(m[:])) - 2
}

// hostCount is how many machines a subnet has addresses for: not the network,
// the gateway and the broadcast address.
func hostCount(p netip.Prefix) int { return 1<<(32-p.Bits()) - 3 }

func gatewayOf(p netip.Prefix) netip.Addr { return addTo(p.Masked().Addr(), 1) }

func addTo(ip netip.Addr, n uint32) netip.Addr {
	b := ip.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+n)
	return netip.AddrFrom4(b)
}

func (m *Manager) port(n *natNetwork, r record) link.Port {
	p := link.Port{
		Bridge: n.bridge, Interface: r.Interface, Guest: GuestInterface, NetNS: filepath.Join(m.pairDir(r.ID), nspair.NetFile),
		Address: r.Address, MTU: r.MTU,
	}
	if r.Elsewhere {
		p.NetNS = "" // known to whoever calls Move
	}
	return p
}

func (n *natNetwork) member(r record) firewall.Member {
	return firewall.Member{Interface: r.Interface, MAC: r.mac(), IP: r.Address.Addr()}
}

func bridgeName(prefix string) string { return prefix + "br" }

func tableName(instance string) string { return firewall.TablePrefix + instance }

// forwardSetting is the one setting of the host that nat changes.
const forwardSetting = "net.ipv4.ip_forward"

// describe says what the network of a lease looks like.
func (m *Manager) describe(l hostlease.Lease, mtu int) *natNetwork {
	gateway := netip.PrefixFrom(gatewayOf(l.Subnet), l.Subnet.Bits())
	return &natNetwork{
		prefix: l.Prefix, subnet: l.Subnet, mtu: mtu,
		bridge: link.Bridge{Name: bridgeName(l.Prefix), Gateway: gateway, MTU: mtu},
		guard: firewall.Rules{
			Table: tableName(m.cfg.Instance), Bridge: bridgeName(l.Prefix), PortPrefix: l.Prefix + "v", Gateway: gateway,
			Deny: m.cfg.DenyCIDRs, Allow: m.cfg.AllowCIDRs, Connections: m.cfg.Connections,
			NetdUser: netdUser(l), ProxyPort: netd.ProxyPort, DNSPort: netd.FilteredDNSPort, Resolvers: m.cfg.Resolvers, LogGroup: logGroup(l),
		},
	}
}

// ensureNAT makes the instance's network stand, once: subnet, bridge, rules,
// forwarding, DNS. What stands already is repaired; machines that are there
// are connected again. Returns Unsupported with the reason where the host cannot.
func (m *Manager) ensureNAT() (*natNetwork, error) {
	m.natMu.Lock()
	defer m.natMu.Unlock()
	if m.nat != nil {
		return m.nat, nil
	}
	if err := m.netdUsable(); err != nil {
		return nil, err
	}
	survey, err := link.Look()
	if err != nil {
		return nil, err
	}
	mtu := m.cfg.MTU
	if mtu == 0 {
		mtu = survey.MTU
	}
	if mtu == 0 {
		mtu = 1500 // no default route: Ethernet's
	}
	if err := m.updateLease(func(v *hostlease.View) error { return m.chooseSubnet(v, survey) }); err != nil {
		return nil, err
	}
	nat := m.describe(m.currentLease(), mtu)
	m.prepareAddresses(nat)
	if err := nat.bridge.Ensure(); err != nil {
		return nil, err
	}
	// The rules stand before anything is forwarded.
	pairs := m.natPairs()
	members := make([]firewall.Member, 0, len(pairs))
	var policies []firewall.Egress
	for _, p := range pairs {
		members = append(members, nat.member(p.rec))
		if e := kernelEgress(p.rec); e.IP.IsValid() {
			policies = append(policies, e)
		}
	}
	if err := nat.guard.Install(members, policies); err != nil {
		return nil, err
	}
	for _, p := range pairs {
		r := p.rec
		m.mu.Lock()
		p.inForce = kernelEgress(r)
		m.mu.Unlock()
		if r.Elsewhere && !link.Exists(r.Interface) {
			continue // gone with the namespace that it was in; Move makes it anew
		}
		if err := link.Plug(m.port(nat, r)); err != nil {
			// Its namespaces live; the machine goes on without a network.
			m.cfg.Log.Warn("a machine's link cannot be repaired", "machine", r.Machine, "err", err)
		}
	}
	if _, err := firewall.MakeWay(nat.bridge.Name); err != nil {
		m.cfg.Log.Warn("another firewall of the host may drop machines' packets", "err", err)
	}
	if err := m.updateLease(func(v *hostlease.View) error { return v.ChangeSetting(forwardSetting, "1") }); err != nil {
		return nil, err
	}
	if err := m.startNetd(nat); err != nil {
		return nil, err
	}
	m.nat = nat
	return nat, nil
}

// chooseSubnet leases the instance's subnet, where it has none, and saves it.
// Instances begin to look at different places, so that they differ across hosts too.
func (m *Manager) chooseSubnet(v *hostlease.View, survey link.Survey) error {
	if v.Mine.Subnet.IsValid() {
		return nil
	}
	avoid := survey.Networks
	for _, l := range v.Others {
		if l.Subnet.IsValid() {
			avoid = append(avoid, l.Subnet)
		}
	}
	for _, r := range m.cfg.Resolvers {
		avoid = append(avoid, netip.PrefixFrom(r.Addr(), r.Addr().BitLen()))
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(m.cfg.Instance))
	for _, in := range m.cfg.Subnets {
		count := uint32(1) << (m.cfg.SubnetBits - in.Bits())
		first := h.Sum32() % count
	next:
		for i := range count {
			at := addTo(in.Masked().Addr(), (first+i)%count<<(32-m.cfg.SubnetBits))
			candidate := netip.PrefixFrom(at, m.cfg.SubnetBits)
			for _, p := range avoid {
				if candidate.Overlaps(p) {
					continue next
				}
			}
			v.Mine.Subnet = candidate
			return v.Save()
		}
	}
	return errors.New(errors.CapacityExhausted, "no subnet is free for the instance's machines").
		WithHint("every /%d of the configured networks overlaps a route of this host or another instance", m.cfg.SubnetBits)
}

// prepareAddresses makes the table of addresses, with those of known pairs taken.
func (m *Manager) prepareAddresses(nat *natNetwork) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.addrs != nil {
		return
	}
	m.addrs = newSlots(hostCount(nat.subnet))
	for _, p := range m.pairs {
		if p.rec.Address.IsValid() && p.rec.State != stateDraining {
			m.addrs.mark(hostNumber(p.rec.Address))
		}
	}
}

// natPairs gives the pairs that should be on the bridge. None is worked on
// before the network stands.
func (m *Manager) natPairs() []*pair {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*pair
	for _, p := range m.pairs {
		if p.rec.Mode == domain.NetworkNAT && p.rec.usable() {
			out = append(out, p)
		}
	}
	return out
}

// netdUser is whom netd runs as: the first range of the first block is the
// instance's own, no machine gets it.
func netdUser(l hostlease.Lease) uint32 { return l.Blocks[0] }

// logGroup is the instance's NFLOG group: blocks of IDs are leased to one
// instance of the host, so their number is the instance's own.
func logGroup(l hostlease.Lease) uint16 { return uint16(netdUser(l) >> 16) }

// unplug takes a pair off the network, whether the network stands or not.
func (m *Manager) unplug(r record) error {
	prefix := m.currentLease().Prefix
	if installed, err := firewall.Installed(tableName(m.cfg.Instance)); err == nil && installed {
		rules := firewall.Rules{Table: tableName(m.cfg.Instance)}
		if err := rules.Remove(firewall.Member{Interface: r.Interface, MAC: r.mac(), IP: r.Address.Addr()}); err != nil {
			return err
		}
	}
	return link.Unplug(bridgeName(prefix), r.Interface, r.Address.Addr())
}

// updateLease changes the instance's lease under the host's lock and keeps
// the copies in memory and in the runtime directory.
func (m *Manager) updateLease(fn func(*hostlease.View) error) error {
	m.leaseMu.Lock()
	defer m.leaseMu.Unlock()
	return m.reg.Update(m.cfg.Instance, func(v *hostlease.View) error {
		if err := fn(v); err != nil {
			return err
		}
		m.lease = v.Mine
		return m.saveInstance(v.Mine)
	})
}

func (m *Manager) currentLease() hostlease.Lease {
	m.leaseMu.Lock()
	defer m.leaseMu.Unlock()
	return m.lease
}

// interfacePrefix derives the eight letters that the instance's interface
// names begin with; salt is counted up when they are taken.
func interfacePrefix(instance string, salt int) string {
	sum := sha256.Sum256([]byte(instance + "/" + strconv.Itoa(salt)))
	return "ae" + strings.ToLower(base32.HexEncoding.EncodeToString(sum[:5]))[:6]
}

// netdUsable says precisely why mode nat is not to be had for want of netd.
func (m *Manager) netdUsable() error {
	hint := "build cmd/netd and set the path of the binary; network mode none works without it"
	if m.cfg.NetdPath == "" {
		return errors.New(errors.Unsupported, "network mode nat needs the DNS forwarder netd, and none is configured").WithHint("%s", hint)
	}
	st, err := os.Stat(m.cfg.NetdPath)
	if err != nil || !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
		return errors.Wrap(err, errors.Unsupported, "network mode nat needs the DNS forwarder netd, and the configured binary is missing or not executable").WithHint("%s", hint)
	}
	return nil
}
