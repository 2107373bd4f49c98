-- VMs leave a worker that is drained: their disks are in the storage until they
-- have been started again.

-- +goose Up

ALTER TABLE workers ADD COLUMN moving INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN staying INTEGER NOT NULL DEFAULT 0;
ALTER TABLE snapshots ADD COLUMN disk_of_vm INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vms ADD COLUMN stored_id TEXT NOT NULL DEFAULT '';
ALTER TABLE vms ADD COLUMN moves TEXT NOT NULL DEFAULT 'null';
-- What rests in the storage holds nothing of the worker that looks after it.
CREATE INDEX vms_stored ON vms (worker_id, machine_id, desired, disk_bytes) WHERE stored_id <> '';
CREATE INDEX snapshots_disks ON snapshots (created_at, id) WHERE disk_of_vm = 1;

-- +goose Down

DROP INDEX snapshots_disks;
DROP INDEX vms_stored;
ALTER TABLE vms DROP COLUMN moves;
ALTER TABLE vms DROP COLUMN stored_id;
ALTER TABLE snapshots DROP COLUMN disk_of_vm;
ALTER TABLE workers DROP COLUMN staying;
ALTER TABLE workers DROP COLUMN moving;
