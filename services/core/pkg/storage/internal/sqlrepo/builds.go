package sqlrepo

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type builds struct{ s Session }

const (
	buildFixed    = "id, project_id, template_id, worker_id, platform, source, warm, created_at"
	buildChanging = "state, shape, kernel, driver_version, artifacts, default_user, env, work_dir, reason, ready_at, revision"
	buildColumns  = buildFixed + ", " + buildChanging
	buildSelect   = "SELECT " + buildColumns + " FROM builds"

	buildUsed = `(EXISTS (SELECT 1 FROM vms WHERE vms.build_id = builds.id AND vms.build_id <> '' AND vms.observed <> 'deleted')
		OR EXISTS (SELECT 1 FROM snapshots WHERE snapshots.build_id = builds.id)
		OR EXISTS (SELECT 1 FROM machines WHERE machines.build_id = builds.id))`
)

func buildChangingOf(b *domain.Build, revision int64) []any {
	return []any{
		string(b.State), jsonText{b.Shape}, b.Kernel, b.DriverVersion, jsonText{b.Artifacts}, b.DefaultUser, jsonText{b.Env},
		b.WorkDir, b.Reason, optMicros(b.ReadyAt), revision,
	}
}

func scanBuild(r Row) (*domain.Build, error) {
	b := new(domain.Build)
	return b, r.Scan(&b.ID, &b.ProjectID, &b.TemplateID, &b.WorkerID, &b.Platform, jsonText{&b.Source}, jsonText{&b.Warm}, scanTime{&b.CreatedAt},
		&b.State, jsonText{&b.Shape}, &b.Kernel, &b.DriverVersion, jsonText{&b.Artifacts}, &b.DefaultUser, jsonText{&b.Env},
		&b.WorkDir, &b.Reason, scanOptTime{&b.ReadyAt}, &b.Revision)
}

func (r builds) Get(ctx context.Context, project, id domain.ID) (*domain.Build, error) {
	absent := notFound("build", id)
	if project == storage.System {
		return queryOne(ctx, r.s, scanBuild, absent, buildSelect+" WHERE id = ?", string(id))
	}
	return queryOne(ctx, r.s, scanBuild, absent, buildSelect+` WHERE id = ? AND (project_id = ? OR EXISTS (
		SELECT 1 FROM templates t WHERE t.id = builds.template_id AND t.project_id = builds.project_id AND t.public = 1))`,
		string(id), string(project))
}

func (r builds) Named(ctx context.Context, project domain.ID, name, tag string) (domain.ID, error) {
	id, err := queryOne(ctx, r.s, func(row Row) (*domain.ID, error) {
		id := new(domain.ID)
		return id, row.Scan(id)
	}, errors.New(errors.NotFound, "no build of %q is tagged %q", name, tag),
		`SELECT g.build_id FROM names n JOIN tags g ON g.template_id = n.subject_id AND g.project_id = n.project_id
		WHERE n.project_id = ? AND n.name = ? AND n.kind = 'template' AND g.tag = ?
		UNION ALL SELECT build_id FROM tags
		WHERE (template_id, project_id) = (SELECT id, project_id FROM templates WHERE name = ? AND public = 1 ORDER BY created_at LIMIT 1)
		AND tag = ? AND NOT EXISTS (SELECT 1 FROM names WHERE project_id = ? AND name = ?)`,
		string(project), name, tag, name, tag, string(project), name)
	if err != nil {
		return "", err
	}
	return *id, nil
}

func (r builds) Insert(ctx context.Context, b *domain.Build) error {
	found, err := queryInt(ctx, r.s, "SELECT COUNT(*) FROM templates WHERE id = ? AND project_id = ?", string(b.TemplateID), string(b.ProjectID))
	if err != nil {
		return err
	}
	if found == 0 {
		return notFound("template", b.TemplateID)
	}
	args := []any{string(b.ID), string(b.ProjectID), string(b.TemplateID), string(b.WorkerID), b.Platform, jsonText{b.Source}, jsonText{b.Warm}, micros(b.CreatedAt)}
	_, err = r.s.Exec(ctx, "INSERT INTO builds ("+buildColumns+") VALUES ("+marks(buildColumns)+")", append(args, buildChangingOf(b, 1)...)...)
	if violated(err, Unique) {
		return errors.Wrap(err, errors.AlreadyExists, "build %s exists already", b.ID)
	}
	if err != nil {
		return fault(err, "inserting a build")
	}
	b.Revision = 1
	return nil
}

