-- VMs leave a worker that is drained: their disks are in the storage until they
-- have been started again.

-- +goose Up

ALTER TABLE workers ADD COLUMN moving BIGINT NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN staying BIGINT NOT NULL DEFAULT 0;
ALTER TABLE snapshots ADD COLUMN disk_of_vm BIGINT NOT NULL DEFAULT 0;
ALTER TABLE vms ADD COLUMN stored_id TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE vms ADD COLUMN moves TEXT COLLATE "C" NOT NULL DEFAULT 'null';
CREATE INDEX snapshots_disks ON snapshots (created_at, id) WHERE disk_of_vm = 1;

-- What rests in the storage holds nothing of the worker that looks after it: what
-- was summed of it there is taken off again.
-- +goose StatementBegin
CREATE FUNCTION vm_in_storage(stored TEXT, machine TEXT, desired TEXT, observed TEXT) RETURNS BOOLEAN LANGUAGE sql IMMUTABLE AS $$
    SELECT stored <> '' AND machine = '' AND desired = 'stopped' AND observed <> 'deleted'
$$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION vms_stored_summed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND vm_in_storage(OLD.stored_id, OLD.machine_id, OLD.desired, OLD.observed) THEN
        PERFORM add_sums(OLD.worker_id, '', 0, 0, OLD.disk_bytes, 0, 1, 0, 0);
    END IF;
    IF TG_OP <> 'DELETE' AND vm_in_storage(NEW.stored_id, NEW.machine_id, NEW.desired, NEW.observed) THEN
        PERFORM add_sums(NEW.worker_id, '', 0, 0, -NEW.disk_bytes, 0, -1, 0, 0);
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER vms_stored_inserted AFTER INSERT ON vms FOR EACH ROW WHEN (NEW.stored_id <> '') EXECUTE FUNCTION vms_stored_summed();
CREATE TRIGGER vms_stored_deleted AFTER DELETE ON vms FOR EACH ROW WHEN (OLD.stored_id <> '') EXECUTE FUNCTION vms_stored_summed();
CREATE TRIGGER vms_stored_updated AFTER UPDATE ON vms FOR EACH ROW WHEN (OLD.stored_id <> '' OR NEW.stored_id <> '') EXECUTE FUNCTION vms_stored_summed();

-- +goose Down

UPDATE vms SET stored_id = '' WHERE stored_id <> ''; -- so that the sums are right again
DROP TRIGGER vms_stored_updated ON vms;
DROP TRIGGER vms_stored_deleted ON vms;
DROP TRIGGER vms_stored_inserted ON vms;
DROP FUNCTION vms_stored_summed();
DROP FUNCTION vm_in_storage(TEXT, TEXT, TEXT, TEXT);
DROP INDEX snapshots_disks;
ALTER TABLE vms DROP COLUMN moves;
ALTER TABLE vms DROP COLUMN stored_id;
ALTER TABLE snapshots DROP COLUMN disk_of_vm;
ALTER TABLE workers DROP COLUMN staying;
ALTER TABLE workers DROP COLUMN moving;
