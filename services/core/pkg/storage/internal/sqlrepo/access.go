package sqlrepo

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type keys struct {
	s  Session
	tx *Tx
}

const (
	keyColumns = "id, project_id, user_id, name, prefix, hash, old_hash, old_until, scopes, created_by, created_at, rotated_at, expires_at, last_used_at, revoked_at"
	keySelect  = "SELECT " + keyColumns + " FROM api_keys"
)

func scanKey(r Row) (*domain.APIKey, error) { return scanKeyAnd(r) }

// scanKeyAnd reads a key's columns, and more behind them.
func scanKeyAnd(r Row, more ...any) (*domain.APIKey, error) {
	k := new(domain.APIKey)
	var hash, old []byte
	err := r.Scan(append([]any{
		&k.ID, &k.ProjectID, &k.UserID, &k.Name, &k.Prefix, &hash, &old, scanOptTime{&k.OldUntil}, jsonText{&k.Scopes}, &k.CreatedBy,
		scanTime{&k.CreatedAt}, scanOptTime{&k.RotatedAt}, scanOptTime{&k.ExpiresAt}, scanOptTime{&k.LastUsedAt}, scanOptTime{&k.RevokedAt},
	}, more...)...)
	copy(k.Hash[:], hash)
	copy(k.OldHash[:], old)
	return k, err
}

// optHash keeps an optional hash; zero is NULL.
func optHash(h [32]byte) any {
	if h == ([32]byte{}) {
		return nil
	}
	return h[:]
}

func (r keys) Get(ctx context.Context, project, id domain.ID) (*domain.APIKey, error) {
	w := where{}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	return queryOne(ctx, r.s, scanKey, notFound("API key", id), keySelect+w.String(), w.args...)
}

func (r keys) ByHash(ctx context.Context, hash [32]byte) (*domain.APIKey, error) {
	return queryOne(ctx, r.s, scanKey, errors.New(errors.NotFound, "no such API key"), keySelect+" WHERE hash = ? OR old_hash = ?", hash[:], hash[:])
}

var (
	// heldColumns have a user's columns empty where a key is of nobody.
	heldColumns = of("k", keyColumns) + ", COALESCE(u.id, ''), COALESCE(u.admin, 0), u.disabled_at, COALESCE(m.role, '')"
	heldUser    = " LEFT JOIN users u ON u.id = k.user_id LEFT JOIN memberships m ON m.project_id = k.project_id AND m.user_id = k.user_id"
	heldSelect  = "SELECT " + heldColumns + " FROM api_keys k" + heldUser
	// heldWithVM has a VM along, and whether an execution has an ID.
	heldWithVM = "SELECT " + heldColumns + ", " + vmJoined + ", " + exists(executionByID) +
		" FROM api_keys k JOIN vms ON vms.id = ?" + heldUser
	byHash = " WHERE k.hash = ? OR k.old_hash = ?"
)

func scanHeld(row Row, more ...any) (_ *storage.HeldKey, err error) {
	h, u := new(storage.HeldKey), new(domain.User)
	h.APIKey, err = scanKeyAnd(row, append([]any{&u.ID, scanFlag{&u.Admin}, scanOptTime{&u.DisabledAt}, &h.Role}, more...)...)
	if u.ID != "" {
		h.User = u
	}
	return h, err
}

func (r keys) held(ctx context.Context, absent *errors.Error, where string, args ...any) (storage.HeldKey, error) {
	found, err := queryOne(ctx, r.s, func(row Row) (*storage.HeldKey, error) { return scanHeld(row) }, absent, heldSelect+where, args...)
	if err != nil {
		return storage.HeldKey{}, err
	}
	return *found, nil
}

func (r keys) Held(ctx context.Context, id domain.ID) (storage.HeldKey, error) {
	return r.held(ctx, notFound("API key", id), " WHERE k.id = ?", string(id))
}

func (r keys) HeldByHash(ctx context.Context, hash [32]byte) (storage.HeldKey, error) {
	return r.held(ctx, errors.New(errors.NotFound, "no such API key"), byHash, hash[:], hash[:])
}

