package storage

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Quotas is where projects' limits differ from the defaults, and what projects
// have. What they hold are sums, as of workers.
type Quotas interface {
	// Override returns the zero value for a project that has none.
	Override(ctx context.Context, project domain.ID) (domain.QuotaOverride, error)
	// PutOverride replaces a project's; the zero value removes it. Returns
	// NotFound for the project.
	PutOverride(ctx context.Context, project domain.ID, o domain.QuotaOverride) error
	// Held tells the number of a project's VMs but one, and what they and its volumes
	// may use, as Workers.Count does.
	Held(ctx context.Context, project, except domain.ID) (domain.Quota, error)
	// Created counts the VMs of a project that were made after a time,
	// tombstones included.
	Created(ctx context.Context, project domain.ID, after time.Time) (int64, error)
	// NthCreated tells when the nth newest VM of a project was made, if that
	// was after a time; the newest is the first.
	NthCreated(ctx context.Context, project domain.ID, n int64, after time.Time) (at time.Time, found bool, err error)
	// Kept counts a project's snapshots, but for those of forks, and its templates.
	Kept(ctx context.Context, project domain.ID) (snapshots, templates int64, err error)
}

// AuditFilter narrows a list of records. Zero fields do not filter.
type AuditFilter struct {
	ProjectID    domain.ID
	Actor        string // name, or ID of a key or user
	Operation    string
	Subject      string // ID or name, or the ID of a VM
	Result       domain.AuditResult
	Since, Until time.Time // records in [Since, Until)
	Page
}

// Audit is the table of who changed what.
type Audit interface {
	// Insert writes records; one whose ID is there already is left as it is.
	Insert(ctx context.Context, rs ...*domain.AuditRecord) error
	// List orders by time.
	List(ctx context.Context, f AuditFilter) (List[*domain.AuditRecord], error)
	// DeleteBefore removes at most limit records that are older than a time.
	DeleteBefore(ctx context.Context, before time.Time, limit int) (int, error)
}
