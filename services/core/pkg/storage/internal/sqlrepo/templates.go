package sqlrepo

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type names struct{ s Session }

func (r names) Resolve(ctx context.Context, project domain.ID, name string) (storage.Named, error) {
	scan := func(row Row) (*storage.Named, error) {
		n := new(storage.Named)
		return n, row.Scan(&n.Kind, &n.ProjectID, &n.ID)
	}
	absent := errors.New(errors.NotFound, "no template or snapshot is named %q", name)
	n, err := queryOne(ctx, r.s, scan, absent, "SELECT kind, project_id, subject_id FROM names WHERE project_id = ? AND name = ?", string(project), name)
	if errors.HasCode(err, errors.NotFound) {
		n, err = queryOne(ctx, r.s, scan, absent,
			"SELECT 'template', project_id, id FROM templates WHERE name = ? AND public = 1 ORDER BY created_at LIMIT 1", name)
	}
	if err != nil {
		return storage.Named{}, err
	}
	return *n, nil
}

func (r names) take(ctx context.Context, project domain.ID, name string, kind storage.Kind, subject domain.ID) error {
	if name == "" {
		return nil
	}
	_, err := r.s.Exec(ctx, "INSERT INTO names (project_id, name, kind, subject_id) VALUES (?, ?, ?, ?)",
		string(project), name, string(kind), string(subject))
	switch {
	case violated(err, Unique):
		return errors.Wrap(err, errors.AlreadyExists, "a template or snapshot named %q exists already", name).WithField("name")
	case violated(err, Reference):
		return errors.Wrap(err, errors.NotFound, "project %s does not exist", project)
	}
	return err
}

func (r names) release(ctx context.Context, project, subject domain.ID) error {
	_, err := r.s.Exec(ctx, "DELETE FROM names WHERE subject_id = ? AND project_id = ?", string(subject), string(project))
	return err
}

type templates struct{ s Session }

const (
	templateColumns = "id, project_id, name, public, created_at, updated_at, revision"
	templateSelect  = "SELECT " + templateColumns + " FROM templates"
)

func (r templates) scan(row Row) (*domain.Template, error) {
	t := new(domain.Template)
	return t, row.Scan(&t.ID, &t.ProjectID, &t.Name, scanFlag{&t.Public}, scanTime{&t.CreatedAt}, scanTime{&t.UpdatedAt}, &t.Revision)
}

// tagged fills in the tags.
func (r templates) tagged(ctx context.Context, t *domain.Template) error {
	t.Tags = make(map[string]domain.ID)
	return r.s.Query(ctx, func(row Row) error {
		var tag string
		var build domain.ID
		err := row.Scan(&tag, &build)
		t.Tags[tag] = build
		return err
	}, "SELECT tag, build_id FROM tags WHERE template_id = ? AND project_id = ?", string(t.ID), string(t.ProjectID))
}

func (r templates) one(ctx context.Context, absent *errors.Error, cond string, args ...any) (*domain.Template, error) {
	t, err := queryOne(ctx, r.s, r.scan, absent, templateSelect+" WHERE "+cond, args...)
	if err != nil {
		return nil, err
	}
	return t, r.tagged(ctx, t)
}

func (r templates) Get(ctx context.Context, project, id domain.ID) (*domain.Template, error) {
	absent := notFound("template", id)
	if project == storage.System {
		return r.one(ctx, absent, "id = ?", string(id))
	}
	return r.one(ctx, absent, "id = ? AND (project_id = ? OR public = 1)", string(id), string(project))
}

func (r templates) ByName(ctx context.Context, project domain.ID, name string) (*domain.Template, error) {
	absent := errors.New(errors.NotFound, "no template is named %q", name)
	own, err := queryOne(ctx, r.s, func(row Row) (*domain.ID, error) {
		id := new(domain.ID)
		return id, row.Scan(id)
	}, absent, "SELECT subject_id FROM names WHERE project_id = ? AND name = ? AND kind = 'template'", string(project), name)
	switch {
	case err == nil:
		return r.one(ctx, absent, "id = ? AND project_id = ?", string(*own), string(project))
	case errors.HasCode(err, errors.NotFound):
		return r.one(ctx, absent, "name = ? AND public = 1 ORDER BY created_at LIMIT 1", name)
	}
	return nil, err
}

