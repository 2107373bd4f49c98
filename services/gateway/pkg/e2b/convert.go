package e2b

import (
	"math"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	mib = 1 << 20
	// everything is how E2B's clients write domain.AnyDestination.
	everything = "0.0.0.0/0"
	// farAway is the end of a sandbox that has none: its clients need one.
	farAway = 100
)

// toCreate translates a request. Returns InvalidArgument and Unsupported.
func toCreate(b createBody, defaultSeconds int64) (vmm.CreateVM, error) {
	timeout, err := seconds(b.Timeout, defaultSeconds)
	if err != nil {
		return vmm.CreateVM{}, err
	}
	req := vmm.CreateVM{
		Template: refOf(b.TemplateID), Env: b.EnvVars, Metadata: b.Metadata, Timeout: &timeout, OnTimeout: domain.TimeoutKill,
		AutoResume: b.AutoResume != nil && b.AutoResume.Enabled, ResumeFor: max(timeout, resumeFor),
		Previews: domain.Previews{Public: true}, Mounts: toMounts(b.VolumeMounts),
	}
	if b.AutoPause {
		req.OnTimeout = domain.TimeoutPause
		if b.AutoPauseMemory != nil && !*b.AutoPauseMemory {
			req.OnTimeout = domain.TimeoutStop
		}
	}
	if given(b.IAM) {
		return req, unsupported("iam", "identities of sandboxes are not supported")
	}
	n := network{}
	if b.Network != nil {
		n = *b.Network
	}
	p, err := toEgress(n, b.AllowInternetAccess)
	if err != nil {
		return req, err
	}
	if !p.IsZero() {
		req.Egress = &p
	}
	if n.AllowPublicTraffic != nil {
		req.Previews.Public = *n.AllowPublicTraffic
	}
	req.Previews.Host = n.MaskRequestHost
	for _, port := range n.HTTPSPorts {
		if port < 1 || port > math.MaxUint16 {
			return req, errors.New(errors.InvalidArgument, "%d is not a port", port).WithField("network.httpsPorts")
		}
		req.Previews.HTTPS = append(req.Previews.HTTPS, uint16(port))
	}
	return req, nil
}

func unsupported(field, why string) error {
	return errors.New(errors.Unsupported, "%s", why).WithField(field)
}

// given reports whether a field of any form says something.
func given(raw []byte) bool {
	switch string(raw) {
	case "", "null", "{}", "[]":
		return false
	}
	return true
}

// toEgress translates what a sandbox may reach.
func toEgress(n network, internet *bool) (domain.EgressPolicy, error) {
	switch {
	case n.DNSServers != nil && len(n.DNSServers) == 0:
		return domain.EgressPolicy{}, unsupported("network.dnsServers", "a sandbox without any DNS server is not supported")
	case n.EgressProxy != nil && given(n.EgressProxy.TLS):
		return domain.EgressPolicy{}, unsupported("network.egressProxy.tls", "egress proxies are not spoken to by TLS")
	}
	rules, err := toRules(n.Rules)
	if err != nil {
		return domain.EgressPolicy{}, err
	}
	p := domain.EgressPolicy{Allow: n.AllowOut, Deny: n.DenyOut, DNS: n.DNSServers, Rules: rules}
	if e := n.EgressProxy; e != nil {
		p.Proxy = &domain.EgressProxy{Address: e.Address, Username: e.Username, Password: e.Password}
	}
	if internet != nil && !*internet {
		p.Deny = append(slices.Clone(p.Deny), domain.AnyDestination)
	}
	return p, nil
}

// toRules translates what is done to requests by host: of a host's rules the
// last that sets a header counts. Those that set none are names for allowOut alone.
func toRules(by map[string][]rule) ([]domain.HeaderRule, error) {
	var out []domain.HeaderRule
	for host, rules := range by {
		headers := map[string]string{}
		for _, r := range rules {
			if r.Transform == nil {
				continue
			}
			for name, value := range r.Transform.Headers {
				if strings.Contains(value, identityToken) {
					return nil, unsupported("network.rules", "identities of sandboxes are not supported, in headers neither")
				}
				headers[textproto.CanonicalMIMEHeaderKey(name)] = value
			}
		}
		if len(headers) > 0 {
			out = append(out, domain.HeaderRule{Host: host, Headers: headers})
		}
	}
	return out, nil
}

