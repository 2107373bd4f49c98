package access

import (
	"context"
	"log/slog"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Deps is what the service is made over. All are needed unless said otherwise.
type Deps struct {
	Store  storage.Store
	Sealer seal.Sealer
	Log    *slog.Logger
	// Emptier removes what a project has on nodes. Optional: there is nothing.
	Emptier Emptier
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Emptier removes what the rows of a project stand for: the data of its
// snapshots, templates and executions.
type Emptier interface {
	EmptyProject(ctx context.Context, project domain.ID) error
}

// Service is the use cases.
type Service struct{ Deps }

// New makes the service.
func New(d Deps) *Service {
	if d.Now == nil {
		d.Now = time.Now
	}
	return &Service{d}
}

// time is now as the store keeps it.
func (s *Service) time() time.Time { return s.Now().UTC().Truncate(time.Microsecond) }

// noWider refuses to give a scope that the caller lacks. Returns PermissionDenied.
func noWider(by vmm.Caller, scope domain.Scope, what string) error {
	if by.Scopes.Allows(scope) {
		return nil
	}
	return errors.New(errors.PermissionDenied, "%s has the scope %s, which you lack", what, scope).
		WithHint("ask somebody who has it")
}

// findProject finds a project by ID or name. Returns NotFound, InvalidArgument.
func findProject(ctx context.Context, tx storage.Tx, nameOrID string) (*domain.Project, error) {
	if domain.IsID(nameOrID) {
		return tx.Projects().Get(ctx, domain.ID(nameOrID))
	}
	if err := projectName("project", nameOrID); err != nil {
		return nil, err
	}
	return tx.Projects().ByName(ctx, nameOrID)
}

func projectName(field, name string) error {
	if name == "" {
		return errors.New(errors.InvalidArgument, "a project needs a name").WithField(field)
	}
	return domain.ValidateName(field, name)
}
