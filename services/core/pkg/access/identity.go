package access

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// Identity is what an identity provider says of somebody.
type Identity struct {
	Issuer, Subject string
	// Name is the verified email address, or empty.
	Name string
	// Adopt lets the user with that name become this subject's, where an
	// administrator made it and it is nobody's yet.
	Adopt bool
	// Create makes users who are not known.
	Create bool
	// Sync makes memberships and administrators as the provider says they are;
	// those that somebody gave stay.
	Sync  bool
	Admin bool
	Roles []ProjectRole
}

// ProjectRole is a role in a project.
type ProjectRole struct {
	Project string // its name; empty: the first
	Role    domain.Role
}

type byIdentity string

// Identify finds the user that an identity is of, and brings it to what the
// provider says. Returns NotFound for users who are not known and shall not be
// made, or are disabled.
func (l *Lookup) Identify(ctx context.Context, id Identity) (domain.ID, error) {
	if id.Issuer == "" || id.Subject == "" || len(id.Issuer) > maxSubject || len(id.Subject) > maxSubject {
		return "", errors.New(errors.NotFound, "the identity names nobody")
	}
	// The same words while nothing changed have nothing to bring about.
	return remembered(l, byIdentity(fmt.Sprintf("%q", []any{id})), func() (domain.ID, error) { return l.identify(ctx, id) })
}

func (l *Lookup) identify(ctx context.Context, id Identity) (domain.ID, error) {
	var user *domain.User
	now := l.now().UTC().Truncate(time.Microsecond)
	settled := false
	look := func(tx storage.Tx) (err error) {
		user, err = tx.Users().BySubject(ctx, id.Issuer, id.Subject)
		if err != nil || !id.Sync || user.DisabledAt != nil {
			settled = err == nil
			return err
		}
		add, drop, err := differences(ctx, tx, user, id)
		settled = len(add)+len(drop) == 0 && !adminDiffers(user, id)
		return err
	}
	err := l.store.View(ctx, look)
	if errors.HasCode(err, errors.NotFound) && (id.Create || id.Adopt) || err == nil && !settled {
		err = l.store.Update(ctx, func(tx storage.Tx) error {
			if err := look(tx); err != nil && !errors.HasCode(err, errors.NotFound) {
				return err
			} else if err != nil {
				if user, err = welcome(ctx, tx, id, now); err != nil {
					return err
				}
			}
			return bring(ctx, tx, user, id, now)
		})
	}
	switch {
	case err != nil:
		return "", err
	case user.DisabledAt != nil:
		return "", errors.New(errors.NotFound, "the user is disabled")
	}
	return user.ID, nil
}

// welcome finds or makes the user of a subject that is new. Returns NotFound.
func welcome(ctx context.Context, tx storage.Tx, id Identity, now time.Time) (*domain.User, error) {
	name := userName(id.Name)
	if name != "" && domain.ValidateUserName("name", name) != nil {
		name = ""
	}
	if name != "" {
		u, err := tx.Users().ByName(ctx, name)
		switch {
		case errors.HasCode(err, errors.NotFound):
		case err != nil:
			return nil, err
		case u.Subject == "" && id.Adopt:
			u.Issuer, u.Subject, u.UpdatedAt = id.Issuer, id.Subject, now
			return u, tx.Users().Update(ctx, u)
		default:
			name = "" // somebody else's
		}
	}
	if !id.Create {
		return nil, errors.New(errors.NotFound, "the user is not known")
	}
	if name == "" {
		sum := sha256.Sum256([]byte(id.Issuer + "\n" + id.Subject))
		name = "user-" + hex.EncodeToString(sum[:8])
	}
	u := &domain.User{ID: domain.NewID(), Name: name, Issuer: id.Issuer, Subject: id.Subject, CreatedAt: now, UpdatedAt: now}
	return u, tx.Users().Insert(ctx, u)
}

// adminDiffers reports whether the provider says otherwise than the user is.
// An administrator that another made stays one.
func adminDiffers(u *domain.User, id Identity) bool {
	return id.Admin && !u.Admin || !id.Admin && u.Admin && u.AdminBy == id.Issuer
}

// differences are the memberships that the provider gives and the user has not
// got, and those that the provider gave and gives no longer.
func differences(ctx context.Context, tx storage.Tx, u *domain.User, id Identity) (add, drop []*domain.Member, err error) {
	want := map[domain.ID]domain.Role{}
	for _, r := range id.Roles {
		var p *domain.Project
		if r.Project == "" {
			p, err = tx.Projects().First(ctx)
		} else {
			p, err = tx.Projects().ByName(ctx, r.Project)
		}
		if errors.HasCode(err, errors.NotFound) {
			continue // it may come
		}
		if err != nil {
			return nil, nil, err
		}
		if had, ok := want[p.ID]; !ok || r.Role.Scope().Includes(had.Scope()) {
			want[p.ID] = r.Role
		}
	}
	have, err := tx.Members().OfUser(ctx, u.ID)
	if err != nil {
		return nil, nil, err
	}
	for _, m := range have {
		role, wanted := want[m.ProjectID]
		delete(want, m.ProjectID)
		switch {
		case m.Source != id.Issuer: // given by somebody
		case !wanted:
			drop = append(drop, m)
		case role != m.Role:
			m.Role = role
			add = append(add, m)
		}
	}
	for project, role := range want {
		add = append(add, &domain.Member{ProjectID: project, UserID: u.ID, Role: role, Source: id.Issuer})
	}
	return add, drop, nil
}

// bring makes a user what the provider says.
func bring(ctx context.Context, tx storage.Tx, u *domain.User, id Identity, now time.Time) error {
	if !id.Sync || u.DisabledAt != nil {
		return nil
	}
	if adminDiffers(u, id) {
		u.Admin, u.AdminBy, u.UpdatedAt = id.Admin, "", now
		if id.Admin {
			u.AdminBy = id.Issuer
		}
		if err := tx.Users().Update(ctx, u); err != nil {
			return err
		}
	}
	add, drop, err := differences(ctx, tx, u, id)
	if err != nil {
		return err
	}
	for _, m := range drop {
		if err := tx.Members().Delete(ctx, m.ProjectID, m.UserID); err != nil {
			return err
		}
	}
	for _, m := range add {
		if m.CreatedAt.IsZero() {
			m.CreatedAt = now
		}
		if err := tx.Members().Put(ctx, m); err != nil {
			return err
		}
	}
	return nil
}
