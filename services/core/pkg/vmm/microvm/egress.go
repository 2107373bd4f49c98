package microvm

import (
	"context"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// SetEgress implements vmm.EgressController.
func (d *Driver) SetEgress(ctx context.Context, id string, e domain.Egress) error {
	return d.cfg.Network.SetEgress(ctx, id, e)
}

// EgressLog implements vmm.EgressController.
func (d *Driver) EgressLog(ctx context.Context, id string, q vmm.EgressLogQuery) ([]domain.EgressEntry, error) {
	return d.cfg.Network.EgressLog(ctx, id, q.After, q.Limit, q.Wait)
}

// ForgetEgressLog implements vmm.EgressController.
func (d *Driver) ForgetEgressLog(_ context.Context, id string) error {
	return d.cfg.Network.ForgetEgressLog(id)
}
