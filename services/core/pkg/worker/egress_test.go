package worker_test

import (
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

var (
	listed = domain.EgressPolicy{Allow: []string{"pypi.org"}, Deny: []string{"*"}}
	closed = domain.EgressPolicy{Deny: []string{"*"}}
)

// inForce checks what a VM's machine may reach now.
func (b *bed) inForce(what string, id domain.ID, want domain.EgressPolicy) {
	b.t.Helper()
	vm, err := b.GetVM(b.ctx, b.by, id)
	must(b.t, err)
	now, _ := b.node.Egress(string(vm.MachineID))
	if !reflect.DeepEqual(now.Policy, want) {
		b.t.Errorf("%s: in force is %+v, want %+v", what, now.Policy, want)
	}
	if p, inForce, err := b.VMEgress(b.ctx, b.by, id); err != nil || !inForce || !reflect.DeepEqual(p, want) {
		b.t.Errorf("%s: told is %+v, %t, %v", what, p, inForce, err)
	}
}

// A VM's policy is in force before its machine runs, whenever it does.
func TestEgressIsInForceBeforeTheMachineRuns(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	given := domain.EgressPolicy{Allow: []string{"PyPI.org."}, Deny: []string{"0.0.0.0/0"}}
	vm := b.running(vmm.CreateVM{Network: domain.NetworkNAT, Egress: &given})
	b.inForce("created", vm.ID, listed)
	if _, started := b.node.Egress(string(vm.MachineID)); !reflect.DeepEqual(started.Policy, listed) {
		t.Errorf("started with %+v", started.Policy)
	}
	_, err := b.SetVMEgress(b.ctx, b.by, vm.ID, closed)
	must(t, err)
	b.inForce("changed", vm.ID, closed)

	_, err = b.StopVM(b.ctx, b.by, vm.ID)
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	_, err = b.SetVMEgress(b.ctx, b.by, vm.ID, listed) // while it is stopped
	must(t, err)
	_, err = b.StartVM(b.ctx, b.by, vm.ID)
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	b.inForce("started again", vm.ID, listed)
	if _, started := b.node.Egress(string(vm.MachineID)); !reflect.DeepEqual(started.Policy, listed) {
		t.Errorf("started again with %+v", started.Policy)
	}
}

// Machines of the pool run before it is known whose they are.
func TestEgressOfAMachineFromThePool(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *worker.Config) { c.Pool = worker.PoolConfig{Size: 1, Kinds: 1} })
	b.running(vmm.CreateVM{Network: domain.NetworkNAT})
	_, err := b.worker.PoolReady(b.ctx)
	must(t, err)
	vm := b.running(vmm.CreateVM{Network: domain.NetworkNAT, Egress: &closed})
	b.inForce("from the pool", vm.ID, closed)
}

func TestEgressIsSaidAgainAfterARestart(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{Network: domain.NetworkNAT, Egress: &closed})
	plain := b.running(vmm.CreateVM{Network: domain.NetworkNAT})
	b.crash()
	must(t, fake.New(b.node).SetEgress(b.ctx, string(vm.MachineID), domain.Egress{})) // lost, as secrets are
	b.up()
	b.inForce("after the restart", vm.ID, closed)
	b.inForce("a VM without a policy", plain.ID, domain.EgressPolicy{})
}

// A change that the node does not take at once is stored, told so, and taken later.
func TestEgressThatIsNotInForceYet(t *testing.T) {
	t.Parallel()
	// Nothing but the sweep below takes it: the worker does not look by itself.
	b := newBed(t, func(c *worker.Config) { c.WishesEvery = time.Hour })
	vm := b.running(vmm.CreateVM{Network: domain.NetworkNAT})
	b.node.FailNext(fake.OpEgress, errors.New(errors.Unavailable, "no answer"))
	if _, err := b.SetVMEgress(b.ctx, b.by, vm.ID, closed); !errors.HasCode(err, errors.Unavailable) {
		t.Fatalf("%v", err)
	}
	if p, inForce, err := b.VMEgress(b.ctx, b.by, vm.ID); err != nil || inForce || !reflect.DeepEqual(p, closed) {
		t.Fatalf("%+v, %t, %v", p, inForce, err)
	}
	b.worker.Sweep(b.ctx)
	must(t, b.worker.AwaitEgress(b.ctx, vm.ID))
	b.inForce("after the sweep", vm.ID, closed)
}

