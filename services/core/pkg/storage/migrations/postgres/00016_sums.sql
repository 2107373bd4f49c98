-- What a worker's VMs, volumes and tasks hold of it, and a project's VMs and
-- volumes of its quota, summed: who places a VM reads rows in the place of
-- counting. Triggers keep the sums in the transaction that writes what they sum,
-- whichever program writes it: those of before know nothing of them.

-- +goose Up

-- Whoever writes has the turn. With it nobody who holds one of the tables waits
-- for another of them.
SELECT pg_advisory_xact_lock(7018143584352206849);

-- The rows are few and are written all the time, so that new versions have room
-- beside them and need no new entry of the key.
CREATE TABLE worker_sums (
    worker_id    TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    milli_cpu    BIGINT NOT NULL,
    memory_bytes BIGINT NOT NULL,
    disk_bytes   BIGINT NOT NULL,
    pids         BIGINT NOT NULL,
    vms          BIGINT NOT NULL,
    active       BIGINT NOT NULL,
    tasks        BIGINT NOT NULL
) WITH (fillfactor = 10);

CREATE TABLE project_sums (
    project_id   TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES projects (id) ON DELETE CASCADE,
    milli_cpu    BIGINT NOT NULL,
    memory_bytes BIGINT NOT NULL,
    disk_bytes   BIGINT NOT NULL,
    vms          BIGINT NOT NULL
) WITH (fillfactor = 10);

-- +goose StatementBegin
CREATE FUNCTION add_sums(worker TEXT, project TEXT, cpu BIGINT, memory BIGINT, disk BIGINT, processes BIGINT, machines BIGINT, awake BIGINT, work BIGINT)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF worker <> '' THEN
        INSERT INTO worker_sums (worker_id, milli_cpu, memory_bytes, disk_bytes, pids, vms, active, tasks)
        VALUES (worker, cpu, memory, disk, processes, machines, awake, work)
        ON CONFLICT (worker_id) DO UPDATE SET
            milli_cpu = worker_sums.milli_cpu + excluded.milli_cpu, memory_bytes = worker_sums.memory_bytes + excluded.memory_bytes,
            disk_bytes = worker_sums.disk_bytes + excluded.disk_bytes, pids = worker_sums.pids + excluded.pids,
            vms = worker_sums.vms + excluded.vms, active = worker_sums.active + excluded.active, tasks = worker_sums.tasks + excluded.tasks;
    END IF;
    IF project <> '' THEN
        INSERT INTO project_sums (project_id, milli_cpu, memory_bytes, disk_bytes, vms)
        VALUES (project, cpu, memory, disk, machines)
        ON CONFLICT (project_id) DO UPDATE SET
            milli_cpu = project_sums.milli_cpu + excluded.milli_cpu, memory_bytes = project_sums.memory_bytes + excluded.memory_bytes,
            disk_bytes = project_sums.disk_bytes + excluded.disk_bytes, vms = project_sums.vms + excluded.vms;
    END IF;
END
$$;
-- +goose StatementEnd

-- A VM holds CPU, memory and PIDs unless it has ended or rests without memory and
-- is not wanted otherwise; its disk until it is deleted.
-- +goose StatementBegin
CREATE FUNCTION vm_active(observed TEXT, desired TEXT, pause_mode TEXT) RETURNS BIGINT LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN observed = 'running' OR (observed NOT IN ('failed', 'deleted')
        AND NOT (observed = 'stopped' AND desired IN ('stopped', 'deleted'))
        AND NOT (observed = 'paused' AND pause_mode <> 'freeze' AND desired IN ('paused', 'deleted'))) THEN 1::bigint ELSE 0::bigint END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION vms_summed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    was BIGINT := 0;
    was_active BIGINT := 0;
    becomes BIGINT := 0;
    active BIGINT := 0;
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.observed <> 'deleted' THEN
        was := 1;
        was_active := vm_active(OLD.observed, OLD.desired, OLD.pause_mode);
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.observed <> 'deleted' THEN
        becomes := 1;
        active := vm_active(NEW.observed, NEW.desired, NEW.pause_mode);
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.worker_id = NEW.worker_id AND OLD.project_id = NEW.project_id THEN
        PERFORM add_sums(NEW.worker_id, NEW.project_id, active * NEW.milli_cpu - was_active * OLD.milli_cpu,
            active * NEW.memory_bytes - was_active * OLD.memory_bytes, becomes * NEW.disk_bytes - was * OLD.disk_bytes,
            active * NEW.pids - was_active * OLD.pids, becomes - was, active - was_active, 0);
        RETURN NULL;
    END IF;
    IF was <> 0 THEN
        PERFORM add_sums(OLD.worker_id, OLD.project_id, -was_active * OLD.milli_cpu, -was_active * OLD.memory_bytes, -OLD.disk_bytes,
            -was_active * OLD.pids, -1, -was_active, 0);
    END IF;
    IF becomes <> 0 THEN
        PERFORM add_sums(NEW.worker_id, NEW.project_id, active * NEW.milli_cpu, active * NEW.memory_bytes, NEW.disk_bytes,
            active * NEW.pids, 1, active, 0);
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER vms_inserted AFTER INSERT ON vms FOR EACH ROW WHEN (NEW.observed <> 'deleted') EXECUTE FUNCTION vms_summed();
CREATE TRIGGER vms_deleted AFTER DELETE ON vms FOR EACH ROW WHEN (OLD.observed <> 'deleted') EXECUTE FUNCTION vms_summed();
CREATE TRIGGER vms_updated AFTER UPDATE ON vms FOR EACH ROW
WHEN (OLD.worker_id <> NEW.worker_id OR OLD.project_id <> NEW.project_id OR OLD.milli_cpu <> NEW.milli_cpu OR OLD.memory_bytes <> NEW.memory_bytes
    OR OLD.disk_bytes <> NEW.disk_bytes OR OLD.pids <> NEW.pids OR (OLD.observed = 'deleted') <> (NEW.observed = 'deleted')
    OR vm_active(OLD.observed, OLD.desired, OLD.pause_mode) <> vm_active(NEW.observed, NEW.desired, NEW.pause_mode))
