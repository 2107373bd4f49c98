-- What is kept of ended VMs, executions and tasks once their rows are gone: many
-- together, packed and encrypted.

-- +goose Up

CREATE TABLE archives (
    id TEXT NOT NULL,
    -- Cascades: a process that does not know this table deletes projects, too.
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    worker_id TEXT NOT NULL,
    vms INTEGER NOT NULL,
    executions INTEGER NOT NULL,
    tasks INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    key_sealed BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (id, project_id)
) STRICT;
CREATE INDEX archives_listed ON archives (project_id, created_at, id);
CREATE INDEX archives_last ON archives (project_id, worker_id, created_at);
CREATE INDEX archives_old ON archives (last_at);

-- +goose Down

DROP TABLE archives;
