-- Memory of machines: what goes on in forks, and what templates warm up.

-- +goose Up

ALTER TABLE executions ADD COLUMN origin_id TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE builds ADD COLUMN warm TEXT COLLATE "C" NOT NULL DEFAULT '{}';
ALTER TABLE machines ADD COLUMN memory BIGINT NOT NULL DEFAULT 0;

-- +goose Down

ALTER TABLE machines DROP COLUMN memory;
ALTER TABLE builds DROP COLUMN warm;
ALTER TABLE executions DROP COLUMN origin_id;
