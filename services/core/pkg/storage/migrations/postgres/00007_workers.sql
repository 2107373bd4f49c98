-- Which worker runs a task, and which makes a build and has what it made. Until
-- now there was one.

-- +goose Up

ALTER TABLE tasks ADD COLUMN worker_id TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE builds ADD COLUMN worker_id TEXT COLLATE "C" NOT NULL DEFAULT '';
UPDATE tasks SET worker_id = (SELECT id FROM workers ORDER BY joined_at, id LIMIT 1)
WHERE kind IN ('template.build', 'tools.install') AND EXISTS (SELECT 1 FROM workers);
UPDATE builds SET worker_id = (SELECT id FROM workers ORDER BY joined_at, id LIMIT 1)
WHERE EXISTS (SELECT 1 FROM workers);

-- +goose Down

ALTER TABLE builds DROP COLUMN worker_id;
ALTER TABLE tasks DROP COLUMN worker_id;
