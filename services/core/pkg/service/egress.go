package service

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// checkEgress brings policy and secrets of a request into their one form.
func checkEgress(req *vmm.CreateVM) error {
	if req.Egress != nil {
		p, err := req.Egress.Normal("egress")
		if err == nil {
			p, err = p.Keeping("egress", domain.EgressPolicy{})
		}
		if err != nil {
			return err
		}
		if !p.IsZero() && req.Network == domain.NetworkNone {
			return errors.New(errors.InvalidArgument, "a VM with network none reaches nothing, whatever its egress policy says").WithField("egress").
				WithHint("leave the policy out, or take network nat")
		}
		req.Egress = &p
	}
	uses, err := domain.NormalSecretUses("secrets", req.Secrets)
	if err != nil {
		return err
	}
	for i := range uses {
		uses[i].Placeholder = ""
	}
	req.Secrets = uses
	return nil
}

// giveEgress gives a new VM what it may reach and the secrets that it asks
// for, or those of what it is made from.
func (s *Service) giveEgress(ctx context.Context, tx storage.Tx, req vmm.CreateVM, vm *domain.VM, origin domain.VMSpec) error {
	vm.Spec.Egress, vm.Spec.Secrets = origin.Egress, slices.Clone(origin.Secrets)
	if req.Egress != nil {
		vm.Spec.Egress = req.Egress.WithoutValues()
	}
	if req.Secrets != nil {
		vm.Spec.Secrets = slices.Clone(req.Secrets)
	}
	bound := false
	for i := range vm.Spec.Secrets {
		use := &vm.Spec.Secrets[i]
		if _, err := tx.Secrets().Get(ctx, vm.ProjectID, use.Name); err != nil {
			if errors.HasCode(err, errors.NotFound) {
				return errors.New(errors.NotFound, "the project has no secret %q", use.Name).WithField("secrets.name").
					WithHint("`aetherium secret set %s` stores it", use.Name)
			}
			return err
		}
		if len(use.Hosts) == 0 {
			continue
		}
		bound = true
		if vm.Spec.Network == domain.NetworkNone {
			return errors.New(errors.InvalidArgument, "a VM with network none reaches none of the secret's hosts").WithField("secrets.hosts")
		}
		if use.Placeholder == "" {
			use.Placeholder = newPlaceholder()
		}
	}
	if vm.Spec.Network == domain.NetworkNone {
		vm.Spec.Egress = domain.EgressPolicy{} // of an origin that had a network
	}
	if bound || !vm.Spec.Egress.IsZero() {
		vm.EgressGen = 1
	}
	return nil
}

// newPlaceholder makes what stands for a secret in a VM: of a form that
// nothing else has, that fits into a header, and that says what it is.
func newPlaceholder() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return "aetherium-secret-" + hex.EncodeToString(b[:])
}

// VMEgress implements vmm.Egress.
func (s *Service) VMEgress(ctx context.Context, by vmm.Caller, id domain.ID) (p domain.EgressPolicy, inForce bool, err error) {
	vm, err := s.GetVM(ctx, by, id)
	if err != nil {
		return p, false, err
	}
	return vm.Spec.Egress, vm.EgressAck == vm.EgressGen, nil
}

// SetVMEgress implements vmm.Egress.
func (s *Service) SetVMEgress(ctx context.Context, by vmm.Caller, id domain.ID, p domain.EgressPolicy) (domain.EgressPolicy, error) {
	p, err := p.Normal("egress")
	if err != nil {
		return p, err
	}
	vm, err := s.changeEgress(ctx, by.ProjectID, id, func(vm *domain.VM) error {
		if vm.Desired == domain.WantDeleted {
			return notRunning(vm)
		}
		if vm.Spec.Network == domain.NetworkNone && !p.IsZero() {
			return errors.New(errors.Conflict, "the VM has network none and reaches nothing")
		}
		if setsHeaders(p.Rules, vm.Spec.Egress.Rules) && !settled(vm) {
			return errors.New(errors.Conflict, "rules for headers are set while a VM runs or is stopped, not in between or paused").
				WithHint("wait for it, or resume it: it is made to trust a certificate")
		}
		return s.storeEgress(ctx, vm, p)
	})
	p = p.WithoutValues()
	if err != nil {
		return p, err
	}
	return p, s.applyEgress(ctx, vm)
}

// setsHeaders reports whether rules are others than those that there are.
func setsHeaders(rules, was []domain.HeaderRule) bool {
	for _, r := range rules {
		if !slices.ContainsFunc(was, func(o domain.HeaderRule) bool { return o.Host == r.Host }) {
			return true
		}
		for _, value := range r.Headers {
			if value != domain.Hidden {
				return true
			}
		}
	}
	return false
}

// settled reports whether a VM runs, or is to be told everything at its start.
func settled(vm *domain.VM) bool {
	return vm.Observed == domain.Running && vm.Desired == domain.WantRunning || vm.Observed == domain.Stopped && vm.Desired == domain.WantStopped
}

// storeEgress gives a VM another policy, whose secret parts are encrypted.
func (s *Service) storeEgress(ctx context.Context, vm *domain.VM, p domain.EgressPolicy) error {
	had := len(vm.Spec.Egress.Rules) > 0 || vm.Spec.Egress.Proxy != nil
	vm.Spec.Egress = p.WithoutValues()
	if !had && len(p.Rules) == 0 && p.Proxy == nil {
		return nil
	}
	place := storage.SealedVMEnv(vm.ID)
	kept, err := openPrivate(ctx, s.sealer, place, vm.EnvSealed)
	if err != nil {
		return err
	}
	if p, err = p.Keeping("egress", domain.EgressPolicy{Rules: kept.Rules, Proxy: kept.Proxy}); err != nil {
		return err
	}
	kept.Rules, kept.Proxy = p.Rules, p.Proxy
	vm.EnvSealed, err = kept.seal(ctx, s.sealer, place)
	return err
}

