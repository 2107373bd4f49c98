-- Answers to requests that carried an idempotency key.

-- +goose Up

CREATE TABLE answers (
    id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    digest TEXT COLLATE "C" NOT NULL,
    answer_sealed BYTEA,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (id, project_id)
);
CREATE INDEX answers_expiry ON answers (expires_at);

-- +goose Down

DROP TABLE answers;
