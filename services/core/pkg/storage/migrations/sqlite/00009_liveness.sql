-- A worker that is cordoned takes nothing new, also after it was away; one that
-- is drained ends its VMs at a time, too.

-- +goose Up

ALTER TABLE workers ADD COLUMN cordoned INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN drain_at INTEGER;
UPDATE workers SET cordoned = 1 WHERE state = 'cordoned';

-- +goose Down

ALTER TABLE workers DROP COLUMN drain_at;
ALTER TABLE workers DROP COLUMN cordoned;
