package service_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// ApplyEgress has nothing to put in force: no machine runs.
func (node) ApplyEgress(context.Context, domain.ID) error { return nil }

// What headers say is stored encrypted alone, beside the environment, and
// nobody gets to read it; it goes with the VM's rules.
func TestHeaderRulesAreSecret(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	policy := func(value string) *domain.EgressPolicy {
		return &domain.EgressPolicy{Rules: []domain.HeaderRule{{Host: "api.test", Headers: map[string]string{"authorization": value}}},
			Proxy: &domain.EgressProxy{Address: "Proxy.test:1080", Username: "u", Password: value}}
	}
	vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Network: domain.NetworkNAT, Egress: policy("Bearer secret-1"), Env: map[string]string{"A": "b"}})
	must(t, err)
	check := func(what, value string) {
		t.Helper()
		row, err := b.GetVM(b.ctx, b.by, vm.ID)
		must(t, err)
		if text := fmt.Sprintf("%+v", *row); strings.Contains(text, "secret-") || len(row.Spec.Egress.Rules) > 0 != (value != "") {
			t.Errorf("%s: stored is %s", what, text)
		}
		e, err := service.OpenEgress(b.ctx, b.sealer, row)
		must(t, err)
		rules := e.Rules
		if (e.Proxy != nil) != (value != "") || e.Proxy != nil && e.Proxy.Password != value {
			t.Errorf("%s: the proxy is %+v", what, e.Proxy)
		}
		if value == "" && len(rules) != 0 || value != "" && (len(rules) != 1 || rules[0].Headers["Authorization"] != value) {
			t.Errorf("%s: %+v", what, rules)
		}
		if env, err := service.OpenEnv(b.ctx, b.sealer, row); err != nil || len(env) != 1 || env["A"] != "b" {
			t.Errorf("%s: the environment is %v, %v", what, env, err)
		}
		if p, _, err := b.VMEgress(b.ctx, b.by, vm.ID); err != nil || strings.Contains(fmt.Sprint(p), "secret-") {
			t.Errorf("%s: told is %+v, %v", what, p, err)
		}
	}
	check("created", "Bearer secret-1")
	// It could be told what it asks for at this very moment, without the rules.
	if _, err := b.SetVMEgress(b.ctx, b.by, vm.ID, *policy("secret-2")); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("while it starts: %v", err)
	}
	must(t, b.observe(vm.ID, domain.Running))
	for _, value := range []string{"Bearer secret-2", domain.Hidden, ""} {
		p := domain.EgressPolicy{Deny: []string{"*"}}
		if value != "" {
			p = *policy(value)
		}
		if value == domain.Hidden {
			value = "Bearer secret-2" // stays
		}
		told, err := b.SetVMEgress(b.ctx, b.by, vm.ID, p)
		if strings.Contains(fmt.Sprint(told, err), "secret-") {
			t.Errorf("told is %+v, %v", told, err)
		}
		check("set to "+value, value)
	}
	if _, err := b.SetVMEgress(b.ctx, b.by, vm.ID, *policy(domain.Hidden)); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("nothing that could stay: %v", err)
	}
	if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Network: domain.NetworkNAT, Egress: policy(domain.Hidden)}); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("nothing that could stay, at a creation: %v", err)
	}
	_, err = b.SetVMEgress(b.ctx, b.by, vm.ID, *policy("secret-3\nHost: x"))
	if !errors.HasCode(err, errors.InvalidArgument) || strings.Contains(err.Error(), "secret-") {
		t.Errorf("%v", err)
	}
}
