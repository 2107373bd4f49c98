package firewall

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// logBytes of a packet show its addresses and ports: an IPv4 header with all
// its options (60) and the ports behind it.
const logBytes = 64

// New flows of one machine that are told.
const (
	logPerSecond = 500
	logBurst     = 2000
)

// inet writes the table that decides where machines' packets may go:
//
//	forward      in from the bridge -> egress, out to the bridge -> ingress
//	egress       replies; the operator's allowed; not the operator's denied; policy
//	policy       what the machine's own policy says; the rest
//	ingress      replies only
//	prerouting   machines whose names are looked at: TCP and DNS go to netd
//	input        in from the bridge -> host
//	host         replies, DNS and ping to the gateway, netd's proxy
//	output       netd's own packets -> netd
//	netd         replies, resolvers; what machines may not reach, netd may not for them
//	postrouting  masquerade
//	refuse…      a prompt no, noted with its reason
//
// To accept ends this table's chain only: other tables still have their say.
func (r Rules) inet(c *nftables.Conn, egresses []Egress) error {
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
	logged := &nftables.Set{Table: t, Name: setLogged, KeyType: nftables.TypeIPAddr, Dynamic: true, HasTimeout: true, Timeout: time.Minute, Size: 65535}
	if err := c.AddSet(logged, nil); err != nil {
		return err
	}
	proxied, filtered, vmAllow, vmDeny := r.machines(setProxied), r.machines(setFiltered), r.pairs(setVMAllow), r.pairs(setVMDeny)
	for _, s := range []*nftables.Set{proxied, filtered, vmAllow, vmDeny} {
		s.Table = t
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	for _, e := range egresses {
		if err := r.change(c, Egress{}, e); err != nil {
			return err
		}
	}

	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Table: t, Name: name, Type: kind, Hooknum: hook, Priority: prio})
	}
	plain := func(name string) *nftables.Chain { return c.AddChain(&nftables.Chain{Table: t, Name: name}) }
	rule := func(ch *nftables.Chain, parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: slices.Concat(parts...)})
	}
	gateway := r.Gateway.Addr()

	refuse, egress, policy, ingress, host, netd := plain("refuse"), plain("egress"), plain("policy"), plain("ingress"), plain("host"), plain("netd")
	// A refusal with its reason, which netd writes into the machine's log.
	refusal := func(reason string) *nftables.Chain {
		ch := plain("refuse_" + reason)
		rule(ch, r.log(logged, "deny "+reason))
		rule(ch, jump(refuse))
		return ch
	}
	allowed := plain("allowed")
	rule(allowed, r.log(logged, "allow"))
	rule(allowed, counter(), accept())
	private, denied, quic, busy := refusal(domain.EgressPrivate), refusal(domain.EgressPolicyDenied), refusal(domain.EgressQUIC), refusal(domain.EgressBusy)
	pre := base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	forward := base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	input := base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	output := base("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter)
	post := base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)

	// A reset is a prompt answer that the kernel does not ration; ICMP errors
	// are limited to one a second and peer (icmp_ratelimit).
	rule(refuse, l4proto(unix.IPPROTO_TCP), counter(), one(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}))
	rule(refuse, counter(), one(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}))

	// Whom names are asked of does not matter: netd answers for everybody.
	isProxied := slices.Concat(address(true, 1), lookup(proxied, 1))
	isFiltered := slices.Concat(address(true, 1), lookup(filtered, 1))
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		rule(pre, iif(r.Bridge), ipv4(), isProxied, l4proto(proto), port(53), redirect(r.DNSPort))
		rule(pre, iif(r.Bridge), ipv4(), isFiltered, destination(gateway), l4proto(proto), port(53), redirect(r.DNSPort))
	}
	rule(pre, iif(r.Bridge), ipv4(), isProxied, l4proto(unix.IPPROTO_TCP), redirect(r.ProxyPort))

	rule(forward, iif(r.Bridge), jump(egress))
	rule(forward, oif(r.Bridge), jump(ingress))

	rule(egress, oif(r.Bridge), jump(private)) // one machine to another through the gateway, before all exceptions
	rule(egress, ct(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())
	rule(egress, ct(expr.CtStateBitINVALID), drop())
	rule(egress, notIPv4(), jump(private))
	// ct count over N, by source: one machine cannot fill the host's connection table.
	rule(egress, address(true, 1), one(&expr.Dynset{
		SrcRegKey: 1, SetName: connections.Name, SetID: connections.ID, Operation: uint32(unix.NFT_DYNSET_OP_ADD),
		Exprs: one(&expr.Connlimit{Count: uint32(r.Connections), Flags: expr.NFT_CONNLIMIT_F_INV}),
	}), jump(busy))
	rule(egress, address(false, 1), lookup(allow, 1), jump(policy))
	rule(egress, address(false, 1), lookup(deny, 1), jump(private))
	rule(egress, jump(policy))

	// Source and destination lie side by side in the header.
	addresses := one(&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 8, DestRegister: 1})
	rule(policy, addresses, lookup(vmAllow, 1), jump(allowed))
	rule(policy, addresses, lookup(vmDeny, 1), jump(denied))
	rule(policy, isProxied, l4proto(unix.IPPROTO_UDP), port(443), jump(quic))
	rule(policy, jump(allowed))

	rule(ingress, ct(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())
	rule(ingress, counter(), drop())

	rule(input, iif(r.Bridge), jump(host))
	// The resolver serves machines, not the host's neighbours (weak host model).
	rule(input, notIif("lo"), ipv4(), destination(gateway), counter(), drop())

	rule(host, ct(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())
	rule(host, notIPv4(), drop())
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		rule(host, destination(gateway), l4proto(proto), port(53), accept())
		rule(host, isFiltered, destination(gateway), l4proto(proto), port(r.DNSPort), accept())
	}
	rule(host, isProxied, destination(gateway), l4proto(unix.IPPROTO_TCP), port(r.ProxyPort), accept())
	rule(host, destination(gateway), l4proto(unix.IPPROTO_ICMP), transport(0, 1, []byte{8}), accept()) // echo request
	rule(host, jump(private))

	// netd connects for machines, and reads what they send: should one take it
	// over, it reaches no more than they do, but for resolvers.
	rule(output, equal(meta(expr.MetaKeySKUID), binaryutil.NativeEndian.PutUint32(r.NetdUser)), jump(netd))
	rule(netd, ct(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		rule(netd, l4proto(proto), port(53), accept())
		for _, at := range r.Resolvers {
			if at.Addr().Is4() {
				rule(netd, ipv4(), destination(at.Addr()), l4proto(proto), port(at.Port()), accept())
			}
		}
	}
	rule(netd, notIPv4(), jump(refuse))
	rule(netd, localDestination(), jump(refuse))
	rule(netd, oif(r.Bridge), jump(refuse))
	rule(netd, address(false, 1), lookup(allow, 1), accept())
	rule(netd, address(false, 1), lookup(deny, 1), jump(refuse))

	rule(post, ipv4(), source(r.Gateway), notOif(r.Bridge), counter(), one(&expr.Masq{}))
	return nil
}

// log sends the beginning of the packet to netd, unless the machine sends too
// many: who floods burns neither netd's time nor the others' place in the
// queue. A rule with it does not go on when there are too many, so that it
// decides nothing else.
func (r Rules) log(logged *nftables.Set, prefix string) []expr.Any {
	return append(address(true, 1),
		&expr.Dynset{
			SrcRegKey: 1, SetName: logged.Name, SetID: logged.ID, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE),
			Exprs: one(&expr.Limit{Type: expr.LimitTypePkts, Rate: logPerSecond, Unit: expr.LimitTimeSecond, Burst: logBurst}),
		},
		&expr.Log{
			Key:   1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_SNAPLEN,
			Group: r.LogGroup, Snaplen: logBytes, Data: []byte(prefix),
		})
}

