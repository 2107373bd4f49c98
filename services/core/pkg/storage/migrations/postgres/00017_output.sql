-- Output of ended executions in storage that workers share: what each object there
-- is, and in which one an execution's output is.

-- +goose Up

CREATE TABLE output_packs (
    id TEXT COLLATE "C" NOT NULL,
    -- Cascades: a process that does not know this table deletes projects, too.
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    packed TEXT COLLATE "C" NOT NULL,
    key_sealed BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (id, project_id)
);
CREATE INDEX output_packs_created ON output_packs (created_at, id);
CREATE INDEX output_packs_project ON output_packs (project_id);

ALTER TABLE executions ADD COLUMN pack_id TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX executions_packed ON executions (pack_id) WHERE pack_id <> '';

-- +goose Down

DROP INDEX executions_packed;
ALTER TABLE executions DROP COLUMN pack_id;
DROP TABLE output_packs;
