-- Files that were sent to build templates from, and on which worker they are.

-- +goose Up

CREATE TABLE uploads (
    id TEXT NOT NULL,
    -- Cascades: a process that does not know this table deletes projects, too.
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    worker_id TEXT NOT NULL,
    -- By which whoever sent it finds it again; empty: by its ID alone.
    name TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (id, project_id)
) STRICT;
CREATE INDEX uploads_named ON uploads (project_id, name, created_at);
CREATE INDEX uploads_expiry ON uploads (expires_at);

-- +goose Down

DROP TABLE uploads;
