-- VMs leave a worker that is drained with what is in their memory: paused, they
-- rest in the storage as those do that are stopped, and hold nothing of a worker.

-- +goose Up

DROP TRIGGER vms_stored_updated;
DROP TRIGGER vms_stored_deleted;
DROP TRIGGER vms_stored_inserted;
-- +goose StatementBegin
CREATE TRIGGER vms_stored_inserted AFTER INSERT ON vms WHEN NEW.stored_id <> '' BEGIN
    INSERT INTO sum_changes SELECT NEW.worker_id, '', 0, 0, -NEW.disk_bytes, 0, -1, 0, 0
    WHERE NEW.stored_id <> '' AND NEW.machine_id = '' AND NEW.observed <> 'deleted'
        AND (NEW.desired = 'stopped' OR NEW.desired = 'paused' AND NEW.observed = 'paused' AND NEW.pause_mode = 'memory');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER vms_stored_deleted AFTER DELETE ON vms WHEN OLD.stored_id <> '' BEGIN
    INSERT INTO sum_changes SELECT OLD.worker_id, '', 0, 0, OLD.disk_bytes, 0, 1, 0, 0
    WHERE OLD.stored_id <> '' AND OLD.machine_id = '' AND OLD.observed <> 'deleted'
        AND (OLD.desired = 'stopped' OR OLD.desired = 'paused' AND OLD.observed = 'paused' AND OLD.pause_mode = 'memory');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER vms_stored_updated AFTER UPDATE ON vms WHEN OLD.stored_id <> '' OR NEW.stored_id <> '' BEGIN
    INSERT INTO sum_changes SELECT OLD.worker_id, '', 0, 0, OLD.disk_bytes, 0, 1, 0, 0
    WHERE OLD.stored_id <> '' AND OLD.machine_id = '' AND OLD.observed <> 'deleted'
        AND (OLD.desired = 'stopped' OR OLD.desired = 'paused' AND OLD.observed = 'paused' AND OLD.pause_mode = 'memory');
    INSERT INTO sum_changes SELECT NEW.worker_id, '', 0, 0, -NEW.disk_bytes, 0, -1, 0, 0
    WHERE NEW.stored_id <> '' AND NEW.machine_id = '' AND NEW.observed <> 'deleted'
        AND (NEW.desired = 'stopped' OR NEW.desired = 'paused' AND NEW.observed = 'paused' AND NEW.pause_mode = 'memory');
END;
-- +goose StatementEnd

-- +goose Down

-- Their memory is given up: versions of before know none that rests there.
UPDATE vms SET desired = 'stopped', observed = 'stopped'
WHERE stored_id <> '' AND machine_id = '' AND desired = 'paused' AND observed = 'paused' AND pause_mode = 'memory';
DROP TRIGGER vms_stored_updated;
DROP TRIGGER vms_stored_deleted;
DROP TRIGGER vms_stored_inserted;
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
