package firewall

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The registers of a member's key: an interface name fills the first four of
// 32 bits (NFT_REG_1), an Ethernet address the next two, an IPv4 address one.
const (
	regName = unix.NFT_REG_1
	regMAC  = unix.NFT_REG32_04
	regIP   = unix.NFT_REG32_06
)

// guard writes the bridge table: a frame that comes in at one of the
// instance's ports passes only if it is IPv4 or ARP, untagged, with the
// Ethernet and IP address that the port was given. Everything else, IPv6 and
// VLANs with it, goes no further.
func (r Rules) guard(c *nftables.Conn, members []Member) error {
	t := fresh(c, nftables.TableFamilyBridge, r.Table)
	set := r.members()
	set.Table = t
	elements := make([]nftables.SetElement, 0, len(members))
	for _, m := range members {
		elements = append(elements, m.element())
	}
	if err := c.AddSet(set, elements); err != nil {
		return err
	}
	rule := func(ch *nftables.Chain, parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: slices.Concat(parts...)})
	}
	check := c.AddChain(&nftables.Chain{Table: t, Name: "check"})
	// The EtherType is read from the frame: for a tagged one the kernel puts the
	// tag back, so that 802.1Q is seen here and not what is inside.
	name := one(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regName})
	sourceMAC := one(&expr.Payload{Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6, DestRegister: regMAC})
	isMember := lookup(set, regName)
	rule(check, etherType(unix.ETH_P_IP), name, sourceMAC,
		one(&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4, DestRegister: regIP}), isMember, accept())
	// ARP (RFC 826) for IPv4 over Ethernet; frame and packet name the same sender.
	senderIP := one(&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: 14, Len: 4, DestRegister: regIP})
	rule(check, etherType(unix.ETH_P_ARP), network(0, 6, []byte{0, 1, 8, 0, 6, 4}), name, sourceMAC, senderIP, isMember,
		one(&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 6, DestRegister: regMAC}), isMember, accept())
	rule(check, counter(), drop())

	// Frames to the reserved group addresses skip prerouting and come to input.
	for _, hook := range []struct {
		name string
		hook *nftables.ChainHook
	}{{"prerouting", nftables.ChainHookPrerouting}, {"input", nftables.ChainHookInput}} {
		ch := c.AddChain(&nftables.Chain{
			Table: t, Name: hook.name, Type: nftables.ChainTypeFilter, Hooknum: hook.hook,
			Priority: nftables.ChainPriorityRef(-300), // NF_BR_PRI_NAT_DST_BRIDGED: before all that others do
		})
		rule(ch, iifPrefix(r.PortPrefix), jump(check))
	}
	return nil
}

// members describes the set of members; the kernel finds it by name.
func (r Rules) members() *nftables.Set {
	return &nftables.Set{
		Table: &nftables.Table{Family: nftables.TableFamilyBridge, Name: r.Table},
		Name:  setMembers, Concatenation: true, KeyByteOrder: binaryutil.BigEndian,
		KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr),
	}
}

func (m Member) element() nftables.SetElement {
	key := append(ifname(m.Interface), m.MAC...)
	key = append(key, 0, 0) // to whole registers
	ip := m.IP.As4()
	return nftables.SetElement{Key: append(key, ip[:]...)}
}
