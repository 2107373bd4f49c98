-- Answers to requests that carried an idempotency key.

-- +goose Up

CREATE TABLE answers (
    id TEXT NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id),
    digest TEXT NOT NULL,
    answer_sealed BLOB,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (id, project_id)
) STRICT;
CREATE INDEX answers_expiry ON answers (expires_at);

-- +goose Down

DROP TABLE answers;
