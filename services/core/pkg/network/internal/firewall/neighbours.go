package firewall

import (
	"bytes"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// A host's other firewalls also judge machines' packets: each base chain of a
// hook must let a packet pass. Docker, ufw and others set the policy DROP on
// iptables' FORWARD, ufw on INPUT as well, so those chains get a rule that
// lets the instance's bridge through to our own table. The rules are the same
// expressions that `iptables -I … -i BRIDGE -j ACCEPT` makes, so iptables-nft
// shows and handles them; they are known by the bridge's name.

// place is an iptables-nft chain in table ip filter, and whether to match the
// bridge as input or output.
type place struct {
	chain  string
	output bool
}

// MakeWay inserts the rules where a chain would otherwise drop machines'
// packets, and tells in which chains. It is idempotent.
func MakeWay(bridge string) ([]string, error) {
	c, err := connect()
	if err != nil {
		return nil, err
	}
	chains, err := filterChains(c)
	if err != nil {
		return nil, err
	}
	var places []place
	if drops(chains["FORWARD"]) {
		in := "FORWARD"
		if chains["DOCKER-USER"] != nil {
			in = "DOCKER-USER" // the chain Docker leaves to others and keeps across restarts
		}
		places = append(places, place{in, false}, place{in, true})
	}
	if drops(chains["INPUT"]) {
		places = append(places, place{"INPUT", false})
	}
	var made []string
	for _, p := range places {
		ch := chains[p.chain]
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return nil, errors.Wrap(err, errors.Unavailable, "cannot read the chain %s", p.chain)
		}
		there := false
		for _, r := range rules {
			there = there || (mentions(r, bridge) && matchesOutput(r) == p.output)
		}
		if !there {
			match := iif(bridge)
			if p.output {
				match = oif(bridge)
			}
			c.InsertRule(&nftables.Rule{Table: ch.Table, Chain: ch, Exprs: append(append(match, counter()...), accept()...)})
		}
		if len(made) == 0 || made[len(made)-1] != p.chain {
			made = append(made, p.chain)
		}
	}
	if err := c.Flush(); err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot let machines through the host's iptables rules")
	}
	return made, nil
}

// GiveWayBack removes every rule of table ip filter that names the bridge.
func GiveWayBack(bridge string) error {
	c, err := connect()
	if err != nil {
		return err
	}
	chains, err := filterChains(c)
	if err != nil {
		return err
	}
	for name, ch := range chains {
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return errors.Wrap(err, errors.Unavailable, "cannot read the chain %s", name)
		}
		for _, r := range rules {
			if !mentions(r, bridge) {
				continue
			}
			if err := c.DelRule(r); err != nil {
				return errors.Wrap(err, errors.Internal, "cannot describe a rule to remove")
			}
		}
	}
	if err := c.Flush(); err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot remove the instance's rules from iptables")
	}
	return nil
}

// Obstacles names the base chains of other firewalls that may drop machines'
// packets and that [MakeWay] does not open.
func Obstacles(table string) ([]string, error) {
	c, err := connect()
	if err != nil {
		return nil, err
	}
	all, err := c.ListChains()
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot list the nftables chains")
	}
	var out []string
	for _, ch := range all {
		ours := ch.Table.Name == table || strings.HasPrefix(ch.Table.Name, TablePrefix)
		opened := ch.Table.Family == nftables.TableFamilyIPv4 && ch.Table.Name == "filter"
		inet := ch.Table.Family == nftables.TableFamilyINet || ch.Table.Family == nftables.TableFamilyIPv4
		forwards := ch.Hooknum != nil && (*ch.Hooknum == *nftables.ChainHookForward || *ch.Hooknum == *nftables.ChainHookInput)
		if !ours && !opened && inet && forwards && drops(ch) {
			out = append(out, "chain "+ch.Name+" of nftables table "+ch.Table.Name+" drops by default")
		}
	}
	// The older iptables, beside nftables, is not visible through it.
	if raw, err := os.ReadFile("/proc/net/ip_tables_names"); err == nil && bytes.Contains(raw, []byte("filter")) {
		out = append(out, "iptables-legacy has a filter table: its FORWARD and INPUT chains must accept the bridge")
	}
	return out, nil
}

// TablePrefix begins the name of every instance's tables.
const TablePrefix = "aetherium_"

func filterChains(c *nftables.Conn) (map[string]*nftables.Chain, error) {
	all, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot list the nftables chains")
	}
	out := map[string]*nftables.Chain{}
	for _, ch := range all {
		if ch.Table.Name == "filter" {
			out[ch.Name] = ch
		}
	}
	return out, nil
}

func drops(ch *nftables.Chain) bool {
	return ch != nil && ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
}

func mentions(r *nftables.Rule, bridge string) bool {
	for _, e := range r.Exprs {
		if cmp, ok := e.(*expr.Cmp); ok && string(bytes.TrimRight(cmp.Data, "\x00")) == bridge {
			return true
		}
	}
	return false
}

func matchesOutput(r *nftables.Rule) bool {
	for _, e := range r.Exprs {
		if m, ok := e.(*expr.Meta); ok && m.Key == expr.MetaKeyOIFNAME {
			return true
		}
	}
	return false
}
