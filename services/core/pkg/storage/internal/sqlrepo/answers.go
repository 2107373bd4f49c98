package sqlrepo

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type answers struct{ s Session }

func (r answers) Get(ctx context.Context, project, id domain.ID, now time.Time) (*storage.Answer, error) {
	scan := func(row Row) (*storage.Answer, error) {
		a := new(storage.Answer)
		return a, row.Scan(&a.ID, &a.ProjectID, &a.RequestDigest, &a.AnswerSealed, scanTime{&a.CreatedAt}, scanTime{&a.ExpiresAt})
	}
	return queryOne(ctx, r.s, scan, errors.New(errors.NotFound, "no answer is kept"),
		`SELECT id, project_id, digest, answer_sealed, created_at, expires_at FROM answers
		WHERE id = ? AND project_id = ? AND expires_at > ?`, string(id), string(project), micros(now))
}

func (r answers) Insert(ctx context.Context, a *storage.Answer) error {
	n, err := r.s.Exec(ctx, `INSERT INTO answers (id, project_id, digest, answer_sealed, created_at, expires_at)
		VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id, project_id) DO UPDATE SET digest = excluded.digest,
		answer_sealed = excluded.answer_sealed, created_at = excluded.created_at, expires_at = excluded.expires_at
		WHERE answers.expires_at <= excluded.created_at`,
		string(a.ID), string(a.ProjectID), a.RequestDigest, blob(a.AnswerSealed), micros(a.CreatedAt), micros(a.ExpiresAt))
	if violated(err, Reference) {
		return errors.Wrap(err, errors.NotFound, "project %s does not exist", a.ProjectID)
	}
	if err == nil && n == 0 {
		return errors.New(errors.AlreadyExists, "the idempotency key is in use already")
	}
	return err
}

// unanswered is one that was taken at a time and has no answer.
const unanswered = " WHERE id = ? AND project_id = ? AND created_at = ? AND answer_sealed IS NULL"

func (r answers) Complete(ctx context.Context, project, id domain.ID, created time.Time, sealed []byte, expires time.Time) error {
	n, err := r.s.Exec(ctx, "UPDATE answers SET answer_sealed = ?, expires_at = ?"+unanswered,
		blob(sealed), micros(expires), string(id), string(project), micros(created))
	if err == nil && n == 0 {
		return errors.New(errors.NotFound, "the idempotency key is another request's")
	}
	return err
}

func (r answers) Renew(ctx context.Context, project, id domain.ID, created, expires time.Time) error {
	n, err := r.s.Exec(ctx, "UPDATE answers SET expires_at = ?"+unanswered, micros(expires), string(id), string(project), micros(created))
	if err == nil && n == 0 {
		return errors.New(errors.NotFound, "the idempotency key is another request's")
	}
	return err
}

func (r answers) ReleaseAll(ctx context.Context) error {
	_, err := r.s.Exec(ctx, "DELETE FROM answers WHERE answer_sealed IS NULL")
	return err
}

func (r answers) Release(ctx context.Context, project, id domain.ID, created time.Time) error {
	_, err := r.s.Exec(ctx, "DELETE FROM answers"+unanswered, string(id), string(project), micros(created))
	return err
}

func (r answers) DeleteExpired(ctx context.Context, now time.Time, limit int) (int, error) {
	n, err := r.s.Exec(ctx, `DELETE FROM answers WHERE (id, project_id) IN (
		SELECT id, project_id FROM answers WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)`, micros(now), clampLimit(limit))
	return int(n), err
}
