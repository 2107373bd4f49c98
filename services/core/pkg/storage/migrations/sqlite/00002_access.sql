-- Users, their roles in projects, and keys that are theirs and can be rotated.

-- +goose Up

-- Not tenants' things: a user may be in several projects.
CREATE TABLE users (
    id          TEXT    NOT NULL PRIMARY KEY,
    name        TEXT    NOT NULL,
    issuer      TEXT    NOT NULL,
    subject     TEXT    NOT NULL,
    admin       INTEGER NOT NULL,
    admin_by    TEXT    NOT NULL,
    disabled_at INTEGER,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX users_name ON users (name);
CREATE UNIQUE INDEX users_subject ON users (issuer, subject) WHERE subject <> '';
CREATE INDEX users_created ON users (created_at, id);

CREATE TABLE memberships (
    project_id TEXT    NOT NULL REFERENCES projects (id),
    user_id    TEXT    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role       TEXT    NOT NULL,
    source     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (project_id, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX memberships_project ON memberships (project_id, created_at, user_id);
CREATE INDEX memberships_user ON memberships (user_id, created_at, project_id);

ALTER TABLE api_keys ADD COLUMN user_id TEXT NOT NULL DEFAULT '';
ALTER TABLE api_keys ADD COLUMN created_by TEXT NOT NULL DEFAULT '';
ALTER TABLE api_keys ADD COLUMN old_hash BLOB;
ALTER TABLE api_keys ADD COLUMN old_until INTEGER;
ALTER TABLE api_keys ADD COLUMN rotated_at INTEGER;
CREATE UNIQUE INDEX api_keys_old_hash ON api_keys (old_hash) WHERE old_hash IS NOT NULL;
CREATE INDEX api_keys_user ON api_keys (user_id) WHERE user_id <> '';

-- +goose Down

DROP INDEX api_keys_user;
DROP INDEX api_keys_old_hash;
ALTER TABLE api_keys DROP COLUMN rotated_at;
ALTER TABLE api_keys DROP COLUMN old_until;
ALTER TABLE api_keys DROP COLUMN old_hash;
ALTER TABLE api_keys DROP COLUMN created_by;
ALTER TABLE api_keys DROP COLUMN user_id;
DROP TABLE memberships;
DROP TABLE users;
