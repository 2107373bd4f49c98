package sqlrepo

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type projects struct{ s Session }

const projectSelect = "SELECT id, name, created_at FROM projects"

func scanProject(r Row) (*domain.Project, error) {
	p := new(domain.Project)
	return p, r.Scan(&p.ID, &p.Name, scanTime{&p.CreatedAt})
}

func (r projects) Get(ctx context.Context, id domain.ID) (*domain.Project, error) {
	return queryOne(ctx, r.s, scanProject, notFound("project", id), projectSelect+" WHERE id = ?", string(id))
}

func (r projects) ByName(ctx context.Context, name string) (*domain.Project, error) {
	return queryOne(ctx, r.s, scanProject, errors.New(errors.NotFound, "no project is named %q", name), projectSelect+" WHERE name = ?", name)
}

func (r projects) Insert(ctx context.Context, p *domain.Project) error {
	_, err := r.s.Exec(ctx, "INSERT INTO projects (id, name, created_at) VALUES (?, ?, ?)", string(p.ID), p.Name, micros(p.CreatedAt))
	switch {
	case violated(err, Unique, "name"):
		return errors.Wrap(err, errors.AlreadyExists, "a project named %q exists already", p.Name).WithField("name")
	case violated(err, Unique):
		return errors.Wrap(err, errors.AlreadyExists, "project %s exists already", p.ID)
	}
	return err
}

func (r projects) List(ctx context.Context, p storage.Page) (storage.List[*domain.Project], error) {
	return page(ctx, r.s, projectSelect, &where{}, p, scanProject, func(p *domain.Project) (time.Time, domain.ID) { return p.CreatedAt, p.ID })
}

type settings struct{ s Session }

func (r settings) Get(ctx context.Context, key string) (string, error) {
	v, err := queryOne(ctx, r.s, func(row Row) (*string, error) {
		v := new(string)
		return v, row.Scan(v)
	}, notFound("setting", key), "SELECT value FROM settings WHERE key = ?", key)
	if err != nil {
		return "", err
	}
	return *v, nil
}

func (r settings) Set(ctx context.Context, key, value string) error {
	_, err := r.s.Exec(ctx, "INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)
	return err
}

func (r settings) Init(ctx context.Context, key, value string) (string, error) {
	if _, err := r.s.Exec(ctx, "INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING", key, value); err != nil {
		return "", err
	}
	return r.Get(ctx, key)
}
