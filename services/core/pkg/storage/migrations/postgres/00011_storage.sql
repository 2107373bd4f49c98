-- Where a worker has builds from that it did not make, and which of those it has.

-- +goose Up

ALTER TABLE workers ADD COLUMN storage TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE TABLE copies (
    build_id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL,
    worker_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (build_id, project_id, worker_id),
    FOREIGN KEY (build_id, project_id) REFERENCES builds (id, project_id) ON DELETE CASCADE
);

-- +goose Down

DROP TABLE copies;
ALTER TABLE workers DROP COLUMN storage;
