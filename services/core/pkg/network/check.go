package network

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/firewall"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/hostlease"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/link"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd"
)

// Finding is one thing that was looked at on the host.
type Finding struct {
	Name   string             `json:"name"`
	Mode   domain.NetworkMode `json:"mode"` // the mode that needs it; both when none
	OK     bool               `json:"ok"`
	Detail string             `json:"detail"`
	Hint   string             `json:"hint,omitempty"` // what to do when it is not OK
}

// Counters gives the bytes that a machine has received and sent through its
// interface since Acquire; zero in mode none. Returns NotFound when the
// machine has no pair or its link is gone.
func (m *Manager) Counters(_ context.Context, machineID string) (received, sent int64, err error) {
	m.mu.Lock()
	p := m.machines[machineID]
	var rec record
	if p != nil {
		rec = p.rec
	}
	m.mu.Unlock()
	if p == nil || rec.State != stateClaimed {
		return 0, 0, errors.New(errors.NotFound, "the machine has no network")
	}
	if rec.Mode == domain.NetworkNone {
		return 0, 0, nil
	}
	return link.Counters(rec.Interface)
}

// Check looks at what the instance's network needs; see the function [Check].
func (m *Manager) Check(ctx context.Context) []Finding { return Check(ctx, m.cfg) }

// Check tells what of the network is usable on this host, and why not. It
// needs no manager and changes nothing that stays: namespaces and links are
// tried for real inside a network namespace that ends with the check.
func Check(ctx context.Context, cfg Config) []Finding {
	var out []Finding
	add := func(name string, mode domain.NetworkMode, err error, good string, args ...any) {
		f := Finding{Name: name, Mode: mode, OK: err == nil, Detail: fmt.Sprintf(good, args...)}
		if err != nil {
			f.Detail = err.Error()
			var coded *errors.Error
			if errors.As(err, &coded) {
				f.Hint = coded.Hint
			}
		}
		out = append(out, f)
	}
	full, err := cfg.withDefaults()
	add("configuration", domain.NetworkNone, err, "valid")
	if err != nil {
		return out
	}
	if os.Geteuid() != 0 {
		add("rights", domain.NetworkNone, errors.New(errors.PermissionDenied, "machines' networks need root").
			WithHint("run it as root or with sudo"), "")
		return out
	}
	try := tryKernel(ctx, full)
	add("namespaces", domain.NetworkNone, try.pair, "user and network namespaces can be made")
	if try.pair == nil {
		add("links", domain.NetworkNAT, try.links, "bridge, veth and port isolation work")
		add("nftables", domain.NetworkNAT, try.rules, "the egress and guard rules load")
	}
	m := &Manager{cfg: full}
	add("netd", domain.NetworkNAT, m.netdUsable(), "%s", full.NetdPath)
	add("resolver", domain.NetworkNAT, checkResolver(full), "%s", resolverList(full))
	add("forwarding", domain.NetworkNAT, checkForwarding(), "IPv4 forwarding is on, or is switched on and back by the first and last instance")
	add("firewalls", domain.NetworkNAT, checkFirewalls(full), "no other firewall is in the way, or it is one that gets an accept rule")
	add("leases", domain.NetworkNone, checkLeases(full), "every instance on this host can be read")
	return out
}

// kernelTry is what could be made in a namespace of its own.
type kernelTry struct{ pair, links, rules error }

func tryKernel(ctx context.Context, cfg Config) (t kernelTry) {
	dir, err := os.MkdirTemp("", "aetherium-check-")
	if err != nil {
		t.pair = errors.Wrap(err, errors.Unavailable, "cannot make a temporary directory")
		return t
	}
	defer func() { _ = os.Remove(dir) }()
	defer func() { _ = nspair.Remove(dir) }()
	pairs, err := nspair.NewMaker()
	if err != nil {
		t.pair = err
		return t
	}
	defer func() { _ = pairs.Close() }()
	if _, t.pair = pairs.Make(ctx, dir, cfg.IDHigh-IDCount, IDCount); t.pair != nil {
		return t
	}
	lease := hostlease.Lease{Instance: cfg.Instance, Prefix: interfacePrefix(cfg.Instance, 0), Subnet: cfg.Subnets[0], Blocks: []uint32{cfg.IDHigh - IDCount}}
	nat := (&Manager{cfg: cfg}).describe(lease, 1500)
	t.pair = nspair.InNet(dir+"/"+nspair.NetFile, func(int) error {
		t.links = link.Try(nat.bridge, lease.Prefix+"vcheck")
		t.rules = nat.guard.Install(nil, nil)
		return nil
	})
	return t
}

func checkResolver(cfg Config) error {
	if len(cfg.Resolvers) > 0 || len(netd.HostResolvers()) > 0 {
		return nil
	}
	return errors.New(errors.Unavailable, "the host has no resolver that machines' questions could go to").
		WithHint("add a nameserver to /etc/resolv.conf or configure the resolvers")
}

func resolverList(cfg Config) string {
	ask := cfg.Resolvers
	if len(ask) == 0 {
		ask = netd.HostResolvers()
	}
	var names []string
	for _, r := range ask {
		names = append(names, r.String())
	}
	return strings.Join(names, ", ")
}

func checkForwarding() error {
	_, err := hostlease.ReadSetting(forwardSetting)
	return err
}

func checkFirewalls(cfg Config) error {
	found, err := firewall.Obstacles(tableName(cfg.Instance))
	if err != nil || len(found) == 0 {
		return err
	}
	tool := "nft"
	if _, err := exec.LookPath("firewall-cmd"); err == nil {
		tool = "firewall-cmd"
	}
	return errors.New(errors.Conflict, "%s", strings.Join(found, "; ")).
		WithHint("let the bridge %s through, for instance with %s; machines may have no network otherwise",
			bridgeName(interfacePrefix(cfg.Instance, 0)), tool)
}

func checkLeases(cfg Config) error {
	leases, err := hostlease.Peek(cfg.HostDir)
	if err != nil {
		return err
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	for _, l := range leases {
		if _, err := os.Stat(l.RuntimeDir); l.BootID != boot || errors.Is(err, os.ErrNotExist) {
			return errors.New(errors.Conflict, "instance %s is gone and its lease is still there", l.Instance).
				WithHint("it is dropped when a server starts, unless processes or a bridge of it are left")
		}
	}
	return nil
}