func (r builds) Update(ctx context.Context, b *domain.Build) error {
	n, err := r.s.Exec(ctx, "UPDATE builds SET "+sets(buildChanging)+" WHERE id = ? AND project_id = ? AND revision = ? AND state <> 'ready'",
		append(buildChangingOf(b, b.Revision+1), string(b.ID), string(b.ProjectID), b.Revision)...)
	if err != nil {
		return fault(err, "updating a build")
	}
	if n == 1 {
		b.Revision++
		return nil
	}
	stored, err := r.Get(ctx, b.ProjectID, b.ID)
	switch {
	case err != nil:
		return err
	case stored.ProjectID != b.ProjectID:
		return notFound("build", b.ID)
	case stored.State == domain.BuildReady:
		return errors.New(errors.Conflict, "build %s is ready and never changes", b.ID)
	}
	return changedMeanwhile("build")
}

func (r builds) Lose(ctx context.Context, b *domain.Build) error {
	n, err := r.s.Exec(ctx, "UPDATE builds SET state = ?, reason = ?, artifacts = ?, revision = ? WHERE id = ? AND project_id = ? AND revision = ?",
		string(b.State), b.Reason, jsonText{b.Artifacts}, b.Revision+1, string(b.ID), string(b.ProjectID), b.Revision)
	if err != nil {
		return fault(err, "updating a build")
	}
	if n == 0 {
		if _, err := r.Get(ctx, b.ProjectID, b.ID); err != nil {
			return err
		}
		return changedMeanwhile("build")
	}
	b.Revision++
	return nil
}

func (r builds) Delete(ctx context.Context, project, id domain.ID) error {
	w := where{}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	n, err := r.s.Exec(ctx, "DELETE FROM builds"+w.String()+" AND NOT "+buildUsed, w.args...)
	if err != nil {
		return fault(err, "deleting a build")
	}
	if n == 1 {
		return nil
	}
	found, err := queryInt(ctx, r.s, "SELECT COUNT(*) FROM builds"+w.String(), w.args...)
	if err != nil {
		return err
	}
	if found == 0 {
		return notFound("build", id)
	}
	return errors.New(errors.Conflict, "build %s is in use", id).WithHint("delete the VMs and snapshots made from it first")
}

func (r builds) InUse(ctx context.Context, id domain.ID) (bool, error) {
	n, err := queryInt(ctx, r.s, "SELECT COUNT(*) FROM builds WHERE id = ? AND "+buildUsed, string(id))
	return n > 0, err
}

func (r builds) Orphans(ctx context.Context, worker domain.ID, limit int) ([]*domain.Build, error) {
	return queryAll(ctx, r.s, scanBuild, buildSelect+" WHERE "+heldBy("builds")+` AND NOT EXISTS (
		SELECT 1 FROM templates t WHERE t.id = builds.template_id AND t.project_id = builds.project_id)
		AND NOT `+buildUsed+" ORDER BY created_at, id LIMIT ?", string(worker), clampLimit(limit))
}

func (r builds) Copied(ctx context.Context, b *domain.Build, worker domain.ID) error {
	_, err := r.s.Exec(ctx, "INSERT INTO copies (build_id, project_id, worker_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
		string(b.ID), string(b.ProjectID), string(worker))
	if violated(err, Reference) {
		return notFound("build", b.ID)
	}
	return err
}

func (r builds) Copies(ctx context.Context, b *domain.Build) ([]domain.ID, error) {
	return workersWith(ctx, r.s, "SELECT worker_id FROM copies WHERE build_id = ? AND project_id = ? ORDER BY worker_id", b.ID, b.ProjectID)
}

// workersWith lists those that have a copy of what a project owns.
func workersWith(ctx context.Context, s Session, query string, id, project domain.ID) ([]domain.ID, error) {
	var ids []domain.ID
	err := s.Query(ctx, func(row Row) error {
		var id domain.ID
		err := row.Scan(&id)
		ids = append(ids, id)
		return err
	}, query, string(id), string(project))
	return ids, err
}

func (r builds) List(ctx context.Context, f storage.BuildFilter) (storage.List[*domain.Build], error) {
	w := &where{}
	w.eq("template_id", f.TemplateID)
	w.eq("worker_id", f.WorkerID)
	w.eq("project_id", f.ProjectID)
	anyOf(w, "state", f.States)
	return page(ctx, r.s, buildSelect, w, f.Page, scanBuild, func(b *domain.Build) (time.Time, domain.ID) { return b.CreatedAt, b.ID })
}
