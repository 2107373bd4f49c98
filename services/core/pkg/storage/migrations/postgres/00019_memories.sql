-- VMs leave a worker that is drained with what is in their memory: paused, they
-- rest in the storage as those do that are stopped, and hold nothing of a worker.

-- +goose Up

-- +goose StatementBegin
CREATE FUNCTION vm_in_storage(stored TEXT, machine TEXT, desired TEXT, observed TEXT, pause_mode TEXT) RETURNS BOOLEAN LANGUAGE sql IMMUTABLE AS $$
    SELECT stored <> '' AND machine = '' AND observed <> 'deleted'
        AND (desired = 'stopped' OR desired = 'paused' AND observed = 'paused' AND pause_mode = 'memory')
$$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION vms_stored_summed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND vm_in_storage(OLD.stored_id, OLD.machine_id, OLD.desired, OLD.observed, OLD.pause_mode) THEN
        PERFORM add_sums(OLD.worker_id, '', 0, 0, OLD.disk_bytes, 0, 1, 0, 0);
    END IF;
    IF TG_OP <> 'DELETE' AND vm_in_storage(NEW.stored_id, NEW.machine_id, NEW.desired, NEW.observed, NEW.pause_mode) THEN
        PERFORM add_sums(NEW.worker_id, '', 0, 0, -NEW.disk_bytes, 0, -1, 0, 0);
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
DROP FUNCTION vm_in_storage(TEXT, TEXT, TEXT, TEXT);

-- +goose Down

-- Their memory is given up: versions of before know none that rests there.
UPDATE vms SET desired = 'stopped', observed = 'stopped'
WHERE stored_id <> '' AND machine_id = '' AND desired = 'paused' AND observed = 'paused' AND pause_mode = 'memory';
-- +goose StatementBegin
CREATE FUNCTION vm_in_storage(stored TEXT, machine TEXT, desired TEXT, observed TEXT) RETURNS BOOLEAN LANGUAGE sql IMMUTABLE AS $$
    SELECT stored <> '' AND machine = '' AND desired = 'stopped' AND observed <> 'deleted'
$$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION vms_stored_summed() RETURNS trigger LANGUAGE plpgsql AS $$
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
DROP FUNCTION vm_in_storage(TEXT, TEXT, TEXT, TEXT, TEXT);