EXECUTE FUNCTION vms_summed();

-- +goose StatementBegin
CREATE FUNCTION volumes_summed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM add_sums(OLD.worker_id, OLD.project_id, 0, 0, -OLD.disk_bytes, 0, 0, 0, 0);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM add_sums(NEW.worker_id, NEW.project_id, 0, 0, NEW.disk_bytes, 0, 0, 0, 0);
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER volumes_inserted AFTER INSERT ON volumes FOR EACH ROW EXECUTE FUNCTION volumes_summed();
CREATE TRIGGER volumes_deleted AFTER DELETE ON volumes FOR EACH ROW EXECUTE FUNCTION volumes_summed();
CREATE TRIGGER volumes_updated AFTER UPDATE ON volumes FOR EACH ROW
WHEN (OLD.worker_id <> NEW.worker_id OR OLD.project_id <> NEW.project_id OR OLD.disk_bytes <> NEW.disk_bytes)
EXECUTE FUNCTION volumes_summed();

-- +goose StatementBegin
CREATE FUNCTION tasks_summed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.ended_at IS NULL THEN
        PERFORM add_sums(OLD.worker_id, '', 0, 0, 0, 0, 0, 0, -1);
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.ended_at IS NULL THEN
        PERFORM add_sums(NEW.worker_id, '', 0, 0, 0, 0, 0, 0, 1);
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER tasks_inserted AFTER INSERT ON tasks FOR EACH ROW WHEN (NEW.worker_id <> '' AND NEW.ended_at IS NULL) EXECUTE FUNCTION tasks_summed();
CREATE TRIGGER tasks_deleted AFTER DELETE ON tasks FOR EACH ROW WHEN (OLD.worker_id <> '' AND OLD.ended_at IS NULL) EXECUTE FUNCTION tasks_summed();
CREATE TRIGGER tasks_updated AFTER UPDATE ON tasks FOR EACH ROW
WHEN (OLD.worker_id <> NEW.worker_id OR (OLD.ended_at IS NULL) <> (NEW.ended_at IS NULL))
EXECUTE FUNCTION tasks_summed();

-- +goose StatementBegin
CREATE FUNCTION workers_summed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM worker_sums WHERE worker_id = OLD.id AND vms = 0 AND tasks = 0 AND disk_bytes = 0;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER workers_deleted AFTER DELETE ON workers FOR EACH ROW EXECUTE FUNCTION workers_summed();

-- From here on nobody else writes what is summed until all of this is committed.
INSERT INTO worker_sums (worker_id, milli_cpu, memory_bytes, disk_bytes, pids, vms, active, tasks)
SELECT worker_id, SUM(active * milli_cpu), SUM(active * memory_bytes), SUM(disk_bytes), SUM(active * pids), SUM(n), SUM(active), SUM(tasks) FROM (
    SELECT worker_id, milli_cpu, memory_bytes, disk_bytes, pids, 1 AS n, vm_active(observed, desired, pause_mode) AS active, 0 AS tasks FROM vms WHERE observed <> 'deleted'
    UNION ALL SELECT worker_id, 0, 0, disk_bytes, 0, 0, 0, 0 FROM volumes
    UNION ALL SELECT worker_id, 0, 0, 0, 0, 0, 0, 1 FROM tasks WHERE worker_id <> '' AND ended_at IS NULL
) AS held WHERE worker_id <> '' GROUP BY worker_id;
INSERT INTO project_sums (project_id, milli_cpu, memory_bytes, disk_bytes, vms)
SELECT project_id, SUM(active * milli_cpu), SUM(active * memory_bytes), SUM(disk_bytes), SUM(n) FROM (
    SELECT project_id, milli_cpu, memory_bytes, disk_bytes, 1 AS n, vm_active(observed, desired, pause_mode) AS active FROM vms WHERE observed <> 'deleted'
    UNION ALL SELECT project_id, 0, 0, disk_bytes, 0, 0 FROM volumes
) AS held GROUP BY project_id;

-- +goose Down

DROP TRIGGER workers_deleted ON workers;
DROP TRIGGER tasks_updated ON tasks;
DROP TRIGGER tasks_deleted ON tasks;
DROP TRIGGER tasks_inserted ON tasks;
DROP TRIGGER volumes_updated ON volumes;
DROP TRIGGER volumes_deleted ON volumes;
DROP TRIGGER volumes_inserted ON volumes;
DROP TRIGGER vms_updated ON vms;
DROP TRIGGER vms_deleted ON vms;
DROP TRIGGER vms_inserted ON vms;
DROP FUNCTION workers_summed();
DROP FUNCTION tasks_summed();
DROP FUNCTION volumes_summed();
DROP FUNCTION vms_summed();
DROP FUNCTION vm_active(TEXT, TEXT, TEXT);
DROP FUNCTION add_sums(TEXT, TEXT, BIGINT, BIGINT, BIGINT, BIGINT, BIGINT, BIGINT, BIGINT);
DROP TABLE project_sums;
DROP TABLE worker_sums;
