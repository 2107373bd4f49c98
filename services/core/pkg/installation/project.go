package installation

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// FirstProject gives the project that there is from the first start on. Doing it
// again changes nothing.
func (in *Installation) FirstProject(ctx context.Context) (domain.ID, error) {
	var id domain.ID
	err := in.Store.Update(ctx, func(tx storage.Tx) error {
		p, err := tx.Projects().First(ctx)
		if errors.HasCode(err, errors.NotFound) {
			p = &domain.Project{ID: domain.NewID(), Name: domain.DefaultProjectName, CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}
			err = tx.Projects().Insert(ctx, p)
		}
		if err != nil {
			return err
		}
		id = p.ID
		return nil
	})
	return id, err
}
