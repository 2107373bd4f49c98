-- Users, their roles in projects, and keys that are theirs and can be rotated.

-- +goose Up

-- Not tenants' things: a user may be in several projects.
CREATE TABLE users (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    issuer TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    admin BIGINT NOT NULL,
    admin_by TEXT COLLATE "C" NOT NULL,
    disabled_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX users_name ON users (name);
CREATE UNIQUE INDEX users_subject ON users (issuer, subject) WHERE subject <> '';
CREATE INDEX users_created ON users (created_at, id);

CREATE TABLE memberships (
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    user_id TEXT COLLATE "C" NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role TEXT COLLATE "C" NOT NULL,
    source TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, user_id)
);
CREATE INDEX memberships_project ON memberships (project_id, created_at, user_id);
CREATE INDEX memberships_user ON memberships (user_id, created_at, project_id);

ALTER TABLE api_keys ADD COLUMN user_id TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE api_keys ADD COLUMN created_by TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE api_keys ADD COLUMN old_hash BYTEA;
ALTER TABLE api_keys ADD COLUMN old_until BIGINT;
ALTER TABLE api_keys ADD COLUMN rotated_at BIGINT;
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
