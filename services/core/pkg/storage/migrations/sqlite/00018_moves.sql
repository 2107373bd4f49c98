-- VMs leave a worker that is drained: their disks are in the storage until they
-- have been started again.

-- +goose Up

ALTER TABLE workers ADD COLUMN moving INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN staying INTEGER NOT NULL DEFAULT 0;
ALTER TABLE snapshots ADD COLUMN disk_of_vm INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vms ADD COLUMN stored_id TEXT NOT NULL DEFAULT '';
ALTER TABLE vms ADD COLUMN moves TEXT NOT NULL DEFAULT 'null';
CREATE INDEX snapshots_disks ON snapshots (created_at, id) WHERE disk_of_vm = 1;

-- What rests in the storage holds nothing of the worker that looks after it: what
-- was summed of it there is taken off again.
-- +goose StatementBegin
CREATE TRIGGER vms_stored_inserted AFTER INSERT ON vms WHEN NEW.stored_id <> '' BEGIN
    INSERT INTO sum_changes SELECT NEW.worker_id, '', 0, 0, -NEW.disk_bytes, 0, -1, 0, 0
    WHERE NEW.stored_id <> '' AND NEW.machine_id = '' AND NEW.desired = 'stopped' AND NEW.observed <> 'deleted';
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER vms_stored_deleted AFTER DELETE ON vms WHEN OLD.stored_id <> '' BEGIN
    INSERT INTO sum_changes SELECT OLD.worker_id, '', 0, 0, OLD.disk_bytes, 0, 1, 0, 0
    WHERE OLD.stored_id <> '' AND OLD.machine_id = '' AND OLD.desired = 'stopped' AND OLD.observed <> 'deleted';
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER vms_stored_updated AFTER UPDATE ON vms WHEN OLD.stored_id <> '' OR NEW.stored_id <> '' BEGIN
    INSERT INTO sum_changes SELECT OLD.worker_id, '', 0, 0, OLD.disk_bytes, 0, 1, 0, 0
    WHERE OLD.stored_id <> '' AND OLD.machine_id = '' AND OLD.desired = 'stopped' AND OLD.observed <> 'deleted';
    INSERT INTO sum_changes SELECT NEW.worker_id, '', 0, 0, -NEW.disk_bytes, 0, -1, 0, 0
    WHERE NEW.stored_id <> '' AND NEW.machine_id = '' AND NEW.desired = 'stopped' AND NEW.observed <> 'deleted';
END;
-- +goose StatementEnd

-- +goose Down

UPDATE vms SET stored_id = '' WHERE stored_id <> ''; -- so that the sums are right again
DROP TRIGGER vms_stored_updated;
DROP TRIGGER vms_stored_deleted;
DROP TRIGGER vms_stored_inserted;
DROP INDEX snapshots_disks;
ALTER TABLE vms DROP COLUMN moves;
ALTER TABLE vms DROP COLUMN stored_id;
ALTER TABLE snapshots DROP COLUMN disk_of_vm;
ALTER TABLE workers DROP COLUMN staying;
ALTER TABLE workers DROP COLUMN moving;
