package access

import (
	"context"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// maxSubject bounds what an identity provider calls somebody, and its own name.
const maxSubject = 255

// CreateUser is who a new user shall be. Issuer and Subject, both or none, are
// the user's for an identity provider.
type CreateUser struct {
	Name            string
	Issuer, Subject string
	Admin           bool
}

// PatchUser changes what may change. Nil leaves a thing as it is.
type PatchUser struct {
	Name            *string
	Issuer, Subject *string // both or none; empty: no identity provider's
	Admin           *bool
	Disabled        *bool
}

// findUser finds a user by ID or name. Returns NotFound.
func findUser(ctx context.Context, tx storage.Tx, nameOrID string) (*domain.User, error) {
	if domain.IsID(nameOrID) {
		return tx.Users().Get(ctx, domain.ID(nameOrID))
	}
	name := userName(nameOrID)
	if domain.ValidateUserName("user", name) != nil {
		return nil, errors.New(errors.NotFound, "no user is named %q", clip(nameOrID))
	}
	return tx.Users().ByName(ctx, name)
}

// userName is how a name is kept: there are no two that differ by case.
func userName(name string) string { return strings.ToLower(name) }

func checkSubject(issuer, subject string) error {
	switch {
	case (issuer == "") != (subject == ""):
		return errors.New(errors.InvalidArgument, "an issuer and a subject belong together").WithField("subject")
	case len(issuer) > maxSubject || len(subject) > maxSubject:
		return errors.New(errors.InvalidArgument, "an issuer and a subject have at most %d bytes", maxSubject).WithField("subject")
	}
	return nil
}

// CreateUser is for administrators. Returns AlreadyExists, InvalidArgument.
func (s *Service) CreateUser(ctx context.Context, by vmm.Caller, req CreateUser) (*domain.User, error) {
	if err := by.AdminsOnly(); err != nil {
		return nil, err
	}
	name := userName(req.Name)
	if err := domain.ValidateUserName("name", name); err != nil {
		return nil, err
	}
	if err := checkSubject(req.Issuer, req.Subject); err != nil {
		return nil, err
	}
	now := s.time()
	u := &domain.User{ID: domain.NewID(), Name: name, Issuer: req.Issuer, Subject: req.Subject, Admin: req.Admin, CreatedAt: now, UpdatedAt: now}
	return u, s.Store.Update(ctx, func(tx storage.Tx) error { return tx.Users().Insert(ctx, u) })
}

// GetUser finds a user by ID or name, for administrators. Returns NotFound.
func (s *Service) GetUser(ctx context.Context, by vmm.Caller, nameOrID string) (*domain.User, error) {
	if err := by.AdminsOnly(); err != nil {
		return nil, err
	}
	var u *domain.User
	err := s.Store.View(ctx, func(tx storage.Tx) (err error) {
		u, err = findUser(ctx, tx, nameOrID)
		return err
	})
	return u, err
}

// ListUsers is for administrators.
func (s *Service) ListUsers(ctx context.Context, by vmm.Caller, p vmm.Page) (vmm.List[*domain.User], error) {
	var list vmm.List[*domain.User]
	if err := by.AdminsOnly(); err != nil {
		return list, err
	}
	err := s.Store.View(ctx, func(tx storage.Tx) (err error) {
		list, err = tx.Users().List(ctx, p)
		return err
	})
	return list, err
}

// PatchUser changes a user, for administrators. One that is disabled can do
// nothing any more from then on, nor can the user's keys and tokens. Returns
// NotFound, AlreadyExists, InvalidArgument, and Conflict for administrators
// who would lock themselves out.
func (s *Service) PatchUser(ctx context.Context, by vmm.Caller, nameOrID string, p PatchUser) (*domain.User, error) {
	if err := by.AdminsOnly(); err != nil {
		return nil, err
	}
	var u *domain.User
	err := s.Store.Update(ctx, func(tx storage.Tx) (err error) {
		if u, err = findUser(ctx, tx, nameOrID); err != nil {
			return err
		}
		if err := s.patch(u, p); err != nil {
			return err
		}
		if u.ID == by.UserID && (!u.Admin || u.DisabledAt != nil) {
			return errors.New(errors.Conflict, "administrators cannot lock themselves out").WithHint("let another administrator do it")
		}
		return tx.Users().Update(ctx, u)
	})
	return u, err
}

func (s *Service) patch(u *domain.User, p PatchUser) error {
	if p.Name != nil {
		u.Name = userName(*p.Name)
		if err := domain.ValidateUserName("name", u.Name); err != nil {
			return err
		}
	}
	if p.Issuer != nil || p.Subject != nil {
		if p.Issuer == nil || p.Subject == nil {
			return errors.New(errors.InvalidArgument, "an issuer and a subject belong together").WithField("subject")
		}
		if err := checkSubject(*p.Issuer, *p.Subject); err != nil {
			return err
		}
		u.Issuer, u.Subject = *p.Issuer, *p.Subject
	}
	if p.Admin != nil {
		u.Admin, u.AdminBy = *p.Admin, ""
	}
	now := s.time()
	switch {
	case p.Disabled == nil:
	case !*p.Disabled:
		u.DisabledAt = nil
	case u.DisabledAt == nil:
		u.DisabledAt = &now
	}
	u.UpdatedAt = now
	return nil
}

// DeleteUser removes a user and ends the user's keys and memberships, for
// administrators. Returns NotFound, Conflict for the caller.
func (s *Service) DeleteUser(ctx context.Context, by vmm.Caller, nameOrID string) error {
	if err := by.AdminsOnly(); err != nil {
		return err
	}
	return s.Store.Update(ctx, func(tx storage.Tx) error {
		u, err := findUser(ctx, tx, nameOrID)
		if err != nil {
			return err
		}
		if u.ID == by.UserID {
			return errors.New(errors.Conflict, "administrators cannot lock themselves out").WithHint("let another administrator do it")
		}
		return tx.Users().Delete(ctx, u.ID, s.time())
	})
}