func (r keys) HeldWithVM(ctx context.Context, hash [32]byte, id, execution domain.ID) (_ storage.HeldKey, vm *domain.VM, used bool, err error) {
	vm = new(domain.VM)
	found, err := queryOne(ctx, r.s, func(row Row) (*storage.HeldKey, error) {
		return scanHeld(row, append(columnsOf(vm), scanFlag{&used})...)
	}, errors.New(errors.NotFound, "no such API key, or VM"), heldWithVM+byHash, string(execution), string(id), hash[:], hash[:])
	if err != nil {
		return storage.HeldKey{}, nil, false, err
	}
	return *found, vm, used, nil
}

func (r keys) Insert(ctx context.Context, k *domain.APIKey) error {
	r.tx.wroteKeys = true
	_, err := r.s.Exec(ctx, "INSERT INTO api_keys ("+keyColumns+") VALUES ("+marks(keyColumns)+")",
		string(k.ID), string(k.ProjectID), string(k.UserID), k.Name, k.Prefix, k.Hash[:], optHash(k.OldHash), optMicros(k.OldUntil), jsonText{k.Scopes},
		k.CreatedBy, micros(k.CreatedAt), optMicros(k.RotatedAt), optMicros(k.ExpiresAt), optMicros(k.LastUsedAt), optMicros(k.RevokedAt))
	switch {
	case violated(err, Unique):
		return errors.Wrap(err, errors.AlreadyExists, "the API key exists already")
	case violated(err, Reference):
		return errors.Wrap(err, errors.NotFound, "project %s does not exist", k.ProjectID)
	}
	return err
}

func (r keys) Rotate(ctx context.Context, project, id domain.ID, secret storage.KeySecret, oldUntil *time.Time) error {
	r.tx.wroteKeys = true
	w := where{args: []any{optMicros(oldUntil), optMicros(oldUntil), secret.Prefix, secret.Hash[:], micros(secret.At)}}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	n, err := r.s.Exec(ctx, "UPDATE api_keys SET old_hash = CASE WHEN CAST(? AS BIGINT) IS NULL THEN NULL ELSE hash END, old_until = ?, prefix = ?, hash = ?, rotated_at = ?"+
		w.String(), w.args...)
	if err == nil && n == 0 {
		return notFound("API key", id)
	}
	return err
}

func (r keys) Count(ctx context.Context, project domain.ID, now time.Time) (int, error) {
	n, err := queryInt(ctx, r.s, "SELECT count(*) FROM api_keys WHERE project_id = ? AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?)",
		string(project), micros(now))
	return int(n), err
}

func (r keys) Used(ctx context.Context, id domain.ID, at time.Time) error {
	_, err := r.s.Exec(ctx, "UPDATE api_keys SET last_used_at = ? WHERE id = ? AND (last_used_at IS NULL OR last_used_at < ?)", micros(at), string(id), micros(at))
	return err
}

func (r keys) Revoke(ctx context.Context, project, id domain.ID, at time.Time) error {
	r.tx.wroteKeys = true
	w := where{args: []any{micros(at)}}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	n, err := r.s.Exec(ctx, "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ?)"+w.String(), w.args...)
	if err == nil && n == 0 {
		return notFound("API key", id)
	}
	return err
}

func (r keys) List(ctx context.Context, project domain.ID, p storage.Page) (storage.List[*domain.APIKey], error) {
	w := &where{}
	w.eq("project_id", project)
	return page(ctx, r.s, keySelect, w, p, scanKey, func(k *domain.APIKey) (time.Time, domain.ID) { return k.CreatedAt, k.ID })
}

type idempotency struct{ s Session }

func (r idempotency) Get(ctx context.Context, project domain.ID, key string, now time.Time) (*storage.Idempotent, error) {
	scan := func(row Row) (*storage.Idempotent, error) {
		i := new(storage.Idempotent)
		return i, row.Scan(&i.ProjectID, &i.Key, &i.RequestDigest, &i.SubjectID, &i.Status, scanTime{&i.CreatedAt}, scanTime{&i.ExpiresAt})
	}
	return queryOne(ctx, r.s, scan, errors.New(errors.NotFound, "the idempotency key is not in use"),
		`SELECT project_id, key, request_digest, subject_id, status, created_at, expires_at FROM idempotency
		WHERE project_id = ? AND key = ? AND expires_at > ?`, string(project), key, micros(now))
}