// A machine that cannot be restricted does not run.
func TestEgressThatCannotBeEnforcedFailsTheVM(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.node.FailNext(fake.OpEgress, errors.New(errors.Unavailable, "netd is away"))
	vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Network: domain.NetworkNAT, Egress: &closed})
	must(t, err)
	if vm, err = b.WaitVM(b.ctx, b.by, vm.ID); err == nil || vm.Observed != domain.Failed {
		t.Fatalf("%s, %v", vm.Observed, err)
	}
}

// Copies are no way out: forks and VMs from a snapshot reach what their origin could.
func TestEgressIsInherited(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, err := b.PutSecret(b.ctx, b.by, "token", "value")
	must(t, err)
	uses := []domain.SecretUse{{Name: "token", Env: "TOKEN"}}
	vm := b.running(vmm.CreateVM{Network: domain.NetworkNAT, Egress: &closed, Secrets: uses})
	if out, _ := b.sh(vm.ID, "echo $TOKEN"); out != "value\n" {
		t.Errorf("the secret is %q", out)
	}
	snap, err := b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "s"})
	must(t, err)
	forks, err := b.ForkVM(b.ctx, b.by, vm.ID, 1, vmm.CreateVM{})
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, forks[0].ID)
	must(t, err)
	b.inForce("a fork", forks[0].ID, closed)
	if out, _ := b.sh(forks[0].ID, "echo $TOKEN"); out != "value\n" {
		t.Errorf("the fork's secret is %q", out)
	}
	again := b.running(vmm.CreateVM{Network: domain.NetworkNAT, Template: string(snap.ID)})
	b.inForce("from a snapshot", again.ID, closed)
	wider := b.running(vmm.CreateVM{Network: domain.NetworkNAT, Template: string(snap.ID), Egress: &domain.EgressPolicy{}, Secrets: []domain.SecretUse{}})
	b.inForce("from a snapshot, with a policy of its own", wider.ID, domain.EgressPolicy{})
	if out, _ := b.sh(wider.ID, "echo x$TOKEN"); out != "x\n" {
		t.Errorf("a secret nobody asked for is %q", out)
	}
}

func TestEgressOfRequests(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for field, req := range map[string]vmm.CreateVM{
		"egress":        {Network: domain.NetworkNone, Egress: &closed},
		"egress.allow":  {Network: domain.NetworkNAT, Egress: &domain.EgressPolicy{Allow: []string{"http://a"}}},
		"secrets.name":  {Network: domain.NetworkNAT, Secrets: []domain.SecretUse{{Name: "absent", Env: "A"}}},
		"secrets.env":   {Network: domain.NetworkNAT, Secrets: []domain.SecretUse{{Name: "absent", Env: "A B"}}},
		"secrets.hosts": {Network: domain.NetworkNAT, Secrets: []domain.SecretUse{{Name: "absent", Env: "A", Hosts: []string{"1.2.3.4"}}}},
	} {
		_, err := b.CreateVM(b.ctx, b.by, req)
		if e := errors.Public(err); e.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	none := b.running(vmm.CreateVM{})
	if _, err := b.SetVMEgress(b.ctx, b.by, none.ID, closed); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("a VM without a network: %v", err)
	}
	stranger := b.by
	stranger.ProjectID = domain.NewID()
	for what, err := range map[string]error{
		"set":  func() error { _, err := b.SetVMEgress(b.ctx, stranger, none.ID, domain.EgressPolicy{}); return err }(),
		"get":  func() error { _, _, err := b.VMEgress(b.ctx, stranger, none.ID); return err }(),
		"log":  func() error { _, err := b.VMEgressLog(b.ctx, stranger, none.ID, vmm.EgressLogQuery{}); return err }(),
		"need": func() error { _, err := b.VMEgressLearned(b.ctx, stranger, none.ID); return err }(),
	} {
		if !errors.HasCode(err, errors.NotFound) {
			t.Errorf("another project's VM, %s: %v", what, err)
		}
	}
}

