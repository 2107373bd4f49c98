package sqlrepo

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type joinTokens struct{ s Session }

const (
	joinTokenColumns = "id, hash, created_by, created_at, expires_at, used_at, worker_id, key_hash"
	joinTokenSelect  = "SELECT " + joinTokenColumns + " FROM join_tokens"
)

func scanJoinToken(r Row) (*domain.JoinToken, error) {
	t := new(domain.JoinToken)
	var hash, key []byte
	err := r.Scan(&t.ID, &hash, &t.CreatedBy, scanTime{&t.CreatedAt}, scanTime{&t.ExpiresAt}, scanOptTime{&t.UsedAt}, &t.WorkerID, &key)
	copy(t.Hash[:], hash)
	copy(t.KeyHash[:], key)
	return t, err
}

func (r joinTokens) ByHash(ctx context.Context, hash [32]byte) (*domain.JoinToken, error) {
	return queryOne(ctx, r.s, scanJoinToken, errors.New(errors.NotFound, "no such join token"), joinTokenSelect+" WHERE hash = ?", hash[:])
}

func (r joinTokens) Insert(ctx context.Context, t *domain.JoinToken) error {
	_, err := r.s.Exec(ctx, "INSERT INTO join_tokens ("+joinTokenColumns+") VALUES ("+marks(joinTokenColumns)+")",
		string(t.ID), t.Hash[:], t.CreatedBy, micros(t.CreatedAt), micros(t.ExpiresAt), optMicros(t.UsedAt), string(t.WorkerID), optHash(t.KeyHash))
	if violated(err, Unique) {
		return errors.Wrap(err, errors.AlreadyExists, "the join token exists already")
	}
	return err
}

func (r joinTokens) Use(ctx context.Context, id, worker domain.ID, key [32]byte, at time.Time) error {
	n, err := r.s.Exec(ctx, "UPDATE join_tokens SET used_at = ?, worker_id = ?, key_hash = ? WHERE id = ? AND used_at IS NULL",
		micros(at), string(worker), key[:], string(id))
	if err != nil || n > 0 {
		return err
	}
	_, err = queryOne(ctx, r.s, scanJoinToken, notFound("join token", id), joinTokenSelect+" WHERE id = ?", string(id))
	if err == nil {
		err = changedMeanwhile("join token")
	}
	return err
}

func (r joinTokens) Delete(ctx context.Context, id domain.ID) error {
	n, err := r.s.Exec(ctx, "DELETE FROM join_tokens WHERE id = ?", string(id))
	if err == nil && n == 0 {
		return notFound("join token", id)
	}
	return err
}

func (r joinTokens) List(ctx context.Context, p storage.Page) (storage.List[*domain.JoinToken], error) {
	return page(ctx, r.s, joinTokenSelect, &where{}, p, scanJoinToken, func(t *domain.JoinToken) (time.Time, domain.ID) { return t.CreatedAt, t.ID })
}

func (r joinTokens) DeleteExpired(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := r.s.Exec(ctx, `DELETE FROM join_tokens WHERE id IN (
		SELECT id FROM join_tokens WHERE expires_at < ? ORDER BY expires_at LIMIT ?)`, micros(before), clampLimit(limit))
	return int(n), err
}
