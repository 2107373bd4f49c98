package oci

import (
	"context"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// SetEgress implements vmm.EgressController.
func (d *Driver) SetEgress(ctx context.Context, id string, e domain.Egress) error {
	return d.cfg.Network.SetEgress(ctx, id, e)
}

// EgressLog implements vmm.EgressController.
func (d *Driver) EgressLog(_ context.Context, id string, after int64, limit int) ([]domain.EgressEntry, error) {
	return d.cfg.Network.EgressLog(id, after, limit)
}

// ForgetEgressLog implements vmm.EgressController.
func (d *Driver) ForgetEgressLog(_ context.Context, id string) error {
	return d.cfg.Network.ForgetEgressLog(id)
}