// addressSet makes an interval set of IPv4 networks.
func addressSet(c *nftables.Conn, t *nftables.Table, name string, of []netip.Prefix) (*nftables.Set, error) {
	s := &nftables.Set{Table: t, Name: name, KeyType: nftables.TypeIPAddr, Interval: true}
	return s, c.AddSet(s, intervals(of))
}

// span is a range of addresses; to is exclusive.
type span struct{ from, to uint64 }

// spans turns networks into ranges that are ascending and apart.
func spans(of []netip.Prefix) []span {
	all := make([]span, 0, len(of))
	for _, p := range of {
		b := p.Masked().Addr().As4()
		from := uint64(binary.BigEndian.Uint32(b[:]))
		all = append(all, span{from, from + 1<<(32-p.Bits())})
	}
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var out []span
	for _, s := range all {
		if n := len(out); n > 0 && s.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, s.to)
			continue
		}
		out = append(out, s)
	}
	return out
}

// intervals turns networks into the half-open intervals that the kernel
// wants: ascending, apart, an end that is not in it, none after the last address.
func intervals(of []netip.Prefix) []nftables.SetElement {
	var out []nftables.SetElement
	for _, s := range spans(of) {
		out = append(out, nftables.SetElement{Key: binary.BigEndian.AppendUint32(nil, uint32(s.from))})
		if s.to < 1<<32 {
			out = append(out, nftables.SetElement{Key: binary.BigEndian.AppendUint32(nil, uint32(s.to)), IntervalEnd: true})
		}
	}
	return out
}
