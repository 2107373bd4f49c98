package storage

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Uploads is the table of files that were sent to build templates from. The files
// are on the workers that it names.
type Uploads interface {
	// Insert returns AlreadyExists, and NotFound for the project.
	Insert(ctx context.Context, u *domain.Upload) error
	// Get returns NotFound for those that are absent or expired at now.
	Get(ctx context.Context, project, id domain.ID, now time.Time) (*domain.Upload, error)
	// Named returns the newest whole one of a name. Returns NotFound as Get does.
	Named(ctx context.Context, project domain.ID, name string, now time.Time) (*domain.Upload, error)
	// Update notes size, digest and until when it is kept. Returns NotFound.
	Update(ctx context.Context, u *domain.Upload) error
	// Delete removes one; absent is success.
	Delete(ctx context.Context, project, id domain.ID) error
	// DeleteOn removes those that a worker has.
	DeleteOn(ctx context.Context, worker domain.ID) error
	// Held sums the bytes of a project's that have not expired at now.
	Held(ctx context.Context, project domain.ID, now time.Time) (bytes int64, err error)
	// DeleteExpired removes at most limit that have expired at now.
	DeleteExpired(ctx context.Context, now time.Time, limit int) (int, error)
}
