package firewall

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The small words that rules are made of, each as nft(8) would compile it.

func one(e ...expr.Any) []expr.Any { return e }

func equal(load expr.Any, data []byte) []expr.Any {
	return one(load, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data})
}

func unequal(load expr.Any, data []byte) []expr.Any {
	return one(load, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: data})
}

func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: 1} }

func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func iif(name string) []expr.Any    { return equal(meta(expr.MetaKeyIIFNAME), ifname(name)) }
func oif(name string) []expr.Any    { return equal(meta(expr.MetaKeyOIFNAME), ifname(name)) }
func notIif(name string) []expr.Any { return unequal(meta(expr.MetaKeyIIFNAME), ifname(name)) }
func notOif(name string) []expr.Any { return unequal(meta(expr.MetaKeyOIFNAME), ifname(name)) }

// iifPrefix compares as many bytes as are given: nft's iifname "prefix*".
func iifPrefix(prefix string) []expr.Any { return equal(meta(expr.MetaKeyIIFNAME), []byte(prefix)) }

func ipv4() []expr.Any    { return equal(meta(expr.MetaKeyNFPROTO), []byte{unix.NFPROTO_IPV4}) }
func notIPv4() []expr.Any { return unequal(meta(expr.MetaKeyNFPROTO), []byte{unix.NFPROTO_IPV4}) }

func l4proto(p byte) []expr.Any { return equal(meta(expr.MetaKeyL4PROTO), []byte{p}) }

// address loads an IPv4 packet's source or destination. The caller knows that it is IPv4.
func address(source bool, reg uint32) []expr.Any {
	offset := uint32(16)
	if source {
		offset = 12
	}
	return one(&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4, DestRegister: reg})
}

func destination(ip netip.Addr) []expr.Any {
	return append(address(false, 1), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ip.AsSlice()})
}

func source(in netip.Prefix) []expr.Any {
	return append(address(true, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.CIDRMask(in.Bits(), 32), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: in.Masked().Addr().AsSlice()})
}

func network(offset, length uint32, data []byte) []expr.Any {
	return equal(&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length, DestRegister: 1}, data)
}

func transport(offset, length uint32, data []byte) []expr.Any {
	return equal(&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length, DestRegister: 1}, data)
}

// port compares the destination port, which UDP and TCP have in the same place.
func port(n uint16) []expr.Any { return transport(2, 2, binary.BigEndian.AppendUint16(nil, n)) }

func etherType(t uint16) []expr.Any {
	return equal(&expr.Payload{Base: expr.PayloadBaseLLHeader, Offset: 12, Len: 2, DestRegister: 1}, binary.BigEndian.AppendUint16(nil, t))
}

// ct matches any of the connection states.
func ct(states uint32) []expr.Any {
	return one(
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(states), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	)
}

func lookup(s *nftables.Set, reg uint32) []expr.Any {
	return one(&expr.Lookup{SourceRegister: reg, SetName: s.Name, SetID: s.ID})
}

// localDestination matches packets to an address of this host.
func localDestination() []expr.Any {
	return one(
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	)
}

// redirect sends to a port of the interface that the packet came in at.
func redirect(to uint16) []expr.Any {
	return one(
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, to)},
		&expr.Redir{RegisterProtoMin: 1, Flags: nfNATRangeProtoSpecified},
	)
}

// nfNATRangeProtoSpecified is NF_NAT_RANGE_PROTO_SPECIFIED of linux/netfilter/nf_nat.h.
const nfNATRangeProtoSpecified = 1 << 1

func counter() []expr.Any { return one(&expr.Counter{}) }
func accept() []expr.Any  { return one(&expr.Verdict{Kind: expr.VerdictAccept}) }
func drop() []expr.Any    { return one(&expr.Verdict{Kind: expr.VerdictDrop}) }

func jump(to *nftables.Chain) []expr.Any {
	return one(&expr.Verdict{Kind: expr.VerdictJump, Chain: to.Name})
}
