package nodelink

import (
	"context"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

type (
	ofVM struct {
		VM *domain.VM
	}
	egressLog struct {
		VM    *domain.VM
		Query vmm.EgressLogQuery
	}
	snapshot struct {
		VM   *domain.VM
		ID   domain.ID
		Kind domain.SnapshotKind
	}
	deleteSnapshot struct {
		Driver string
		ID     domain.ID
		Packed *domain.Packed // nil: it is in no storage
	}
)

func (s *server) machines() {
	answers(s, "vms.wake", func(ctx context.Context, in ofProject) (none, error) {
		s.node.Wake(ctx, in.Project, in.ID)
		return none{}, nil
	})
	answers(s, "vms.usage", func(ctx context.Context, in ofVM) (vmm.Usage, error) {
		return s.node.Usage(ctx, in.VM)
	})
	answers(s, "vms.trace", func(ctx context.Context, in byID) ([]vmm.Phase, error) {
		return s.node.Trace(ctx, in.ID)
	})
	answers(s, "egress.apply", func(ctx context.Context, in byID) (none, error) {
		return none{}, s.node.ApplyEgress(ctx, in.ID)
	})
	answers(s, "egress.log", func(ctx context.Context, in egressLog) ([]domain.EgressEntry, error) {
		return s.node.EgressLog(ctx, in.VM, in.Query)
	})
	answers(s, "snapshots.make", func(ctx context.Context, in snapshot) (vmm.SnapshotInfo, error) {
		return s.node.Snapshot(ctx, in.VM, in.ID, in.Kind)
	})
	answers(s, "snapshots.delete", func(ctx context.Context, in deleteSnapshot) (none, error) {
		return none{}, s.node.DeleteSnapshot(ctx, &domain.Snapshot{ID: in.ID, Driver: in.Driver, Packed: in.Packed})
	})
	answers(s, "snapshots.changed", func(ctx context.Context, _ none) (none, error) {
		s.node.SnapshotsChanged(ctx)
		return none{}, nil
	})
	answers(s, "drivers.list", func(ctx context.Context, _ none) ([]domain.DriverInfo, error) {
		return s.node.Drivers(ctx)
	})
}

// Wake implements service.Node. It does not wait: a VM whose node was not told
// is found by the node's sweep.
func (c *Client) Wake(ctx context.Context, project, vm domain.ID) {
	c.keepTelling(ctx, "vms.wake", ofProject{project, vm})
}

// Live implements service.Node: nothing of the node is in this process's memory.
func (c *Client) Live(domain.ID) (*domain.VM, bool) { return nil, false }

// Usage implements service.Node.
func (c *Client) Usage(ctx context.Context, vm *domain.VM) (vmm.Usage, error) {
	return call[vmm.Usage](ctx, c, "vms.usage", ofVM{vm})
}

// Trace implements service.Node.
func (c *Client) Trace(ctx context.Context, vm domain.ID) ([]vmm.Phase, error) {
	return call[[]vmm.Phase](ctx, c, "vms.trace", byID{vm})
}

// ApplyEgress implements service.Node.
func (c *Client) ApplyEgress(ctx context.Context, vm domain.ID) error {
	_, err := call[none](ctx, c, "egress.apply", byID{vm})
	return err
}

// EgressLog implements service.Node.
func (c *Client) EgressLog(ctx context.Context, vm *domain.VM, q vmm.EgressLogQuery) ([]domain.EgressEntry, error) {
	return call[[]domain.EgressEntry](ctx, c, "egress.log", egressLog{vm, q})
}

// Snapshot implements service.Node.
func (c *Client) Snapshot(ctx context.Context, vm *domain.VM, id domain.ID, kind domain.SnapshotKind) (vmm.SnapshotInfo, error) {
	return call[vmm.SnapshotInfo](ctx, c, "snapshots.make", snapshot{vm, id, kind})
}

// DeleteSnapshot implements service.Node.
func (c *Client) DeleteSnapshot(ctx context.Context, s *domain.Snapshot) error {
	_, err := call[none](ctx, c, "snapshots.delete", deleteSnapshot{s.Driver, s.ID, s.Packed})
	return err
}

// SnapshotsChanged implements service.Node. It does not wait: a node that was not
// told finds them in its sweep.
func (c *Client) SnapshotsChanged(ctx context.Context) {
	c.keepTelling(ctx, "snapshots.changed", none{})
}

// Drivers implements service.Node.
func (c *Client) Drivers(ctx context.Context) ([]domain.DriverInfo, error) {
	return call[[]domain.DriverInfo](ctx, c, "drivers.list", none{})
}
