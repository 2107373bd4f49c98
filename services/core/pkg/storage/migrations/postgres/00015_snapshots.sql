-- Where other workers get a snapshot's disk, and which of them have it.

-- +goose Up

ALTER TABLE snapshots ADD COLUMN packed TEXT COLLATE "C";
CREATE TABLE snapshot_copies (
    snapshot_id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL,
    worker_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (snapshot_id, project_id, worker_id),
    FOREIGN KEY (snapshot_id, project_id) REFERENCES snapshots (id, project_id) ON DELETE CASCADE
);

-- +goose Down

DROP TABLE snapshot_copies;
ALTER TABLE snapshots DROP COLUMN packed;