func (r idempotency) Insert(ctx context.Context, i *storage.Idempotent) error {
	n, err := r.s.Exec(ctx, `INSERT INTO idempotency (project_id, key, request_digest, subject_id, status, created_at, expires_at)
		VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (project_id, key) DO UPDATE SET request_digest = excluded.request_digest,
		subject_id = excluded.subject_id, status = excluded.status, created_at = excluded.created_at, expires_at = excluded.expires_at
		WHERE idempotency.expires_at <= excluded.created_at`,
		string(i.ProjectID), i.Key, i.RequestDigest, string(i.SubjectID), int64(i.Status), micros(i.CreatedAt), micros(i.ExpiresAt))
	if violated(err, Reference) {
		return errors.Wrap(err, errors.NotFound, "project %s does not exist", i.ProjectID)
	}
	if err == nil && n == 0 {
		return errors.New(errors.AlreadyExists, "the idempotency key is in use already")
	}
	return err
}

func (r idempotency) Complete(ctx context.Context, project domain.ID, key string, subject domain.ID, status int) error {
	n, err := r.s.Exec(ctx, "UPDATE idempotency SET subject_id = ?, status = ? WHERE project_id = ? AND key = ?",
		string(subject), int64(status), string(project), key)
	if err == nil && n == 0 {
		return errors.New(errors.NotFound, "the idempotency key is not in use")
	}
	return err
}

func (r idempotency) Delete(ctx context.Context, project domain.ID, key string) error {
	_, err := r.s.Exec(ctx, "DELETE FROM idempotency WHERE project_id = ? AND key = ?", string(project), key)
	return err
}

func (r idempotency) DeleteExpired(ctx context.Context, now time.Time, limit int) (int, error) {
	n, err := r.s.Exec(ctx, `DELETE FROM idempotency WHERE (project_id, key) IN (
		SELECT project_id, key FROM idempotency WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)`, micros(now), clampLimit(limit))
	return int(n), err
}

type secrets struct{ s Session }

const secretSelect = "SELECT id, project_id, name, sealed, created_at, updated_at FROM secrets"

func scanSecret(r Row) (*domain.Secret, error) {
	s := new(domain.Secret)
	return s, r.Scan(&s.ID, &s.ProjectID, &s.Name, &s.Sealed, scanTime{&s.CreatedAt}, scanTime{&s.UpdatedAt})
}

func (r secrets) Get(ctx context.Context, project domain.ID, name string) (*domain.Secret, error) {
	return queryOne(ctx, r.s, scanSecret, errors.New(errors.NotFound, "no secret is named %q", name),
		secretSelect+" WHERE project_id = ? AND name = ?", string(project), name)
}

func (r secrets) Put(ctx context.Context, s *domain.Secret) error {
	err := r.s.Query(ctx, func(row Row) error { return row.Scan(scanTime{&s.CreatedAt}) },
		`INSERT INTO secrets (id, project_id, name, sealed, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (project_id, name) DO UPDATE SET id = excluded.id, sealed = excluded.sealed, updated_at = excluded.updated_at RETURNING created_at`,
		string(s.ID), string(s.ProjectID), s.Name, s.Sealed, micros(s.CreatedAt), micros(s.UpdatedAt))
	switch {
	case violated(err, Reference):
		return errors.Wrap(err, errors.NotFound, "project %s does not exist", s.ProjectID)
	case violated(err, Unique):
		return errors.Wrap(err, errors.AlreadyExists, "secret %s exists already", s.ID)
	}
	return err
}

func (r secrets) Delete(ctx context.Context, project domain.ID, name string) error {
	n, err := r.s.Exec(ctx, "DELETE FROM secrets WHERE project_id = ? AND name = ?", string(project), name)
	if err == nil && n == 0 {
		return errors.New(errors.NotFound, "no secret is named %q", name)
	}
	return err
}

func (r secrets) List(ctx context.Context, project domain.ID) ([]*domain.Secret, error) {
	return queryAll(ctx, r.s, scanSecret, "SELECT id, project_id, name, NULL, created_at, updated_at FROM secrets WHERE project_id = ? ORDER BY name", string(project))
}

func (r secrets) Count(ctx context.Context, project domain.ID) (int, error) {
	n := 0
	err := r.s.Query(ctx, func(row Row) error { return row.Scan(&n) }, "SELECT COUNT(*) FROM secrets WHERE project_id = ?", string(project))
	return n, err
}
