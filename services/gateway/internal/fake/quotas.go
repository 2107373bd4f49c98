package fake

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// GetQuota implements vmm.Quotas.
func (o *Orchestrator) GetQuota(_ context.Context, by vmm.Caller, project string) (domain.ProjectQuota, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	id := by.ProjectID
	if project != "" && project != id.String() {
		if !by.Admin {
			return domain.ProjectQuota{}, errors.New(errors.NotFound, "there is no project %q", project)
		}
		id = domain.ID(project)
	}
	q := domain.ProjectQuota{ProjectID: id, Override: o.quotas[id]}
	q.Limits = q.Override.Over(domain.Quota{})
	for _, v := range o.vms {
		if v.ProjectID == id && v.Observed != domain.Deleted {
			q.Use.VMs++
		}
	}
	return q, nil
}

// SetQuota implements vmm.Quotas.
func (o *Orchestrator) SetQuota(ctx context.Context, by vmm.Caller, project string, q domain.QuotaOverride) (domain.ProjectQuota, error) {
	old, err := o.GetQuota(ctx, by, project)
	if err != nil {
		return old, err
	}
	o.locked(func() { o.quotas[old.ProjectID] = q })
	return o.GetQuota(ctx, by, project)
}
