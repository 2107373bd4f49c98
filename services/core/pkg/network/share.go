package network

import (
	"context"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// firstOwner has the machines that were made before owners were noted.
const firstOwner = "oci"

// Share is the network of an instance as one of its drivers sees it: it lists
// that driver's machines only, so that what one driver does not know is not
// taken for an orphan of its own.
type Share struct {
	*Manager
	owner string
}

// For gives the share of a driver.
func (m *Manager) For(driver string) *Share { return &Share{Manager: m, owner: driver} }

// Acquire is [Manager.Acquire], and notes whose the machine is.
func (s *Share) Acquire(ctx context.Context, machineID string, mode domain.NetworkMode, hostname string) (Attachment, error) {
	return s.acquire(ctx, machineID, mode, hostname, s.owner)
}

// List is [Manager.List] of the driver's machines.
func (s *Share) List(context.Context) ([]string, error) {
	return s.list(func(owner string) bool {
		return owner == s.owner || owner == "" && s.owner == firstOwner
	}), nil
}
