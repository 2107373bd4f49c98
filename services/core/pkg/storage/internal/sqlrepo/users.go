package sqlrepo

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type users struct {
	s  Session
	tx *Tx
}

const (
	userColumns = "id, name, issuer, subject, admin, admin_by, disabled_at, created_at, updated_at"
	userSelect  = "SELECT " + userColumns + " FROM users"
)

func scanUser(r Row) (*domain.User, error) {
	u := new(domain.User)
	return u, r.Scan(&u.ID, &u.Name, &u.Issuer, &u.Subject, scanFlag{&u.Admin}, &u.AdminBy, scanOptTime{&u.DisabledAt},
		scanTime{&u.CreatedAt}, scanTime{&u.UpdatedAt})
}

func (r users) Get(ctx context.Context, id domain.ID) (*domain.User, error) {
	return queryOne(ctx, r.s, scanUser, notFound("user", id), userSelect+" WHERE id = ?", string(id))
}

func (r users) ByName(ctx context.Context, name string) (*domain.User, error) {
	return queryOne(ctx, r.s, scanUser, errors.New(errors.NotFound, "no user is named %q", name), userSelect+" WHERE name = ?", name)
}

func (r users) BySubject(ctx context.Context, issuer, subject string) (*domain.User, error) {
	return queryOne(ctx, r.s, scanUser, errors.New(errors.NotFound, "no user has this subject"),
		userSelect+" WHERE issuer = ? AND subject = ? AND subject <> ''", issuer, subject)
}

func (r users) Insert(ctx context.Context, u *domain.User) error {
	r.tx.wroteKeys = true
	_, err := r.s.Exec(ctx, "INSERT INTO users ("+userColumns+") VALUES ("+marks(userColumns)+")",
		string(u.ID), u.Name, u.Issuer, u.Subject, flag(u.Admin), u.AdminBy, optMicros(u.DisabledAt), micros(u.CreatedAt), micros(u.UpdatedAt))
	return userTaken(err, u)
}

func (r users) Update(ctx context.Context, u *domain.User) error {
	r.tx.wroteKeys = true
	n, err := r.s.Exec(ctx, "UPDATE users SET "+sets("name, issuer, subject, admin, admin_by, disabled_at, updated_at")+" WHERE id = ?",
		u.Name, u.Issuer, u.Subject, flag(u.Admin), u.AdminBy, optMicros(u.DisabledAt), micros(u.UpdatedAt), string(u.ID))
	if err == nil && n == 0 {
		return notFound("user", u.ID)
	}
	return userTaken(err, u)
}

func userTaken(err error, u *domain.User) error {
	switch {
	case violated(err, Unique, "subject"):
		return errors.Wrap(err, errors.AlreadyExists, "a user with this subject exists already").WithField("subject")
	case violated(err, Unique, "name"):
		return errors.Wrap(err, errors.AlreadyExists, "a user named %q exists already", u.Name).WithField("name")
	case violated(err, Unique):
		return errors.Wrap(err, errors.AlreadyExists, "user %s exists already", u.ID)
	}
	return err
}

func (r users) Delete(ctx context.Context, id domain.ID, at time.Time) error {
	r.tx.wroteKeys = true
	n, err := r.s.Exec(ctx, "DELETE FROM users WHERE id = ?", string(id)) // memberships go with it
	if err == nil && n == 0 {
		return notFound("user", id)
	}
	if err != nil {
		return err
	}
	_, err = r.s.Exec(ctx, "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ?) WHERE user_id = ? AND user_id <> ''", micros(at), string(id))
	return err
}

func (r users) List(ctx context.Context, p storage.Page) (storage.List[*domain.User], error) {
	return page(ctx, r.s, userSelect, &where{}, p, scanUser, func(u *domain.User) (time.Time, domain.ID) { return u.CreatedAt, u.ID })
}

type members struct {
	s  Session
	tx *Tx
}

const memberSelect = "SELECT project_id, user_id, role, source, created_at FROM memberships"

func scanMember(r Row) (*domain.Member, error) {
	m := new(domain.Member)
	return m, r.Scan(&m.ProjectID, &m.UserID, &m.Role, &m.Source, scanTime{&m.CreatedAt})
}

func (r members) Get(ctx context.Context, project, user domain.ID) (*domain.Member, error) {
	return queryOne(ctx, r.s, scanMember, notFound("member", user), memberSelect+" WHERE project_id = ? AND user_id = ?", string(project), string(user))
}

func (r members) Put(ctx context.Context, m *domain.Member) error {
	r.tx.wroteKeys = true
	_, err := r.s.Exec(ctx, `INSERT INTO memberships (project_id, user_id, role, source, created_at) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (project_id, user_id) DO UPDATE SET role = excluded.role, source = excluded.source`,
		string(m.ProjectID), string(m.UserID), string(m.Role), m.Source, micros(m.CreatedAt))
	if violated(err, Reference) {
		return errors.Wrap(err, errors.NotFound, "the project %s or the user %s does not exist", m.ProjectID, m.UserID)
	}
	return err
}

func (r members) Delete(ctx context.Context, project, user domain.ID) error {
	r.tx.wroteKeys = true
	n, err := r.s.Exec(ctx, "DELETE FROM memberships WHERE project_id = ? AND user_id = ?", string(project), string(user))
	if err == nil && n == 0 {
		return notFound("member", user)
	}
	return err
}

func (r members) OfProject(ctx context.Context, project domain.ID) ([]*domain.Member, error) {
	return queryAll(ctx, r.s, scanMember, memberSelect+" WHERE project_id = ? ORDER BY created_at, user_id LIMIT ?", string(project), storage.MaxPage)
}

func (r members) OfUser(ctx context.Context, user domain.ID) ([]*domain.Member, error) {
	return queryAll(ctx, r.s, scanMember, memberSelect+" WHERE user_id = ? ORDER BY created_at, project_id LIMIT ?", string(user), storage.MaxPage)
}