func (r templates) Insert(ctx context.Context, t *domain.Template) error {
	if err := names(r).take(ctx, t.ProjectID, t.Name, storage.KindTemplate, t.ID); err != nil {
		return err
	}
	_, err := r.s.Exec(ctx, "INSERT INTO templates ("+templateColumns+") VALUES ("+marks(templateColumns)+")",
		string(t.ID), string(t.ProjectID), t.Name, flag(t.Public), micros(t.CreatedAt), micros(t.UpdatedAt), 1)
	if violated(err, Unique) {
		return errors.Wrap(err, errors.AlreadyExists, "template %s exists already", t.ID)
	}
	if err != nil {
		return fault(err, "inserting a template")
	}
	t.Revision = 1
	return r.putTags(ctx, t)
}

func (r templates) Update(ctx context.Context, t *domain.Template) error {
	n, err := r.s.Exec(ctx, "UPDATE templates SET name = ?, public = ?, updated_at = ?, revision = ? WHERE id = ? AND project_id = ? AND revision = ?",
		t.Name, flag(t.Public), micros(t.UpdatedAt), t.Revision+1, string(t.ID), string(t.ProjectID), t.Revision)
	if err != nil {
		return fault(err, "updating a template")
	}
	if n == 0 {
		// By the row itself: another project's public template is not one to update.
		if found, err := queryInt(ctx, r.s, "SELECT COUNT(*) FROM templates WHERE id = ? AND project_id = ?", string(t.ID), string(t.ProjectID)); err != nil {
			return err
		} else if found == 0 {
			return notFound("template", t.ID)
		}
		return changedMeanwhile("template")
	}
	ns := names(r)
	if err := ns.release(ctx, t.ProjectID, t.ID); err != nil {
		return err
	}
	if err := ns.take(ctx, t.ProjectID, t.Name, storage.KindTemplate, t.ID); err != nil {
		return err
	}
	if _, err := r.s.Exec(ctx, "DELETE FROM tags WHERE template_id = ? AND project_id = ?", string(t.ID), string(t.ProjectID)); err != nil {
		return err
	}
	t.Revision++
	return r.putTags(ctx, t)
}

func (r templates) putTags(ctx context.Context, t *domain.Template) error {
	for _, tag := range slices.Sorted(maps.Keys(t.Tags)) {
		_, err := r.s.Exec(ctx, "INSERT INTO tags (template_id, project_id, tag, build_id) VALUES (?, ?, ?, ?)",
			string(t.ID), string(t.ProjectID), tag, string(t.Tags[tag]))
		if violated(err, Reference) {
			return errors.Wrap(err, errors.NotFound, "build %s of tag %q does not exist", t.Tags[tag], tag)
		}
		if err != nil {
			return fault(err, "tagging a build")
		}
	}
	return nil
}

func (r templates) Delete(ctx context.Context, project, id domain.ID) error {
	w := where{}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	var owner domain.ID
	found := false
	if err := r.s.Query(ctx, func(row Row) error {
		found = true
		return row.Scan(&owner)
	}, "DELETE FROM templates"+w.String()+" RETURNING project_id", w.args...); err != nil {
		return fault(err, "deleting a template")
	}
	if !found {
		return notFound("template", id)
	}
	return names(r).release(ctx, owner, id)
}

func (r templates) List(ctx context.Context, f storage.TemplateFilter) (storage.List[*domain.Template], error) {
	w := &where{}
	if f.IncludePublic && f.ProjectID != "" {
		w.add("(project_id = ? OR public = 1)", string(f.ProjectID))
	} else {
		w.eq("project_id", f.ProjectID)
	}
	out, err := page(ctx, r.s, templateSelect, w, f.Page, r.scan, func(t *domain.Template) (time.Time, domain.ID) { return t.CreatedAt, t.ID })
	for _, t := range out.Items {
		if err = r.tagged(ctx, t); err != nil {
			break
		}
	}
	return out, err
}
