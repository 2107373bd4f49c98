-- Where other workers get a snapshot's disk, and which of them have it.

-- +goose Up

ALTER TABLE snapshots ADD COLUMN packed TEXT;
CREATE TABLE snapshot_copies (
    snapshot_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    PRIMARY KEY (snapshot_id, project_id, worker_id),
    FOREIGN KEY (snapshot_id, project_id) REFERENCES snapshots (id, project_id) ON DELETE CASCADE
) STRICT;

-- +goose Down

DROP TABLE snapshot_copies;
ALTER TABLE snapshots DROP COLUMN packed;
