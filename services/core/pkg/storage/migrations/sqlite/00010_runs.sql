-- Runs: tasks that make a VM, run a command in it and keep what came of it, in
-- groups, and after others.

-- +goose Up

ALTER TABLE tasks ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE tasks ADD COLUMN group_id TEXT NOT NULL DEFAULT '';
ALTER TABLE tasks ADD COLUMN step TEXT NOT NULL DEFAULT '';
ALTER TABLE tasks ADD COLUMN vm_id TEXT NOT NULL DEFAULT '';
ALTER TABLE tasks ADD COLUMN execution_id TEXT NOT NULL DEFAULT '';
ALTER TABLE tasks ADD COLUMN spec_sealed BLOB;
CREATE INDEX tasks_group ON tasks (group_id, project_id, created_at, id) WHERE group_id <> '';
CREATE INDEX tasks_ready ON tasks (kind, run_at, id) WHERE state = 'pending';
CREATE INDEX tasks_ready_project ON tasks (project_id, kind, run_at, id) WHERE state = 'pending';
CREATE INDEX tasks_running_project ON tasks (project_id, kind) WHERE state = 'running';

CREATE TABLE task_after (
    task_id    TEXT NOT NULL,
    project_id TEXT NOT NULL,
    after_id   TEXT NOT NULL,
    PRIMARY KEY (task_id, project_id, after_id),
    FOREIGN KEY (task_id, project_id) REFERENCES tasks (id, project_id) ON DELETE CASCADE
) STRICT;
CREATE INDEX task_after_others ON task_after (after_id, project_id);

-- +goose Down

DROP TABLE task_after;
DROP INDEX tasks_running_project;
DROP INDEX tasks_ready_project;
DROP INDEX tasks_ready;
DROP INDEX tasks_group;
DELETE FROM tasks WHERE kind = 'run';
ALTER TABLE tasks DROP COLUMN spec_sealed;
ALTER TABLE tasks DROP COLUMN execution_id;
ALTER TABLE tasks DROP COLUMN vm_id;
ALTER TABLE tasks DROP COLUMN step;
ALTER TABLE tasks DROP COLUMN group_id;
ALTER TABLE tasks DROP COLUMN name;
