package firewall

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// inet writes the table that decides where machines' packets may go:
//
//	forward      in from the bridge -> egress, out to the bridge -> ingress
//	egress       replies; the allowed; not the denied; the rest
//	ingress      replies only
//	input        in from the bridge -> host
//	host         replies, DNS and ping to the gateway
//	postrouting  masquerade
//	refuse       a prompt no
//
// To accept ends this table's chain only: other tables still have their say.
func (r Rules) inet(c *nftables.Conn) error {
	t := fresh(c, nftables.TableFamilyINet, r.Table)
	deny, err := addressSet(c, t, setDeny, r.Deny)
	if err != nil {
		return err
	}
	allow, err := addressSet(c, t, setAllow, r.Allow)
	if err != nil {
		return err
	}
	connections := &nftables.Set{Table: t, Name: setConnections, KeyType: nftables.TypeIPAddr, Dynamic: true, Size: 65535}
	if err := c.AddSet(connections, nil); err != nil {
		return err
	}
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Table: t, Name: name, Type: kind, Hooknum: hook, Priority: prio})
	}
	plain := func(name string) *nftables.Chain { return c.AddChain(&nftables.Chain{Table: t, Name: name}) }
	rule := func(ch *nftables.Chain, parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: slices.Concat(parts...)})
	}
	gateway := r.Gateway.Addr()

	refuse, egress, ingress, host := plain("refuse"), plain("egress"), plain("ingress"), plain("host")
	forward := base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	input := base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	post := base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)

	// A reset is a prompt answer that the kernel does not ration; ICMP errors
	// are limited to one a second and peer (icmp_ratelimit).
	rule(refuse, l4proto(unix.IPPROTO_TCP), counter(), one(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}))
	rule(refuse, counter(), one(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}))

	rule(forward, iif(r.Bridge), jump(egress))
	rule(forward, oif(r.Bridge), jump(ingress))

	rule(egress, oif(r.Bridge), jump(refuse)) // one machine to another through the gateway, before all exceptions
	rule(egress, ct(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())
	rule(egress, ct(expr.CtStateBitINVALID), drop())
	rule(egress, notIPv4(), jump(refuse))
	// ct count over N, by source: one machine cannot fill the host's connection table.
	rule(egress, address(true, 1), one(&expr.Dynset{
		SrcRegKey: 1, SetName: connections.Name, SetID: connections.ID, Operation: uint32(unix.NFT_DYNSET_OP_ADD),
		Exprs: one(&expr.Connlimit{Count: uint32(r.Connections), Flags: expr.NFT_CONNLIMIT_F_INV}),
	}), jump(refuse))
	rule(egress, address(false, 1), lookup(allow, 1), accept())
	rule(egress, address(false, 1), lookup(deny, 1), jump(refuse))
	rule(egress, counter(), accept())

	rule(ingress, ct(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())
	rule(ingress, counter(), drop())

	rule(input, iif(r.Bridge), jump(host))
	// The resolver serves machines, not the host's neighbours (weak host model).
	rule(input, notIif("lo"), ipv4(), destination(gateway), counter(), drop())

	rule(host, ct(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())
	rule(host, notIPv4(), drop())
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		rule(host, destination(gateway), l4proto(proto), port(53), accept())
	}
	rule(host, destination(gateway), l4proto(unix.IPPROTO_ICMP), transport(0, 1, []byte{8}), accept()) // echo request
	rule(host, jump(refuse))

	rule(post, ipv4(), source(r.Gateway), notOif(r.Bridge), counter(), one(&expr.Masq{}))
	return nil
}

// addressSet makes an interval set of IPv4 networks.
func addressSet(c *nftables.Conn, t *nftables.Table, name string, of []netip.Prefix) (*nftables.Set, error) {
	s := &nftables.Set{Table: t, Name: name, KeyType: nftables.TypeIPAddr, Interval: true}
	return s, c.AddSet(s, intervals(of))
}

// intervals turns networks into the half-open intervals that the kernel
// wants: ascending, apart, an end that is not in it, none after the last address.
func intervals(of []netip.Prefix) []nftables.SetElement {
	type span struct{ from, to uint64 } // to is exclusive
	spans := make([]span, 0, len(of))
	for _, p := range of {
		b := p.Masked().Addr().As4()
		from := uint64(binary.BigEndian.Uint32(b[:]))
		spans = append(spans, span{from, from + 1<<(32-p.Bits())})
	}
	slices.SortFunc(spans, func(a, b span) int {
		if a.from < b.from {
			return -1
		}
		return 1
	})
	var out []nftables.SetElement
	for i := 0; i < len(spans); {
		from, to := spans[i].from, spans[i].to
		for i++; i < len(spans) && spans[i].from <= to; i++ {
			to = max(to, spans[i].to)
		}
		out = append(out, nftables.SetElement{Key: binary.BigEndian.AppendUint32(nil, uint32(from))})
		if to < 1<<32 {
			out = append(out, nftables.SetElement{Key: binary.BigEndian.AppendUint32(nil, uint32(to)), IntervalEnd: true})
		}
	}
	return out
}
