-- Where workers are reached that are processes of their own, and the tokens by
-- which they join.

-- +goose Up

ALTER TABLE workers ADD COLUMN address TEXT COLLATE "C" NOT NULL DEFAULT '';

CREATE TABLE join_tokens (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    hash BYTEA NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,
    worker_id TEXT COLLATE "C" NOT NULL,
    key_hash BYTEA
);
CREATE UNIQUE INDEX join_tokens_hash ON join_tokens (hash);
CREATE INDEX join_tokens_created ON join_tokens (created_at, id);
CREATE INDEX join_tokens_expiry ON join_tokens (expires_at);

-- +goose Down

DROP TABLE join_tokens;
ALTER TABLE workers DROP COLUMN address;
