// Package firewall keeps an instance's nftables rules: one table of family
// inet for what machines may reach, one of family bridge against forged
// addresses. Both have the instance's name. Machines are elements of sets;
// the rules are the same for one machine as for a thousand.
package firewall

import (
	"net"
	"net/netip"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Rules is what an instance's tables say.
type Rules struct {
	Table       string       // the name of both tables
	Bridge      string       // the instance's bridge
	PortPrefix  string       // what the names of its ports begin with, and no other link's
	Gateway     netip.Prefix // the bridge's address and the subnet
	Deny, Allow []netip.Prefix
	Connections int // that one machine may have open at a time

	// NetdUser is whom netd runs as; its ports are on the gateway's address.
	NetdUser           uint32
	ProxyPort, DNSPort uint16
	Resolvers          []netip.AddrPort // that netd asks, beside those on port 53
	LogGroup           uint16           // NFLOG group that netd reads
}

// Member is a machine's port with the only addresses it may send from.
type Member struct {
	Interface string
	MAC       net.HardwareAddr
	IP        netip.Addr
}

// Egress is what a machine's policy means in the kernel.
type Egress struct {
	IP          netip.Addr
	Allow, Deny []netip.Prefix // Allow beats Deny; the rest is allowed
	Proxied     bool           // TCP, and DNS wherever it is sent, go through netd
	Filtered    bool           // questions to the gateway are answered as for Proxied
}

// The sets.
const (
	setLogged      = "logged"
	setProxied     = "proxied"
	setFiltered    = "filtered"
	setVMAllow     = "vm_allow"
	setVMDeny      = "vm_deny"
	setMembers     = "members"
	setDeny        = "deny"
	setAllow       = "allow"
	setConnections = "connections"
)

// Install puts the tables in place with these members and policies, replacing
// what was there, in one transaction: there is no moment without rules.
// Returns Unsupported when the kernel lacks a part of nftables.
func (r Rules) Install(members []Member, policies []Egress) error {
	c, err := connect()
	if err != nil {
		return err
	}
	if err := r.inet(c, policies); err != nil {
		return errors.Wrap(err, errors.Internal, "cannot describe the egress rules")
	}
	if err := r.guard(c, members); err != nil {
		return errors.Wrap(err, errors.Internal, "cannot describe the guard rules")
	}
	if err := c.Flush(); err != nil {
		return errors.Wrap(err, errors.Unsupported, "the kernel refused the instance's nftables rules").
			WithHint("it needs nf_tables with the inet and bridge families, nft_ct, nft_masq, nft_redir, nft_fib_inet, nft_log, nft_reject_inet, nft_connlimit")
	}
	return nil
}

// Add lets a machine send.
func (r Rules) Add(m Member) error {
	c, err := connect()
	if err != nil {
		return err
	}
	if err := c.SetAddElements(r.members(), []nftables.SetElement{m.element()}); err != nil {
		return errors.Wrap(err, errors.Internal, "cannot describe a machine's guard entry")
	}
	if err := c.Flush(); err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot add a machine to the guard")
	}
	return nil
}

// Remove stops a machine from sending. Absent is success.
func (r Rules) Remove(m Member) error {
	c, err := connect()
	if err != nil {
		return err
	}
	if err := c.SetDeleteElements(r.members(), []nftables.SetElement{m.element()}); err != nil {
		return errors.Wrap(err, errors.Internal, "cannot describe a machine's guard entry")
	}
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return errors.Wrap(err, errors.Unavailable, "cannot remove a machine from the guard")
	}
	return nil
}

// Uninstall removes both tables. Absent is success.
func Uninstall(table string) error {
	c, err := connect()
	if err != nil {
		return err
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
		t := &nftables.Table{Family: family, Name: table}
		// Adding first makes deleting succeed whether it was there or not.
		c.AddTable(t)
		c.DelTable(t)
	}
	if err := c.Flush(); err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot remove the instance's nftables rules")
	}
	return nil
}

// Installed reports whether the instance's tables are there.
func Installed(table string) (bool, error) {
	c, err := connect()
	if err != nil {
		return false, err
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
		tables, err := c.ListTablesOfFamily(family)
		if err != nil {
			return false, errors.Wrap(err, errors.Unavailable, "cannot list the nftables tables")
		}
		found := false
		for _, t := range tables {
			found = found || t.Name == table
		}
		if !found {
			return false, nil
		}
	}
	return true, nil
}

func connect() (*nftables.Conn, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "nftables cannot be reached on this host").
			WithHint("the kernel needs nf_tables: modprobe nf_tables")
	}
	return c, nil
}

// fresh replaces a table by an empty one in the transaction under way.
func fresh(c *nftables.Conn, family nftables.TableFamily, name string) *nftables.Table {
	t := &nftables.Table{Family: family, Name: name}
	c.AddTable(t)
	c.DelTable(t)
	return c.AddTable(t)
}
