package firewall

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Change puts a machine's policy in the place of the one that is in force, in
// one transaction. The zero Egress is none.
func (r Rules) Change(from, to Egress) error {
	c, err := connect()
	if err != nil {
		return err
	}
	if err := r.change(c, from, to); err != nil {
		return errors.Wrap(err, errors.Internal, "cannot describe a machine's egress policy")
	}
	if err := c.Flush(); err != nil && (!errors.Is(err, unix.ENOENT) || to.IP.IsValid()) {
		return errors.Wrap(err, errors.Unavailable, "cannot change a machine's egress policy")
	}
	return nil
}

// maxElements go into one message, whose attributes have 16 bits for their length.
const maxElements = 256

func (r Rules) change(c *nftables.Conn, from, to Egress) error {
	for _, s := range []struct {
		set      *nftables.Set
		old, new []nftables.SetElement
	}{
		{r.machines(setProxied), from.machine(from.Proxied), to.machine(to.Proxied)},
		{r.machines(setFiltered), from.machine(from.Filtered), to.machine(to.Filtered)},
		{r.pairs(setVMAllow), from.pairs(true), to.pairs(true)},
		{r.pairs(setVMDeny), from.pairs(false), to.pairs(false)},
	} {
		same := func(in []nftables.SetElement) func(nftables.SetElement) bool {
			return func(e nftables.SetElement) bool {
				return slices.ContainsFunc(in, func(o nftables.SetElement) bool {
					return slices.Equal(o.Key, e.Key) && slices.Equal(o.KeyEnd, e.KeyEnd)
				})
			}
		}
		// What goes goes first: elements of one set must not overlap.
		for part := range slices.Chunk(slices.DeleteFunc(slices.Clone(s.old), same(s.new)), maxElements) {
			if err := c.SetDeleteElements(s.set, part); err != nil {
				return err
			}
		}
		for part := range slices.Chunk(slices.DeleteFunc(slices.Clone(s.new), same(s.old)), maxElements) {
			if err := c.SetAddElements(s.set, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// machines describes a set of machines.
func (r Rules) machines(name string) *nftables.Set {
	return &nftables.Set{
		Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: r.Table}, Name: name, KeyType: nftables.TypeIPAddr,
	}
}

// pairs describes a set of machines with the networks that their policies name.
func (r Rules) pairs(name string) *nftables.Set {
	return &nftables.Set{
		Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: r.Table}, Name: name, Interval: true, Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr),
	}
}

func (e Egress) machine(is bool) []nftables.SetElement {
	if !is {
		return nil
	}
	return []nftables.SetElement{{Key: e.IP.AsSlice()}}
}

func (e Egress) pairs(allow bool) []nftables.SetElement {
	networks := e.Deny
	if allow {
		networks = e.Allow
	}
	var out []nftables.SetElement
	for _, s := range spans(networks) {
		out = append(out, nftables.SetElement{
			Key:    binary.BigEndian.AppendUint32(slices.Clone(e.IP.AsSlice()), uint32(s.from)),
			KeyEnd: binary.BigEndian.AppendUint32(slices.Clone(e.IP.AsSlice()), uint32(s.to-1)),
		})
	}
	return out
}
