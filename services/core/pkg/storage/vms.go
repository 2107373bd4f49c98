package storage

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// VMFilter narrows a list of VMs. Zero fields do not filter.
type VMFilter struct {
	ProjectID domain.ID
	WorkerID  domain.ID
	States    []domain.ObservedState // any of them
	Metadata  map[string]string      // all must match
	// Template matches the template as it was asked for, or the ID of the
	// template, build or snapshot that the VM was made from.
	Template       string
	Name           string
	IncludeDeleted bool // tombstones too
	Page
}

// VMs is the table of VMs.
type VMs interface {
	// Get returns NotFound. Tombstones are found.
	Get(ctx context.Context, project, id domain.ID) (*domain.VM, error)
	// ForExecution is Get, and reports whether an execution of any VM has an ID: one
	// statement, for it is asked before each command.
	ForExecution(ctx context.Context, project, id, execution domain.ID) (vm *domain.VM, used bool, err error)
	// Serving is Get in any project, and reports whether a task of the VM runs.
	Serving(ctx context.Context, id domain.ID) (vm *domain.VM, tasks bool, err error)
	// ByName finds the VM that holds a name, or else the newest tombstone that
	// held it. A VM that is wanted deleted has given its name up. Returns NotFound.
	ByName(ctx context.Context, project domain.ID, name string) (*domain.VM, error)
	// Insert returns AlreadyExists for the ID or the name, NotFound for the project.
	Insert(ctx context.Context, vm *domain.VM) error
	// Update writes everything but ID, project, spec and creation time.
	// Returns Conflict when vm.Revision is not the stored one, AlreadyExists
	// for the name, NotFound.
	Update(ctx context.Context, vm *domain.VM) error
	// Delete removes a tombstone with its executions. Returns Conflict for a
	// VM that is not deleted yet, NotFound.
	Delete(ctx context.Context, project, id domain.ID) error
	List(ctx context.Context, f VMFilter) (List[*domain.VM], error)
	// Unconverged lists VMs of a worker for which a step is due: observed is
	// not what is desired and neither a tombstone nor failed without the wish
	// to be deleted. Longest unchanged first.
	Unconverged(ctx context.Context, worker domain.ID, limit int) ([]*domain.VM, error)
	// DeadlineDue lists VMs of a worker whose deadline lies at or before now
	// and has not had its effect yet, earliest deadline first.
	DeadlineDue(ctx context.Context, worker domain.ID, now time.Time, limit int) ([]*domain.VM, error)
	// Unacked lists VMs of a worker whose newest deadline or egress policy the
	// worker has not acknowledged.
	Unacked(ctx context.Context, worker domain.ID, limit int) ([]*domain.VM, error)
	// Timed lists VMs of a worker, from after an ID on in ID order, that have
	// a deadline or an idle timeout and are not ended: what the worker's own
	// clock watches.
	Timed(ctx context.Context, worker, after domain.ID, limit int) ([]*domain.VM, error)
	// OnWorker lists VMs of a worker that are not tombstones, from after an ID
	// on in ID order: what a starting worker reconciles with its node.
	OnWorker(ctx context.Context, worker, after domain.ID, limit int) ([]*domain.VM, error)
	// Tombstones lists VMs of a worker, and of workers that are no more, that
	// ended before a time, longest ended first: what is left of them is on the worker.
	Tombstones(ctx context.Context, worker domain.ID, before time.Time, limit int) ([]*domain.VM, error)
	// Count tells how many VMs stand in each observed state; tombstones are
	// not counted.
	Count(ctx context.Context, project domain.ID) (map[domain.ObservedState]int64, error)
}

// PoolKey says which machines can stand in for each other.
type PoolKey struct {
	WorkerID domain.ID
	Driver   string
	BuildID  domain.ID
	Shape    domain.Shape
	Memory   bool // those made from their build's memory, or those that are not
}

// MaxPools is how many pools are asked for at once.
const MaxPools = 100

// Machines is the table of what runs on nodes. A row without a VM is a ready
// machine of the warm pool.
type Machines interface {
	// Get returns NotFound.
	Get(ctx context.Context, id domain.ID) (*domain.Machine, error)
	// ByVM finds a VM's machine. Returns NotFound.
	ByVM(ctx context.Context, vm domain.ID) (*domain.Machine, error)
	// Insert returns AlreadyExists for the ID, or when the VM has a machine.
	Insert(ctx context.Context, m *domain.Machine) error
	// Update writes handle, VM and epoch. Returns NotFound, AlreadyExists.
	Update(ctx context.Context, m *domain.Machine) error
	// Began writes the epoch that a machine is in, and its handle unless that is nil.
	// Returns NotFound.
	Began(ctx context.Context, id domain.ID, handle []byte, epoch int64) error
	// Delete of an absent machine is success.
	Delete(ctx context.Context, id domain.ID) error
	// OnWorker lists all machines of a worker, oldest first.
	OnWorker(ctx context.Context, worker domain.ID) ([]*domain.Machine, error)
	// Unclaimed lists machines of a pool, oldest first.
	Unclaimed(ctx context.Context, key PoolKey, limit int) ([]*domain.Machine, error)
	// Pooled tells of which workers' pools, at most MaxPools, a VM could be given a machine
	// now, be it made from memory or not.
	Pooled(ctx context.Context, keys ...PoolKey) ([]domain.ID, error)
	// Claim gives a machine of a pool to a VM, in one statement.
	// Returns NotFound when it is none of a pool's, or not any more; AlreadyExists when the VM has a machine.
	Claim(ctx context.Context, id, vm domain.ID, epoch int64) (*domain.Machine, error)
	// Take is Claim for who has nothing else to do where it fails: the transaction fails
	// with what Claim returns.
	Take(ctx context.Context, id, vm domain.ID, epoch int64) error
}
