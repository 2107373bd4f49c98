package access

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// MaxMembers bounds the members of a project.
const MaxMembers = storage.MaxPage

// Member is a membership with its user.
type Member struct {
	domain.Member
	User *domain.User
}

// ListMembers lists the members of the caller's project, oldest first.
func (s *Service) ListMembers(ctx context.Context, by vmm.Caller) ([]Member, error) {
	var out []Member
	err := s.Store.View(ctx, func(tx storage.Tx) error {
		list, err := tx.Members().OfProject(ctx, by.ProjectID)
		if err != nil {
			return err
		}
		for _, m := range list {
			u, err := tx.Users().Get(ctx, m.UserID)
			if err != nil {
				return err
			}
			out = append(out, Member{*m, u})
		}
		return nil
	})
	return out, err
}

// PutMember gives a user, by ID or name, a role in the caller's project.
// Returns NotFound, InvalidArgument, PermissionDenied for a role with more than
// the caller has, Conflict when there are too many.
func (s *Service) PutMember(ctx context.Context, by vmm.Caller, user string, role domain.Role) (Member, error) {
	if err := role.Validate("role"); err != nil {
		return Member{}, err
	}
	if err := noWider(by, role.Scope(), "the role"); err != nil {
		return Member{}, err
	}
	var out Member
	err := s.Store.Update(ctx, func(tx storage.Tx) error {
		u, err := findUser(ctx, tx, user)
		if err != nil {
			return err
		}
		list, err := tx.Members().OfProject(ctx, by.ProjectID)
		if err != nil {
			return err
		}
		m := &domain.Member{ProjectID: by.ProjectID, UserID: u.ID, Role: role, CreatedAt: s.time()}
		known := false
		for _, old := range list {
			if old.UserID == u.ID {
				known, m.CreatedAt = true, old.CreatedAt
			}
		}
		if !known && len(list) >= MaxMembers {
			return errors.New(errors.Conflict, "the project has %d members, and no more are allowed", len(list))
		}
		out = Member{*m, u}
		return tx.Members().Put(ctx, m)
	})
	return out, err
}

// RemoveMember ends a user's membership in the caller's project; the user's
// keys there end with it. Returns NotFound, Conflict for a membership that an
// identity provider gives, as it would be back at once.
func (s *Service) RemoveMember(ctx context.Context, by vmm.Caller, user string) error {
	return s.Store.Update(ctx, func(tx storage.Tx) error {
		u, err := findUser(ctx, tx, user)
		if errors.HasCode(err, errors.NotFound) {
			u, err = &domain.User{}, nil // answered like a user who is elsewhere
		}
		if err != nil {
			return err
		}
		m, err := tx.Members().Get(ctx, by.ProjectID, u.ID)
		if errors.HasCode(err, errors.NotFound) {
			return errors.New(errors.NotFound, "no member is called %q", clip(user))
		}
		if err != nil {
			return err
		}
		if m.Source != "" {
			return errors.New(errors.Conflict, "the identity provider %s makes %s a member", m.Source, u.Name).
				WithHint("change it there, or have the user disabled")
		}
		return tx.Members().Delete(ctx, by.ProjectID, u.ID)
	})
}
