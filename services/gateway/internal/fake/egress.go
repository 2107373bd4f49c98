package fake

import (
	"context"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// LogEgress adds an entry to a VM's log.
func (o *Orchestrator) LogEgress(id domain.ID, e domain.EgressEntry) {
	o.locked(func() {
		v := o.vms[id]
		e.Seq = int64(len(v.egress)) + 1
		v.egress = append(v.egress, e)
		o.notify()
	})
}

// VMEgress implements vmm.Egress.
func (o *Orchestrator) VMEgress(ctx context.Context, by vmm.Caller, id domain.ID) (domain.EgressPolicy, bool, error) {
	v, err := o.GetVM(ctx, by, id)
	if err != nil {
		return domain.EgressPolicy{}, false, err
	}
	return v.Spec.Egress, true, nil
}

// SetVMEgress implements vmm.Egress.
func (o *Orchestrator) SetVMEgress(_ context.Context, by vmm.Caller, id domain.ID, p domain.EgressPolicy) (domain.EgressPolicy, error) {
	p, err := p.Normal("egress")
	if err != nil {
		return p, err
	}
	p = p.WithoutValues()
	o.mu.Lock()
	defer o.mu.Unlock()
	v, err := o.find(by, id)
	if err == nil {
		v.Spec.Egress = p
	}
	return p, err
}

// VMEgressLog implements vmm.Egress.
func (o *Orchestrator) VMEgressLog(ctx context.Context, by vmm.Caller, id domain.ID, q vmm.EgressLogQuery) ([]domain.EgressEntry, error) {
	var out []domain.EgressEntry
	var err error
	read := func() bool {
		var v *vm
		if v, err = o.find(by, id); err != nil {
			return true
		}
		for _, e := range v.egress {
			if e.Seq > q.After && len(out) < q.Limit {
				out = append(out, e)
			}
		}
		return len(out) > 0
	}
	ctx, cancel := context.WithTimeout(ctx, q.Wait)
	defer cancel()
	_ = o.until(ctx, read)
	return out, err
}

// VMEgressLearned implements vmm.Egress.
func (o *Orchestrator) VMEgressLearned(ctx context.Context, by vmm.Caller, id domain.ID) (domain.EgressPolicy, error) {
	entries, err := o.VMEgressLog(ctx, by, id, vmm.EgressLogQuery{Limit: vmm.MaxEgressEntries})
	return egress.Learned(domain.EgressPolicy{}, entries), err
}
