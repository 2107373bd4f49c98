package sqlrepo

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type projects struct {
	s  Session
	tx *Tx
}

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

func (r projects) First(ctx context.Context) (*domain.Project, error) {
	return queryOne(ctx, r.s, scanProject, errors.New(errors.NotFound, "there is no project"), projectSelect+" ORDER BY created_at, id LIMIT 1")
}

func (r projects) Rename(ctx context.Context, id domain.ID, name string) error {
	r.tx.wroteKeys = true
	n, err := r.s.Exec(ctx, "UPDATE projects SET name = ? WHERE id = ?", name, string(id))
	switch {
	case violated(err, Unique, "name"):
		return errors.Wrap(err, errors.AlreadyExists, "a project named %q exists already", name).WithField("name")
	case err == nil && n == 0:
		return notFound("project", id)
	}
	return err
}

// tenantTables are the tables whose rows go with their project, those that
// refer to others first. Rows that go with these (ON DELETE CASCADE) need no
// mention. What happened (outbox) and was used (usage) in a project that is
// gone is nobody's any longer and goes as well.
var tenantTables = []string{
	"snapshots", "templates", "names", "tasks", "builds", "volume_mounts", "vms", "output_packs", "archives", "volumes",
	"usage", "outbox", "api_keys", "memberships", "idempotency", "answers", "secrets", "webhooks",
}

// pastRows are the rows that a project may have very many of. What refers to
// others comes first, so that little goes with a row that does; what was used comes
// last, for the project may be found to stay. Keys of requests are not among
// them: in one that stays, each is to be carried out once.
var pastRows = []string{
	"outbox WHERE seq IN (SELECT seq FROM outbox WHERE project_id = ? LIMIT ?)",
	"tasks WHERE (id, project_id) IN (SELECT id, project_id FROM tasks WHERE project_id = ? AND ended_at IS NOT NULL LIMIT ?)",
	"executions WHERE (id, project_id) IN (SELECT id, project_id FROM executions WHERE project_id = ? AND ended_at IS NOT NULL LIMIT ?)",
	"vms WHERE (id, project_id) IN (SELECT id, project_id FROM vms WHERE project_id = ? AND observed = 'deleted' LIMIT ?)",
	"archives WHERE (id, project_id) IN (SELECT id, project_id FROM archives WHERE project_id = ? LIMIT ?)",
	"usage WHERE (vm_id, project_id, from_at) IN (SELECT vm_id, project_id, from_at FROM usage WHERE project_id = ? LIMIT ?)",
}

func (r projects) DeletePast(ctx context.Context, id domain.ID, limit int) (int, error) {
	limit = clampLimit(limit)
	left := limit
	drop := func(rows string, of domain.ID) error {
		if left == 0 {
			return nil
		}
		n, err := r.s.Exec(ctx, "DELETE FROM "+rows, string(of), left)
		left -= int(n)
		return fault(err, "deleting a project's past")
	}
	for _, rows := range pastRows {
		if err := drop(rows, id); err != nil {
			return 0, err
		}
	}
	hooks, err := queryAll(ctx, r.s, func(row Row) (*domain.ID, error) {
		hook := new(domain.ID)
		return hook, row.Scan(hook)
	}, "SELECT id FROM webhooks WHERE project_id = ?", string(id))
	if err != nil {
		return 0, err
	}
	for _, hook := range hooks { // deliveries are not found by project
		if err := drop("webhook_deliveries WHERE id IN (SELECT id FROM webhook_deliveries WHERE webhook_id = ? LIMIT ?)", *hook); err != nil {
			return 0, err
		}
	}
	return limit - left, nil
}

func (r projects) Delete(ctx context.Context, id domain.ID) error {
	if _, err := r.Get(ctx, id); err != nil {
		return err
	}
	r.tx.wroteKeys = true
	n, err := queryInt(ctx, r.s, "SELECT count(*) FROM vms WHERE project_id = ? AND observed <> 'deleted'", string(id))
	if err != nil {
		return err
	}
	if n > 0 {
		return errors.New(errors.Conflict, "the project has %d VMs", n).WithHint("delete them first")
	}
	n, err = queryInt(ctx, r.s, `SELECT count(*) FROM builds b WHERE b.project_id = ? AND (
		EXISTS (SELECT 1 FROM vms v WHERE v.build_id = b.id AND v.observed <> 'deleted' AND v.build_id <> '')
		OR EXISTS (SELECT 1 FROM snapshots s WHERE s.build_id = b.id AND s.project_id <> b.project_id)
		OR EXISTS (SELECT 1 FROM machines m WHERE m.build_id = b.id))`, string(id))
	if err != nil {
		return err
	}
	if n > 0 {
		return errors.New(errors.Conflict, "VMs or snapshots of other projects are made from templates of this one").
			WithHint("delete those first")
	}
	for _, table := range tenantTables {
		if _, err := r.s.Exec(ctx, "DELETE FROM "+table+" WHERE project_id = ?", string(id)); err != nil {
			return fault(err, "deleting a project's "+table)
		}
	}
	if _, err := r.s.Exec(ctx, "DELETE FROM projects WHERE id = ?", string(id)); err != nil {
		return fault(err, "deleting a project")
	}
	return nil
}

func (r projects) List(ctx context.Context, p storage.Page) (storage.List[*domain.Project], error) {
	return page(ctx, r.s, projectSelect, &where{}, p, scanProject, func(p *domain.Project) (time.Time, domain.ID) { return p.CreatedAt, p.ID })
}

type settings struct {
	s  Session
	tx *Tx
}

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
	if key == storage.SettingTokenKeys {
		r.tx.wroteKeys = true
	}
	_, err := r.s.Exec(ctx, "INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)
	return err
}

func (r settings) Init(ctx context.Context, key, value string) (string, error) {
	if _, err := r.s.Exec(ctx, "INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING", key, value); err != nil {
		return "", err
	}
	return r.Get(ctx, key)
}

func (r settings) Delete(ctx context.Context, key string) error {
	_, err := r.s.Exec(ctx, "DELETE FROM settings WHERE key = ?", key)
	return err
}
