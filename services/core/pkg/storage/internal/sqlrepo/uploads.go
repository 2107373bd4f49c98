package sqlrepo

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

type uploads struct{ s Session }

const uploadColumns = "id, project_id, worker_id, name, bytes, sha256, created_at, expires_at"

func (r uploads) Insert(ctx context.Context, u *domain.Upload) error {
	_, err := r.s.Exec(ctx, "INSERT INTO uploads ("+uploadColumns+") VALUES ("+marks(uploadColumns)+")",
		string(u.ID), string(u.ProjectID), string(u.WorkerID), u.Name, u.SizeBytes, u.SHA256, micros(u.CreatedAt), micros(u.ExpiresAt))
	switch {
	case violated(err, Unique):
		return errors.Wrap(err, errors.AlreadyExists, "upload %s exists already", u.ID)
	case violated(err, Reference):
		return errors.Wrap(err, errors.NotFound, "project %s does not exist", u.ProjectID)
	}
	return err
}

func scanUpload(row Row) (*domain.Upload, error) {
	u := new(domain.Upload)
	return u, row.Scan(&u.ID, &u.ProjectID, &u.WorkerID, &u.Name, &u.SizeBytes, &u.SHA256, scanTime{&u.CreatedAt}, scanTime{&u.ExpiresAt})
}

func (r uploads) Get(ctx context.Context, project, id domain.ID, now time.Time) (*domain.Upload, error) {
	return queryOne(ctx, r.s, scanUpload, notFound("upload", id), "SELECT "+uploadColumns+" FROM uploads WHERE id = ? AND project_id = ? AND expires_at > ?",
		string(id), string(project), micros(now))
}

func (r uploads) Named(ctx context.Context, project domain.ID, name string, now time.Time) (*domain.Upload, error) {
	return queryOne(ctx, r.s, scanUpload, errors.New(errors.NotFound, "there is no upload of this name"), "SELECT "+uploadColumns+` FROM uploads
		WHERE project_id = ? AND name = ? AND sha256 <> '' AND expires_at > ? ORDER BY created_at DESC LIMIT 1`, string(project), name, micros(now))
}

func (r uploads) Update(ctx context.Context, u *domain.Upload) error {
	n, err := r.s.Exec(ctx, "UPDATE uploads SET bytes = ?, sha256 = ?, expires_at = ? WHERE id = ? AND project_id = ?",
		u.SizeBytes, u.SHA256, micros(u.ExpiresAt), string(u.ID), string(u.ProjectID))
	if err == nil && n == 0 {
		return notFound("upload", u.ID)
	}
	return err
}

func (r uploads) Delete(ctx context.Context, project, id domain.ID) error {
	_, err := r.s.Exec(ctx, "DELETE FROM uploads WHERE id = ? AND project_id = ?", string(id), string(project))
	return err
}

func (r uploads) DeleteOn(ctx context.Context, worker domain.ID) error {
	_, err := r.s.Exec(ctx, "DELETE FROM uploads WHERE worker_id = ?", string(worker))
	return err
}

func (r uploads) Held(ctx context.Context, project domain.ID, now time.Time) (bytes int64, err error) {
	sum := func(row Row) (*int64, error) { return &bytes, row.Scan(&bytes) }
	_, err = queryOne(ctx, r.s, sum, nil, "SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM uploads WHERE project_id = ? AND expires_at > ?",
		string(project), micros(now))
	return bytes, err
}

func (r uploads) DeleteExpired(ctx context.Context, now time.Time, limit int) (int, error) {
	n, err := r.s.Exec(ctx, `DELETE FROM uploads WHERE (id, project_id) IN (
		SELECT id, project_id FROM uploads WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)`, micros(now), clampLimit(limit))
	return int(n), err
}
