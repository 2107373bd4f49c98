-- What projects may have, and the log of who changed what.

-- +goose Up

-- Where a project's limits differ from the installation's defaults. NULL is as
-- the default, 0 without bound.
CREATE TABLE quotas (
    project_id TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES projects (id) ON DELETE CASCADE,
    vms BIGINT,
    milli_cpu BIGINT,
    memory_bytes BIGINT,
    disk_bytes BIGINT,
    creates_per_minute BIGINT,
    snapshots BIGINT,
    templates BIGINT
);

-- Covers the sums of quotas, as vms_worker does those of admission.
CREATE INDEX vms_quota ON vms (project_id, id, desired, observed, pause_mode, milli_cpu, memory_bytes, disk_bytes)
    WHERE observed <> 'deleted';

-- Records outlive what they tell of, projects included; those of requests
-- without valid credentials have no project. The ID is minted before a record
-- comes here, so that none comes twice.
CREATE TABLE audit (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    project_id TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    user_id TEXT COLLATE "C" NOT NULL,
    admin BIGINT NOT NULL,
    entered BIGINT NOT NULL,
    operation TEXT COLLATE "C" NOT NULL,
    subject_kind TEXT COLLATE "C" NOT NULL,
    subject_id TEXT COLLATE "C" NOT NULL,
    vm_id TEXT COLLATE "C" NOT NULL,
    client_address TEXT COLLATE "C" NOT NULL,
    user_agent TEXT COLLATE "C" NOT NULL,
    status BIGINT NOT NULL,
    code TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    unrecorded BIGINT NOT NULL
);
CREATE INDEX audit_created ON audit (created_at, id);
CREATE INDEX audit_project ON audit (project_id, created_at, id);
CREATE INDEX audit_subject ON audit (subject_id, created_at, id) WHERE subject_id <> '';
CREATE INDEX audit_vm ON audit (vm_id, created_at, id) WHERE vm_id <> '';

-- +goose Down

DROP TABLE audit;
DROP INDEX vms_quota;
DROP TABLE quotas;