// identityToken begins what E2B puts a sandbox's identity in the place of.
const identityToken = "${e2b.identity."

func fromRules(rules []domain.HeaderRule) map[string][]rule {
	out := make(map[string][]rule, len(rules))
	for _, r := range rules {
		out[r.Host] = []rule{{Transform: &transform{Headers: r.Told()}}}
	}
	return out
}

// fromEgress is toEgress backwards.
func fromEgress(vm *domain.VM) (n *network, internet *bool) {
	shown := func(entries []string) []string {
		out := slices.Clone(entries)
		for i, e := range out {
			if e == domain.AnyDestination {
				out[i] = everything
			}
		}
		return out
	}
	p, public := vm.Spec.Egress, vm.Spec.Previews.Public
	var https []int
	for _, port := range vm.Spec.Previews.HTTPS {
		https = append(https, int(port))
	}
	reaches := vm.Spec.Network != domain.NetworkNone && !slices.Contains(p.Deny, domain.AnyDestination)
	var proxy *egressProxy
	if p.Proxy != nil {
		proxy = &egressProxy{Address: p.Proxy.Address, Username: p.Proxy.Username}
	}
	return &network{
		AllowPublicTraffic: &public, AllowOut: shown(p.Allow), DenyOut: shown(p.Deny), MaskRequestHost: vm.Spec.Previews.Host,
		HTTPSPorts: https, DNSServers: p.DNS, Rules: fromRules(p.Rules), EgressProxy: proxy,
	}, &reaches
}

// templateOf is what a VM was made from, and the name by which that was asked for.
func templateOf(vm *domain.VM) (id, alias string) {
	for _, from := range []domain.ID{vm.Spec.SnapshotID, vm.Spec.TemplateID, vm.Spec.BuildID} {
		if from != "" {
			id = from.String()
			break
		}
	}
	name, _, _ := strings.Cut(vm.Spec.Template, ":")
	if !domain.IsID(name) {
		alias = name
	}
	if id == "" {
		id = name
	}
	return id, alias
}

func stateOf(vm *domain.VM) string {
	if vm.Desired == domain.WantRunning {
		return stateRunning
	}
	return statePaused
}

// cpus is how many processors a VM has, as whole ones.
func cpus(vm *domain.VM) int64 { return max(1, (vm.Spec.Resources.MilliCPU+999)/1000) }

func (a *API) detail(r *http.Request, vm *domain.VM) detail {
	template, alias := templateOf(vm)
	d := detail{
		TemplateID: template, Alias: alias, SandboxID: vm.ID.String(), ClientID: clientID, EnvdVersion: envdVersion,
		StartedAt: vm.CreatedAt, EndAt: vm.CreatedAt.AddDate(farAway, 0, 0), State: stateOf(vm), CPUCount: cpus(vm),
		MemoryMB: vm.Spec.Resources.MemoryBytes / mib, DiskSizeMB: vm.Spec.Resources.DiskBytes / mib,
		Metadata: vm.Metadata, VolumeMounts: fromMounts(vm.Spec.Mounts), Domain: a.domainOf(r),
		Lifecycle: &lifecycle{OnTimeout: string(domain.TimeoutKill), AutoResume: vm.AutoResume},
	}
	if vm.OnTimeout != domain.TimeoutKill {
		d.Lifecycle.OnTimeout = string(domain.TimeoutPause)
	}
	if vm.Deadline != nil {
		d.EndAt = *vm.Deadline
	}
	d.StartedAt, d.EndAt = d.StartedAt.UTC().Truncate(time.Millisecond), d.EndAt.UTC().Truncate(time.Millisecond)
	d.Network, d.AllowInternetAccess = fromEgress(vm)
	return d
}
