-- What a worker's VMs, volumes and tasks hold of it, and a project's VMs and
-- volumes of its quota, summed: who places a VM reads rows in the place of
-- counting. Triggers keep the sums in the transaction that writes what they sum,
-- whichever program writes it: those of before know nothing of them.

-- +goose Up

CREATE TABLE worker_sums (
    worker_id    TEXT    NOT NULL PRIMARY KEY,
    milli_cpu    INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    disk_bytes   INTEGER NOT NULL,
    pids         INTEGER NOT NULL,
    vms          INTEGER NOT NULL,
    active       INTEGER NOT NULL,
    tasks        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE project_sums (
    project_id   TEXT    NOT NULL PRIMARY KEY REFERENCES projects (id) ON DELETE CASCADE,
    milli_cpu    INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    disk_bytes   INTEGER NOT NULL,
    vms          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What is put into these two views is added to the sums; there is nothing in them.
CREATE VIEW sum_changes AS SELECT '' AS worker_id, '' AS project_id, 0 AS milli_cpu, 0 AS memory_bytes, 0 AS disk_bytes, 0 AS pids,
    0 AS vms, 0 AS active, 0 AS tasks WHERE FALSE;

-- +goose StatementBegin
CREATE TRIGGER sum_changes_insert INSTEAD OF INSERT ON sum_changes BEGIN
    INSERT INTO worker_sums (worker_id, milli_cpu, memory_bytes, disk_bytes, pids, vms, active, tasks)
    SELECT NEW.worker_id, NEW.milli_cpu, NEW.memory_bytes, NEW.disk_bytes, NEW.pids, NEW.vms, NEW.active, NEW.tasks WHERE NEW.worker_id <> ''
    ON CONFLICT (worker_id) DO UPDATE SET
        milli_cpu = worker_sums.milli_cpu + excluded.milli_cpu, memory_bytes = worker_sums.memory_bytes + excluded.memory_bytes,
        disk_bytes = worker_sums.disk_bytes + excluded.disk_bytes, pids = worker_sums.pids + excluded.pids,
        vms = worker_sums.vms + excluded.vms, active = worker_sums.active + excluded.active, tasks = worker_sums.tasks + excluded.tasks;
    INSERT INTO project_sums (project_id, milli_cpu, memory_bytes, disk_bytes, vms)
    SELECT NEW.project_id, NEW.milli_cpu, NEW.memory_bytes, NEW.disk_bytes, NEW.vms WHERE NEW.project_id <> ''
    ON CONFLICT (project_id) DO UPDATE SET
        milli_cpu = project_sums.milli_cpu + excluded.milli_cpu, memory_bytes = project_sums.memory_bytes + excluded.memory_bytes,
        disk_bytes = project_sums.disk_bytes + excluded.disk_bytes, vms = project_sums.vms + excluded.vms;
END;
-- +goose StatementEnd

CREATE VIEW vm_changes AS SELECT 0 AS n, '' AS worker_id, '' AS project_id, 0 AS milli_cpu, 0 AS memory_bytes, 0 AS disk_bytes, 0 AS pids,
    '' AS observed, '' AS desired, '' AS pause_mode WHERE FALSE;

-- A VM holds CPU, memory and PIDs unless it has ended or rests without memory and
-- is not wanted otherwise; its disk until it is deleted.
-- +goose StatementBegin
CREATE TRIGGER vm_changes_insert INSTEAD OF INSERT ON vm_changes WHEN NEW.observed <> 'deleted' BEGIN
    INSERT INTO sum_changes
    SELECT NEW.worker_id, NEW.project_id, active * NEW.milli_cpu, active * NEW.memory_bytes, NEW.n * NEW.disk_bytes, active * NEW.pids, NEW.n, active, 0
    FROM (SELECT CASE WHEN NEW.observed = 'running' OR (NEW.observed <> 'failed'
        AND NOT (NEW.observed = 'stopped' AND NEW.desired IN ('stopped', 'deleted'))
        AND NOT (NEW.observed = 'paused' AND NEW.pause_mode <> 'freeze' AND NEW.desired IN ('paused', 'deleted'))) THEN NEW.n ELSE 0 END AS active);
END;
-- +goose StatementEnd

INSERT INTO vm_changes SELECT 1, worker_id, project_id, milli_cpu, memory_bytes, disk_bytes, pids, observed, desired, pause_mode FROM vms WHERE observed <> 'deleted';
INSERT INTO sum_changes SELECT worker_id, project_id, 0, 0, disk_bytes, 0, 0, 0, 0 FROM volumes;
INSERT INTO sum_changes SELECT worker_id, '', 0, 0, 0, 0, 0, 0, COUNT(*) FROM tasks WHERE worker_id <> '' AND ended_at IS NULL GROUP BY worker_id;

-- +goose StatementBegin
CREATE TRIGGER vms_inserted AFTER INSERT ON vms BEGIN
    INSERT INTO vm_changes VALUES (1, NEW.worker_id, NEW.project_id, NEW.milli_cpu, NEW.memory_bytes, NEW.disk_bytes, NEW.pids, NEW.observed, NEW.desired, NEW.pause_mode);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER vms_deleted AFTER DELETE ON vms BEGIN
    INSERT INTO vm_changes VALUES (-1, OLD.worker_id, OLD.project_id, OLD.milli_cpu, OLD.memory_bytes, OLD.disk_bytes, OLD.pids, OLD.observed, OLD.desired, OLD.pause_mode);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER vms_updated AFTER UPDATE ON vms
WHEN OLD.worker_id <> NEW.worker_id OR OLD.project_id <> NEW.project_id OR OLD.milli_cpu <> NEW.milli_cpu OR OLD.memory_bytes <> NEW.memory_bytes
    OR OLD.disk_bytes <> NEW.disk_bytes OR OLD.pids <> NEW.pids OR OLD.observed <> NEW.observed OR OLD.desired <> NEW.desired OR OLD.pause_mode <> NEW.pause_mode
BEGIN
    INSERT INTO vm_changes VALUES (-1, OLD.worker_id, OLD.project_id, OLD.milli_cpu, OLD.memory_bytes, OLD.disk_bytes, OLD.pids, OLD.observed, OLD.desired, OLD.pause_mode);
    INSERT INTO vm_changes VALUES (1, NEW.worker_id, NEW.project_id, NEW.milli_cpu, NEW.memory_bytes, NEW.disk_bytes, NEW.pids, NEW.observed, NEW.desired, NEW.pause_mode);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER volumes_inserted AFTER INSERT ON volumes BEGIN
    INSERT INTO sum_changes VALUES (NEW.worker_id, NEW.project_id, 0, 0, NEW.disk_bytes, 0, 0, 0, 0);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER volumes_deleted AFTER DELETE ON volumes BEGIN
    INSERT INTO sum_changes VALUES (OLD.worker_id, OLD.project_id, 0, 0, -OLD.disk_bytes, 0, 0, 0, 0);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER volumes_updated AFTER UPDATE ON volumes
WHEN OLD.worker_id <> NEW.worker_id OR OLD.project_id <> NEW.project_id OR OLD.disk_bytes <> NEW.disk_bytes
BEGIN
    INSERT INTO sum_changes VALUES (OLD.worker_id, OLD.project_id, 0, 0, -OLD.disk_bytes, 0, 0, 0, 0);
    INSERT INTO sum_changes VALUES (NEW.worker_id, NEW.project_id, 0, 0, NEW.disk_bytes, 0, 0, 0, 0);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER tasks_inserted AFTER INSERT ON tasks WHEN NEW.worker_id <> '' AND NEW.ended_at IS NULL BEGIN
    INSERT INTO sum_changes VALUES (NEW.worker_id, '', 0, 0, 0, 0, 0, 0, 1);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER tasks_deleted AFTER DELETE ON tasks WHEN OLD.worker_id <> '' AND OLD.ended_at IS NULL BEGIN
    INSERT INTO sum_changes VALUES (OLD.worker_id, '', 0, 0, 0, 0, 0, 0, -1);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER tasks_updated AFTER UPDATE ON tasks
WHEN OLD.worker_id <> NEW.worker_id OR (OLD.ended_at IS NULL) <> (NEW.ended_at IS NULL)
BEGIN
    INSERT INTO sum_changes VALUES (OLD.worker_id, '', 0, 0, 0, 0, 0, 0, CASE WHEN OLD.ended_at IS NULL THEN -1 ELSE 0 END);
    INSERT INTO sum_changes VALUES (NEW.worker_id, '', 0, 0, 0, 0, 0, 0, CASE WHEN NEW.ended_at IS NULL THEN 1 ELSE 0 END);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER workers_deleted AFTER DELETE ON workers BEGIN
    DELETE FROM worker_sums WHERE worker_id = OLD.id AND vms = 0 AND tasks = 0 AND disk_bytes = 0;
END;
-- +goose StatementEnd

-- +goose Down

DROP TRIGGER workers_deleted;
DROP TRIGGER tasks_updated;
DROP TRIGGER tasks_deleted;
DROP TRIGGER tasks_inserted;
DROP TRIGGER volumes_updated;
DROP TRIGGER volumes_deleted;
DROP TRIGGER volumes_inserted;
DROP TRIGGER vms_updated;
DROP TRIGGER vms_deleted;
DROP TRIGGER vms_inserted;
DROP VIEW vm_changes;
DROP VIEW sum_changes;
DROP TABLE project_sums;
DROP TABLE worker_sums;
