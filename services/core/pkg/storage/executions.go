package storage

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// ExecutionFilter narrows a list of executions. Zero fields do not filter.
type ExecutionFilter struct {
	ProjectID domain.ID
	VMID      domain.ID
	States    []domain.ExecutionState // any of them
	Page
}

// Executions is the table of executions. Their IDs may be minted by callers,
// so an ID is unique within its project only. The clear Command is not stored.
type Executions interface {
	// Get returns NotFound. For the system, an ID that several projects use is Conflict.
	Get(ctx context.Context, project, id domain.ID) (*domain.Execution, error)
	// Insert returns AlreadyExists for the ID in its project, NotFound for the VM.
	Insert(ctx context.Context, e *domain.Execution) error
	// Upsert writes many rows: those that exist move forward only (starting,
	// running, ended), an ended one is never changed again, and a row of
	// another VM under the same ID is left alone. A row whose VM's row is gone
	// has nowhere to be and is left out, so that it doesn't hold up the others.
	Upsert(ctx context.Context, es ...*domain.Execution) error
	List(ctx context.Context, f ExecutionFilter) (List[*domain.Execution], error)
	// Open lists a VM's executions that have not ended, oldest first.
	Open(ctx context.Context, vm domain.ID) ([]*domain.Execution, error)
	// LoseOpen ends what is open in a VM at or below an epoch as lost, and returns it.
	LoseOpen(ctx context.Context, vm domain.ID, epoch int64, reason string, at time.Time) ([]*domain.Execution, error)
	// Expired lists executions in VMs of a worker, and of workers that are no more,
	// that ended before a time, longest ended first.
	Expired(ctx context.Context, worker domain.ID, before time.Time, limit int) ([]*domain.Execution, error)
	// Delete removes ended executions, and tells which; others and absent ones are
	// left alone.
	Delete(ctx context.Context, project domain.ID, ids ...domain.ID) ([]domain.ID, error)
	// InVM is Get for whoever knows the VM and not its project. Returns NotFound.
	InVM(ctx context.Context, vm, id domain.ID) (*domain.Execution, error)
}

// OutputPacks is the table of what is in the storage of executions' output.
type OutputPacks interface {
	// Get returns NotFound.
	Get(ctx context.Context, project, id domain.ID) (*domain.OutputPack, error)
	// Insert has a pack be where executions of its project have their output, and
	// tells of how many: those that have not ended, that have another, or that are
	// not of the VM are left alone. With none of them there is no pack either.
	// Returns AlreadyExists.
	Insert(ctx context.Context, p *domain.OutputPack, of ...*domain.Execution) (int, error)
	List(ctx context.Context, p Page) (List[*domain.OutputPack], error)
	// Unused lists those of the given packs, at most MaxPage, that no execution has its
	// output in any more.
	Unused(ctx context.Context, ids ...domain.ID) ([]*domain.OutputPack, error)
	// DeleteUnused removes what Unused lists, and returns it.
	DeleteUnused(ctx context.Context, ids ...domain.ID) ([]*domain.OutputPack, error)
}

// Archives is the table of what is kept of what has ended and is not looked up any
// more.
type Archives interface {
	// Get returns NotFound.
	Get(ctx context.Context, project, id domain.ID) (*domain.Archive, error)
	// Last is the newest archive of a project that a worker made. Returns NotFound.
	Last(ctx context.Context, project, worker domain.ID) (*domain.Archive, error)
	// Insert returns AlreadyExists.
	Insert(ctx context.Context, a *domain.Archive) error
	// Extend gives an archive that had so many records its present ones. Returns
	// Conflict where it had others by now, or is gone.
	Extend(ctx context.Context, a *domain.Archive, had int) error
	// List lists a project's archives without their content.
	List(ctx context.Context, project domain.ID, p Page) (List[*domain.Archive], error)
	// DeleteBefore removes at most limit archives of what all ended before a time.
	DeleteBefore(ctx context.Context, before time.Time, limit int) (int, error)
}