// All VMs take over a secret's new value, also where the gateway that was told it
// dies before it has told them.
func TestASecretIsSetAgainAndItsGatewayDies(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, err := b.PutSecret(b.ctx, b.by, "token", "leaked")
	must(t, err)
	with := func(uses ...domain.SecretUse) *domain.VM {
		vm := b.running(vmm.CreateVM{Network: domain.NetworkNAT})
		b.wanted(vm.ID, func(row *domain.VM) { row.Spec.Secrets = uses }) // the fake machines have no proxy
		return vm
	}
	bound := domain.SecretUse{Name: "token", Env: "TOKEN", Hosts: []string{"api.example.com"}}
	before := []*domain.VM{with(bound), with(bound), with()}
	died := make(chan struct{})
	go func() {
		defer close(died)
		_, err := b.serve(leaves{bed: b, made: func() error { runtime.Goexit(); return nil }}, b.changes).PutSecret(b.ctx, b.by, "token", "new")
		t.Errorf("it lives on: %v", err)
	}()
	<-died
	for i, was := range before {
		now, err := b.GetVM(b.ctx, b.by, was.ID)
		must(t, err)
		if raised := now.EgressGen > was.EgressGen; raised != (i < 2) {
			t.Errorf("VM %d is to take over its egress: %t", i, raised)
		}
	}
}

// A VM outlives the secrets that it was given.
func TestSecretsThatAreGone(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, err := b.PutSecret(b.ctx, b.by, "token", "value")
	must(t, err)
	vm := b.running(vmm.CreateVM{Network: domain.NetworkNAT, Secrets: []domain.SecretUse{{Name: "token", Env: "TOKEN"}}})
	must(t, b.DeleteSecret(b.ctx, b.by, "token"))
	b.crash()
	b.up()
	if out, _ := b.sh(vm.ID, "echo x$TOKEN"); out != "x\n" {
		t.Errorf("after a restart: %q", out)
	}
	_, err = b.StopVM(b.ctx, b.by, vm.ID)
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	_, err = b.StartVM(b.ctx, b.by, vm.ID)
	must(t, err)
	if vm, err = b.WaitVM(b.ctx, b.by, vm.ID); err != nil || vm.Observed != domain.Running {
		t.Errorf("started again: %s, %v", vm.Observed, err)
	}
}

// The log stays as long as the VM's tombstone.
func TestEgressLogOutlivesTheVM(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{Network: domain.NetworkNAT})
	for _, e := range []domain.EgressEntry{
		{Verdict: domain.EgressAllow, Via: "dns", Proto: "dns", Name: "asked.com"},
		{Verdict: domain.EgressAllow, Via: "tls", Proto: "tcp", Name: "pypi.org", Addr: "203.0.113.7", Port: 443},
		{Verdict: domain.EgressDeny, Via: "kernel", Proto: "tcp", Addr: "10.0.0.1", Port: 22, Reason: domain.EgressPrivate},
		{Verdict: domain.EgressAllow, Via: "kernel", Proto: "udp", Addr: "203.0.113.9", Port: 123},
	} {
		b.node.LogEgress(string(vm.MachineID), e)
	}
	_, err := b.DeleteVM(b.ctx, b.by, vm.ID)
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	entries, err := b.VMEgressLog(b.ctx, b.by, vm.ID, vmm.EgressLogQuery{After: 1, Limit: 2})
	if err != nil || len(entries) != 2 || entries[0].Name != "pypi.org" {
		t.Errorf("%+v, %v", entries, err)
	}
	p, err := b.VMEgressLearned(b.ctx, b.by, vm.ID)
	if want := (domain.EgressPolicy{Allow: []string{"203.0.113.9", "pypi.org"}, Deny: []string{"*"}}); err != nil || !reflect.DeepEqual(p, want) {
		t.Errorf("%+v, %v", p, err)
	}
}
