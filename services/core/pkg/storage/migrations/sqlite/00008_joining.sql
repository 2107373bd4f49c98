-- Where workers are reached that are processes of their own, and the tokens by
-- which they join.

-- +goose Up

ALTER TABLE workers ADD COLUMN address TEXT NOT NULL DEFAULT '';

CREATE TABLE join_tokens (
    id         TEXT    NOT NULL PRIMARY KEY,
    hash       BLOB    NOT NULL,
    created_by TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at    INTEGER,
    worker_id  TEXT    NOT NULL,
    key_hash   BLOB
) STRICT;
CREATE UNIQUE INDEX join_tokens_hash ON join_tokens (hash);
CREATE INDEX join_tokens_created ON join_tokens (created_at, id);
CREATE INDEX join_tokens_expiry ON join_tokens (expires_at);

-- +goose Down

DROP TABLE join_tokens;
ALTER TABLE workers DROP COLUMN address;
