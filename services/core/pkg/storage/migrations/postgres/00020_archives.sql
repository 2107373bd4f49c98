-- What is kept of ended VMs, executions and tasks once their rows are gone: many
-- together, packed and encrypted.

-- +goose Up

CREATE TABLE archives (
    id TEXT COLLATE "C" NOT NULL,
    -- Cascades: a process that does not know this table deletes projects, too.
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    worker_id TEXT COLLATE "C" NOT NULL,
    vms BIGINT NOT NULL,
    executions BIGINT NOT NULL,
    tasks BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    key_sealed BYTEA NOT NULL,
    bytes BIGINT NOT NULL,
    content BYTEA NOT NULL,
    PRIMARY KEY (id, project_id)
);
CREATE INDEX archives_listed ON archives (project_id, created_at, id);
CREATE INDEX archives_last ON archives (project_id, worker_id, created_at);
CREATE INDEX archives_old ON archives (last_at);

-- +goose Down

DROP TABLE archives;
