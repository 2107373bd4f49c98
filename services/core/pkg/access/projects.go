package access

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// CreateProject is for administrators. Returns AlreadyExists, InvalidArgument.
func (s *Service) CreateProject(ctx context.Context, by vmm.Caller, name string) (*domain.Project, error) {
	if err := by.AdminsOnly(); err != nil {
		return nil, err
	}
	if err := projectName("name", name); err != nil {
		return nil, err
	}
	p := &domain.Project{ID: domain.NewID(), Name: name, CreatedAt: s.time()}
	return p, s.Store.Update(ctx, func(tx storage.Tx) error { return tx.Projects().Insert(ctx, p) })
}

// GetProject finds a project by ID or name: for administrators any, for others
// their own. Returns NotFound.
func (s *Service) GetProject(ctx context.Context, by vmm.Caller, nameOrID string) (*domain.Project, error) {
	var p *domain.Project
	err := s.Store.View(ctx, func(tx storage.Tx) (err error) {
		p, err = findProject(ctx, tx, nameOrID)
		return err
	})
	if err == nil && !by.Admin && p.ID != by.ProjectID {
		return nil, errors.New(errors.NotFound, "there is no project %q", clip(nameOrID))
	}
	return p, err
}

// ListProjects is for administrators.
func (s *Service) ListProjects(ctx context.Context, by vmm.Caller, page vmm.Page) (vmm.List[*domain.Project], error) {
	var list vmm.List[*domain.Project]
	if err := by.AdminsOnly(); err != nil {
		return list, err
	}
	err := s.Store.View(ctx, func(tx storage.Tx) (err error) {
		list, err = tx.Projects().List(ctx, page)
		return err
	})
	return list, err
}

// RenameProject is for administrators. Returns NotFound, AlreadyExists, InvalidArgument.
func (s *Service) RenameProject(ctx context.Context, by vmm.Caller, nameOrID, name string) (*domain.Project, error) {
	if err := by.AdminsOnly(); err != nil {
		return nil, err
	}
	if err := projectName("name", name); err != nil {
		return nil, err
	}
	var p *domain.Project
	err := s.Store.Update(ctx, func(tx storage.Tx) (err error) {
		if p, err = findProject(ctx, tx, nameOrID); err != nil {
			return err
		}
		p.Name = name
		return tx.Projects().Rename(ctx, p.ID, name)
	})
	return p, err
}

// DeleteProject removes a project with everything of it, for administrators. It may
// take minutes; one that was cut short goes on when it is called again.
// Returns NotFound, and Conflict while it has VMs, tasks under way or
// templates that others use, is the last, or is that of the key in use.
func (s *Service) DeleteProject(ctx context.Context, by vmm.Caller, nameOrID string) error {
	if err := by.AdminsOnly(); err != nil {
		return err
	}
	var p *domain.Project
	err := s.Store.View(ctx, func(tx storage.Tx) (err error) {
		if p, err = findProject(ctx, tx, nameOrID); err != nil {
			return err
		}
		if by.KeyID != "" {
			if _, err := tx.Keys().Get(ctx, p.ID, by.KeyID); err == nil {
				return errors.New(errors.Conflict, "the key in use is one of the project %s", p.Name).
					WithHint("use an administrator's key of another project, so that one is left")
			} else if !errors.HasCode(err, errors.NotFound) {
				return err
			}
		}
		return canGo(ctx, tx, p)
	})
	if err != nil {
		return err
	}
	if s.Emptier != nil {
		if err := s.Emptier.EmptyProject(ctx, p.ID); err != nil {
			return err
		}
	}
	if err := s.forgetPast(ctx, p); err != nil {
		return err
	}
	// Once more, for what came meanwhile.
	return s.Store.Update(ctx, func(tx storage.Tx) error {
		if err := canGo(ctx, tx, p); err != nil {
			return err
		}
		return tx.Projects().Delete(ctx, p.ID)
	})
}

// pastBatch bounds how many rows one transaction removes of a project that goes.
const pastBatch = 1000

// forgetPast removes what was and ended in a project, which may be millions of rows,
// in transactions of their own: others have their turns in between. Where it is cut
// short, deleting the project again goes on with it.
func (s *Service) forgetPast(ctx context.Context, p *domain.Project) error {
	for n := pastBatch; n == pastBatch; {
		if err := s.Store.Update(ctx, func(tx storage.Tx) (err error) {
			if err := canGo(ctx, tx, p); err != nil {
				return err
			}
			n, err = tx.Projects().DeletePast(ctx, p.ID, pastBatch)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

func canGo(ctx context.Context, tx storage.Tx, p *domain.Project) error {
	all, err := tx.Projects().List(ctx, storage.Page{Limit: 2})
	if err != nil {
		return err
	}
	if len(all.Items) < 2 {
		return errors.New(errors.Conflict, "the project %s is the last", p.Name).WithHint("make another one first")
	}
	vms, err := tx.VMs().List(ctx, storage.VMFilter{ProjectID: p.ID, Page: storage.Page{Limit: 1}})
	if err != nil {
		return err
	}
	if len(vms.Items) > 0 {
		return errors.New(errors.Conflict, "the project %s has VMs", p.Name).WithHint("delete them first")
	}
	tasks, err := tx.Tasks().List(ctx, storage.TaskFilter{
		ProjectID: p.ID, States: []domain.TaskState{domain.TaskPending, domain.TaskRunning}, Page: storage.Page{Limit: 1},
	})
	if err != nil {
		return err
	}
	if len(tasks.Items) > 0 {
		return errors.New(errors.Conflict, "a task of the project %s is under way: %s", p.Name, tasks.Items[0].ID).WithHint("wait for it, or cancel it")
	}
	templates, err := tx.Templates().List(ctx, storage.TemplateFilter{ProjectID: p.ID, Page: storage.Page{Limit: storage.MaxPage}})
	if err != nil {
		return err
	}
	for _, t := range templates.Items {
		if t.Public {
			return errors.New(errors.Conflict, "the template %s of the project %s is everybody's", t.Name, p.Name).
				WithHint("delete the template first, if nobody needs it")
		}
	}
	return nil
}
