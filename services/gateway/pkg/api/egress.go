package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/apiform"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

type (
	setEgressInput struct {
		VMPath
		Body wire.EgressPolicy
	}
	egressLogInput struct {
		VMPath
		After  int64 `query:"after" minimum:"0" doc:"Only entries behind this one's seq"`
		Limit  int   `query:"limit" minimum:"1" maximum:"1000" default:"1000"`
		WaitMS int64 `query:"wait_ms" minimum:"0" maximum:"60000" doc:"Wait so long for an entry when there is none yet"`
	}
	egressOutput        struct{ Body wire.VMEgress }
	egressLogOutput     struct{ Body *wire.List[wire.EgressEntry] }
	egressLearnedOutput struct{ Body wire.EgressPolicy }
)

func (a *API) egressRoutes() {
	const tag = "Egress"
	register(a, operation("get-vm-egress", http.MethodGet, "/vms/{vm}/egress", tag, "What a VM may reach", ""), options{scope: domain.ScopeRead}, a.getEgress)
	register(a, operation("set-vm-egress", http.MethodPut, "/vms/{vm}/egress", tag, "Change what a VM may reach",
		"Replaces the policy. When the answer comes it is in force, and connections that it refuses are cut."), options{scope: domain.ScopeRun}, a.setEgress)
	register(a, operation("get-vm-egress-log", http.MethodGet, "/vms/{vm}/egress/log", tag, "What a VM reached and was refused",
		"Oldest first. next_cursor is the seq to go on after; it is always there. The log is bounded: the oldest goes first."), options{scope: domain.ScopeRead}, a.egressLog)
	register(a, operation("get-vm-egress-learned", http.MethodGet, "/vms/{vm}/egress/learned", tag, "The policy that a VM needed",
		"By its log so far: all that it connected to, and nothing else. Best of a VM that learns, whose names are all seen."), options{scope: domain.ScopeRead}, a.egressLearned)
}

func (a *API) getEgress(ctx context.Context, in *VMPath) (*egressOutput, error) {
	by, id, err := a.resolve(ctx, *in)
	if err != nil {
		return nil, err
	}
	p, inForce, err := a.VMs.VMEgress(ctx, by, id)
	if err != nil {
		return nil, err
	}
	return &egressOutput{wire.VMEgress{EgressPolicy: apiform.EgressPolicy(p), InForce: inForce}}, nil
}

func (a *API) setEgress(ctx context.Context, in *setEgressInput) (*egressOutput, error) {
	by, id, err := a.resolve(ctx, in.VMPath)
	if err != nil {
		return nil, err
	}
	p, err := a.VMs.SetVMEgress(ctx, by, id, toEgress(in.Body))
	if err != nil {
		return nil, err
	}
	return &egressOutput{wire.VMEgress{EgressPolicy: apiform.EgressPolicy(p), InForce: true}}, nil
}

func (a *API) egressLog(ctx context.Context, in *egressLogInput) (*egressLogOutput, error) {
	by, id, err := a.resolve(ctx, in.VMPath)
	if err != nil {
		return nil, err
	}
	entries, err := a.VMs.VMEgressLog(ctx, by, id, vmm.EgressLogQuery{After: in.After, Limit: in.Limit, Wait: fromMS(in.WaitMS)})
	if err != nil {
		return nil, err
	}
	next := in.After
	if n := len(entries); n > 0 {
		next = entries[n-1].Seq
	}
	return &egressLogOutput{&wire.List[wire.EgressEntry]{Items: mapped(entries, egressEntry), NextCursor: strconv.FormatInt(next, 10)}}, nil
}

func (a *API) egressLearned(ctx context.Context, in *VMPath) (*egressLearnedOutput, error) {
	by, id, err := a.resolve(ctx, *in)
	if err != nil {
		return nil, err
	}
	p, err := a.VMs.VMEgressLearned(ctx, by, id)
	if err != nil {
		return nil, err
	}
	return &egressLearnedOutput{apiform.EgressPolicy(p)}, nil
}

func toEgress(p wire.EgressPolicy) domain.EgressPolicy {
	out := domain.EgressPolicy{Allow: p.Allow, Deny: p.Deny, Learn: p.Learn, DNS: p.DNS}
	for _, r := range p.Rules {
		out.Rules = append(out.Rules, domain.HeaderRule{Host: r.Host, Headers: r.Headers})
	}
	if p.Proxy != nil {
		out.Proxy = &domain.EgressProxy{Address: p.Proxy.Address, Username: p.Proxy.Username, Password: p.Proxy.Password}
	}
	return out
}

func egressEntry(e domain.EgressEntry) wire.EgressEntry {
	return wire.EgressEntry{
		Seq: e.Seq, At: time.UnixMicro(e.At).UTC(), Verdict: e.Verdict, Via: e.Via, Protocol: e.Proto, Name: e.Name, Address: e.Addr, Port: e.Port,
		Rule: e.Rule, Reason: e.Reason, Learned: e.Learned, SentBytes: e.Sent, ReceivedBytes: e.Got, Count: e.Count,
	}
}

func toSecretUse(u wire.SecretUse) domain.SecretUse {
	return domain.SecretUse{Name: u.Name, Env: u.Env, Hosts: u.Hosts}
}
