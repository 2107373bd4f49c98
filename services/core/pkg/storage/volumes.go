package storage

import (
	"context"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Volumes is the table of volumes. A volume is in use while a VM that is not
// deleted has it mounted.
type Volumes interface {
	// Get returns NotFound.
	Get(ctx context.Context, project, id domain.ID) (*domain.Volume, error)
	// ByName returns NotFound.
	ByName(ctx context.Context, project domain.ID, name string) (*domain.Volume, error)
	// Insert returns AlreadyExists for the name or the ID, NotFound for the project.
	Insert(ctx context.Context, v *domain.Volume) error
	// Delete returns Conflict while the volume is in use, NotFound.
	Delete(ctx context.Context, project, id domain.ID) error
	// List orders by creation time.
	List(ctx context.Context, project domain.ID, p Page) (List[*domain.Volume], error)
	Count(ctx context.Context, project domain.ID) (int, error)
	// OnWorker lists volumes of a worker, from after an ID on in ID order.
	OnWorker(ctx context.Context, worker, after domain.ID, limit int) ([]*domain.Volume, error)
}
