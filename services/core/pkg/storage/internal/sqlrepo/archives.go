package sqlrepo

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type archives struct{ s Session }

const (
	archiveFixed    = "id, project_id, worker_id, created_at"
	archiveChanging = "vms, executions, tasks, first_at, last_at, key_sealed, bytes"
	archiveColumns  = archiveFixed + ", " + archiveChanging
	archiveListed   = "SELECT " + archiveColumns + ", NULL FROM archives"
	archiveSelect   = "SELECT " + archiveColumns + ", content FROM archives"
)

func scanArchive(r Row) (*domain.Archive, error) {
	a := new(domain.Archive)
	return a, r.Scan(&a.ID, &a.ProjectID, &a.WorkerID, scanTime{&a.CreatedAt}, &a.VMs, &a.Executions, &a.Tasks,
		scanTime{&a.FirstAt}, scanTime{&a.LastAt}, &a.KeySealed, &a.Bytes, &a.Content)
}

func archiveChangingOf(a *domain.Archive) []any {
	return []any{
		int64(a.VMs), int64(a.Executions), int64(a.Tasks), micros(a.FirstAt), micros(a.LastAt), a.KeySealed, int64(len(a.Content)), a.Content,
	}
}

func (r archives) Get(ctx context.Context, project, id domain.ID) (*domain.Archive, error) {
	w := where{}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	return queryOne(ctx, r.s, scanArchive, notFound("archive", id), archiveSelect+w.String(), w.args...)
}

func (r archives) Last(ctx context.Context, project, worker domain.ID) (*domain.Archive, error) {
	return queryOne(ctx, r.s, scanArchive, notFound("archive", ""), archiveSelect+" WHERE project_id = ? AND worker_id = ? ORDER BY created_at DESC LIMIT 1",
		string(project), string(worker))
}

func (r archives) Insert(ctx context.Context, a *domain.Archive) error {
	args := append([]any{string(a.ID), string(a.ProjectID), string(a.WorkerID), micros(a.CreatedAt)}, archiveChangingOf(a)...)
	_, err := r.s.Exec(ctx, "INSERT INTO archives ("+archiveColumns+", content) VALUES ("+marks(archiveColumns+", content")+")", args...)
	if violated(err, Unique) {
		return errors.Wrap(err, errors.AlreadyExists, "archive %s exists already", a.ID)
	}
	return fault(err, "archiving")
}

func (r archives) Extend(ctx context.Context, a *domain.Archive, had int) error {
	n, err := r.s.Exec(ctx, "UPDATE archives SET ("+archiveChanging+", content) = ("+marks(archiveChanging+", content")+`)
		WHERE id = ? AND project_id = ? AND vms + executions + tasks = ?`, append(archiveChangingOf(a), string(a.ID), string(a.ProjectID), int64(had))...)
	if err == nil && n == 0 {
		return errors.New(errors.Conflict, "archive %s is another by now", a.ID)
	}
	return fault(err, "archiving")
}

func (r archives) List(ctx context.Context, project domain.ID, p storage.Page) (storage.List[*domain.Archive], error) {
	w := &where{}
	w.eq("project_id", project)
	return page(ctx, r.s, archiveListed, w, p, scanArchive, func(a *domain.Archive) (time.Time, domain.ID) { return a.CreatedAt, a.ID })
}

func (r archives) DeleteBefore(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := r.s.Exec(ctx, "DELETE FROM archives WHERE (id, project_id) IN (SELECT id, project_id FROM archives WHERE last_at < ? ORDER BY last_at LIMIT ?)",
		micros(before), clampLimit(limit))
	return int(n), fault(err, "deleting archives")
}
