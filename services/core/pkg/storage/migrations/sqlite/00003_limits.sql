-- What projects may have, and the log of who changed what.

-- +goose Up

-- Where a project's limits differ from the installation's defaults. NULL is as
-- the default, 0 without bound.
CREATE TABLE quotas (
    project_id         TEXT NOT NULL PRIMARY KEY REFERENCES projects (id) ON DELETE CASCADE,
    vms                INTEGER,
    milli_cpu          INTEGER,
    memory_bytes       INTEGER,
    disk_bytes         INTEGER,
    creates_per_minute INTEGER,
    snapshots          INTEGER,
    templates          INTEGER
) STRICT, WITHOUT ROWID;

-- Covers the sums of quotas, as vms_worker does those of admission.
CREATE INDEX vms_quota ON vms (project_id, id, desired, observed, pause_mode, milli_cpu, memory_bytes, disk_bytes)
    WHERE observed <> 'deleted';

-- Records outlive what they tell of, projects included; those of requests
-- without valid credentials have no project. The ID is minted before a record
-- comes here, so that none comes twice.
CREATE TABLE audit (
    id             TEXT    NOT NULL PRIMARY KEY,
    project_id     TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    actor          TEXT    NOT NULL,
    key_id         TEXT    NOT NULL,
    user_id        TEXT    NOT NULL,
    admin          INTEGER NOT NULL,
    entered        INTEGER NOT NULL,
    operation      TEXT    NOT NULL,
    subject_kind   TEXT    NOT NULL,
    subject_id     TEXT    NOT NULL,
    vm_id          TEXT    NOT NULL,
    client_address TEXT    NOT NULL,
    user_agent     TEXT    NOT NULL,
    status         INTEGER NOT NULL,
    code           TEXT    NOT NULL,
    request_id     TEXT    NOT NULL,
    unrecorded     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX audit_created ON audit (created_at, id);
CREATE INDEX audit_project ON audit (project_id, created_at, id);
CREATE INDEX audit_subject ON audit (subject_id, created_at, id) WHERE subject_id <> '';
CREATE INDEX audit_vm ON audit (vm_id, created_at, id) WHERE vm_id <> '';

-- +goose Down

DROP TABLE audit;
DROP INDEX vms_quota;
DROP TABLE quotas;