func (s *Service) changeEgress(ctx context.Context, project, id domain.ID, change func(*domain.VM) error) (*domain.VM, error) {
	var vm *domain.VM
	err := s.store.Update(ctx, func(tx storage.Tx) (err error) {
		vm, err = s.raiseEgress(ctx, tx, project, id, change)
		return err
	})
	return vm, err
}

// raiseEgress is changeEgress within a transaction.
func (s *Service) raiseEgress(ctx context.Context, tx storage.Tx, project, id domain.ID, change func(*domain.VM) error) (*domain.VM, error) {
	vm, err := tx.VMs().Get(ctx, project, id)
	if err != nil {
		return nil, err
	}
	if err := change(vm); err != nil {
		return nil, err
	}
	vm.EgressGen++
	vm.UpdatedAt = s.time()
	if err := tx.VMs().Update(ctx, vm); err != nil {
		return nil, err
	}
	return vm, s.emit(ctx, tx, events.VMUpdated, vm, vm.UpdatedAt)
}

// applyEgress has the worker put a stored change in force. On an error the
// worker's sweep tries again.
func (s *Service) applyEgress(ctx context.Context, vm *domain.VM) error {
	node, err := s.nodeOf(vm)
	if err == nil {
		err = node.ApplyEgress(ctx, vm.ID)
	}
	if err != nil && !errors.HasCode(err, errors.Unsupported) && ctx.Err() == nil {
		return errors.Wrap(err, errors.Unavailable, "the change is stored, but it is not in force yet").WithHint("the worker keeps trying; asking again is safe")
	}
	return err
}

// VMEgressLog implements vmm.Egress.
func (s *Service) VMEgressLog(ctx context.Context, by vmm.Caller, id domain.ID, q vmm.EgressLogQuery) ([]domain.EgressEntry, error) {
	switch {
	case q.After < 0:
		return nil, errors.New(errors.InvalidArgument, "the number of an entry is not negative").WithField("after")
	case q.Limit < 0 || q.Limit > vmm.MaxEgressEntries:
		return nil, errors.New(errors.InvalidArgument, "%d entries are out of range", q.Limit).WithField("limit").WithHint("1 to %d", vmm.MaxEgressEntries)
	case q.Limit == 0:
		q.Limit = vmm.MaxEgressEntries
	}
	if err := domain.ValidateDuration("wait_ms", q.Wait); err != nil {
		return nil, err
	}
	vm, err := s.GetVM(ctx, by, id)
	if err != nil {
		return nil, err
	}
	node, err := s.nodeOf(vm)
	if err != nil {
		return nil, err
	}
	return node.EgressLog(ctx, vm, q)
}

// VMEgressLearned implements vmm.Egress.
func (s *Service) VMEgressLearned(ctx context.Context, by vmm.Caller, id domain.ID) (domain.EgressPolicy, error) {
	var p domain.EgressPolicy
	vm, err := s.GetVM(ctx, by, id)
	if err != nil {
		return p, err
	}
	p.DNS = vm.Spec.Egress.DNS
	q := vmm.EgressLogQuery{Limit: vmm.MaxEgressEntries}
	for {
		entries, err := s.VMEgressLog(ctx, by, id, q)
		if err != nil {
			return p, err
		}
		p = egress.Learned(p, entries)
		if len(p.Allow) > domain.MaxEgressEntries {
			return p, errors.New(errors.Conflict, "the VM connected to more than the %d destinations that a policy can name", domain.MaxEgressEntries).
				WithHint("`aetherium egress` shows them; *.domain entries name many at once")
		}
		if len(entries) < q.Limit {
			return p, nil
		}
		q.After = entries[len(entries)-1].Seq
	}
}

// secretChanged has the VMs whose requests leave with a secret take over its
// new value: those that were told of it, and those made meanwhile.
func (s *Service) secretChanged(ctx context.Context, project domain.ID, name string, told map[domain.ID]*domain.VM) error {
	users, err := s.secretUsers(ctx, project, name)
	for _, vm := range users {
		row, cerr := told[vm.ID], error(nil)
		if row == nil {
			row, cerr = s.changeEgress(ctx, project, vm.ID, func(*domain.VM) error { return nil })
		}
		if cerr == nil {
			cerr = s.applyEgress(ctx, row)
		}
		if !errors.HasCode(cerr, errors.NotFound) { // it went meanwhile
			err = errors.Join(err, cerr)
		}
	}
	return err
}

// secretUsers lists the living VMs that a secret is bound for.
func (s *Service) secretUsers(ctx context.Context, project domain.ID, name string) ([]*domain.VM, error) {
	var users []*domain.VM
	page := storage.Page{Limit: storage.MaxPage}
	for {
		var list storage.List[*domain.VM]
		err := s.store.View(ctx, func(tx storage.Tx) (err error) {
			list, err = tx.VMs().List(ctx, storage.VMFilter{ProjectID: project, Page: page})
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, vm := range list.Items {
			if slices.ContainsFunc(vm.Spec.Secrets, func(u domain.SecretUse) bool { return u.Name == name && len(u.Hosts) > 0 }) {
				users = append(users, vm)
			}
		}
		if list.Next == "" {
			return users, nil
		}
		page.Cursor = list.Next
	}
}
