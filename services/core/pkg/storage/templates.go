package storage

import (
	"context"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Kind is what a name in the namespace of templates and snapshots names.
type Kind string

// The kinds.
const (
	KindTemplate Kind = "template"
	KindSnapshot Kind = "snapshot"
)

// Named is what a name leads to.
type Named struct {
	Kind      Kind
	ProjectID domain.ID // the owner: another project's for a public template
	ID        domain.ID
}

// Names is the namespace that templates and snapshots of a project share.
type Names interface {
	// Resolve finds what a project means by a name: its own template or
	// snapshot, else the oldest public template. Returns NotFound.
	Resolve(ctx context.Context, project domain.ID, name string) (Named, error)
}

// TemplateFilter narrows a list of templates. Zero fields do not filter.
type TemplateFilter struct {
	ProjectID     domain.ID
	IncludePublic bool // those of other projects too
	Page
}

// Templates is the table of templates with their tags. Public templates can
// be read by every project.
type Templates interface {
	// Get returns NotFound.
	Get(ctx context.Context, project, id domain.ID) (*domain.Template, error)
	// ByName finds the project's own template, else the oldest public one. Returns NotFound.
	ByName(ctx context.Context, project domain.ID, name string) (*domain.Template, error)
	// Insert returns AlreadyExists for the ID or the name (a snapshot's name counts), NotFound for a tag's build.
	Insert(ctx context.Context, t *domain.Template) error
	// Update writes name, tags and visibility. Returns Conflict, AlreadyExists, NotFound.
	Update(ctx context.Context, t *domain.Template) error
	// Delete removes a template, its tags and its name; its builds stay for
	// whoever uses them (see Builds.Orphans). Returns NotFound.
	Delete(ctx context.Context, project, id domain.ID) error
	List(ctx context.Context, f TemplateFilter) (List[*domain.Template], error)
}

// BuildFilter narrows a list of builds. Zero fields do not filter.
type BuildFilter struct {
	ProjectID  domain.ID
	TemplateID domain.ID
	WorkerID   domain.ID           // that made it
	States     []domain.BuildState // any of them
	Page
}

// Builds is the table of template builds. A build that is ready never changes.
type Builds interface {
	// Get finds the project's own build or one of a public template. Returns NotFound.
	Get(ctx context.Context, project, id domain.ID) (*domain.Build, error)
	// Named finds the build that a tag names of the template that a project means by
	// a name, in one statement, whatever has become of it. Returns NotFound, also
	// where a snapshot has the name.
	Named(ctx context.Context, project domain.ID, name, tag string) (domain.ID, error)
	// Insert returns AlreadyExists, NotFound for the template.
	Insert(ctx context.Context, b *domain.Build) error
	// Update writes what building finds out. Returns Conflict when changed
	// meanwhile or when the build is ready, NotFound.
	Update(ctx context.Context, b *domain.Build) error
	// Lose is Update for what a worker that is gone had of a build, ready or not: it
	// writes state, reason and artifacts.
	Lose(ctx context.Context, b *domain.Build) error
	// Delete removes a build and the tags on it. Returns Conflict while a VM, a
	// snapshot or a machine uses it, NotFound.
	Delete(ctx context.Context, project, id domain.ID) error
	// InUse reports whether a VM that is not deleted, a snapshot or a machine uses the build.
	InUse(ctx context.Context, id domain.ID) (bool, error)
	// Orphans lists builds of a worker, and of workers that are no more, whose template
	// is gone and that nothing uses, oldest first.
	Orphans(ctx context.Context, worker domain.ID, limit int) ([]*domain.Build, error)
	// Copied notes that a worker has a build that another made. Again is success.
	// Returns NotFound.
	Copied(ctx context.Context, b *domain.Build, worker domain.ID) error
	// Copies lists the workers that have a build that another made.
	Copies(ctx context.Context, b *domain.Build) ([]domain.ID, error)
	List(ctx context.Context, f BuildFilter) (List[*domain.Build], error)
}

// SnapshotFilter narrows a list of snapshots. Zero fields do not filter.
type SnapshotFilter struct {
	// IncludeEphemeral lists the frozen disks below forks as well, and those of VMs
	// that rest in the storage.
	IncludeEphemeral bool

	ProjectID domain.ID
	VMID      domain.ID
	WorkerID  domain.ID
	States    []domain.BuildState // any of them
	// Abandoned, with IncludeEphemeral, lists those alone that were the disk of a VM
	// which is there no more, or has another one.
	Abandoned bool
	// Unpacked lists those alone that are on their worker alone.
	Unpacked bool
	Page
}

// Snapshots is the table of snapshots.
type Snapshots interface {
	// Get returns NotFound.
	Get(ctx context.Context, project, id domain.ID) (*domain.Snapshot, error)
	// ByName returns NotFound.
	ByName(ctx context.Context, project domain.ID, name string) (*domain.Snapshot, error)
	// Insert returns AlreadyExists for the ID or the name (a template's name counts).
	Insert(ctx context.Context, s *domain.Snapshot) error
	// Update writes name, state, bytes, worker and where it is packed. Returns Conflict, AlreadyExists, NotFound.
	Update(ctx context.Context, s *domain.Snapshot) error
	// Delete removes a snapshot and its name. Returns Conflict while a VM is
	// being made from it or it is a VM's disk, NotFound.
	Delete(ctx context.Context, project, id domain.ID) error
	// Copied notes that a worker has the disk of a snapshot that another took.
	// Again is success. Returns NotFound.
	Copied(ctx context.Context, s *domain.Snapshot, worker domain.ID) error
	// Copies lists the workers that have the disk of a snapshot that another took.
	Copies(ctx context.Context, s *domain.Snapshot) ([]domain.ID, error)
	List(ctx context.Context, f SnapshotFilter) (List[*domain.Snapshot], error)
}
