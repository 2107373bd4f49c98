-- The first schema.
--
-- Conventions: times are microseconds since 1970 UTC, durations microseconds,
-- booleans 0 or 1, structured values JSON, sealed values BLOB. Every tenant
-- table has project_id, and it is part of every unique key, so that one
-- project's IDs and names say nothing about another's. Keys begin with id, so
-- that the system finds a row without knowing its project.

-- +goose Up

CREATE TABLE settings (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE projects (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX projects_name ON projects (name);
CREATE INDEX projects_created ON projects (created_at, id);

CREATE TABLE workers (
    id           TEXT    NOT NULL PRIMARY KEY,
    name         TEXT    NOT NULL,
    version      TEXT    NOT NULL,
    platform     TEXT    NOT NULL,
    drivers      TEXT    NOT NULL,
    milli_cpu    INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    disk_bytes   INTEGER NOT NULL,
    pids         INTEGER NOT NULL,
    state        TEXT    NOT NULL,
    seen_at      INTEGER NOT NULL,
    joined_at    INTEGER NOT NULL,
    revision     INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX workers_name ON workers (name);

CREATE TABLE vms (
    id           TEXT    NOT NULL,
    project_id   TEXT    NOT NULL REFERENCES projects (id),
    name         TEXT    NOT NULL,
    metadata     TEXT    NOT NULL,
    spec         TEXT    NOT NULL,
    -- Copies of parts of spec, for filters, references and admission.
    template     TEXT    NOT NULL,
    template_id  TEXT    NOT NULL,
    build_id     TEXT    NOT NULL,
    snapshot_id  TEXT    NOT NULL,
    milli_cpu    INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    disk_bytes   INTEGER NOT NULL,
    pids         INTEGER NOT NULL,
    isolation    TEXT    NOT NULL,
    desired      TEXT    NOT NULL,
    observed     TEXT    NOT NULL,
    pause_mode   TEXT    NOT NULL,
    generation   INTEGER NOT NULL,
    epoch        INTEGER NOT NULL,
    revision     INTEGER NOT NULL,
    worker_id    TEXT    NOT NULL,
    machine_id   TEXT    NOT NULL,
    deadline     INTEGER,
    deadline_gen INTEGER NOT NULL,
    deadline_ack INTEGER NOT NULL,
    on_timeout   TEXT    NOT NULL,
    idle_timeout INTEGER NOT NULL,
    auto_resume  INTEGER NOT NULL,
    env_sealed   BLOB,
    token_sealed BLOB,
    reason       TEXT    NOT NULL,
    tombstone    TEXT,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    started_at   INTEGER,
    ended_at     INTEGER,
    PRIMARY KEY (id, project_id)
) STRICT;
-- A VM that is wanted deleted has given up its name.
CREATE UNIQUE INDEX vms_name ON vms (project_id, name) WHERE name <> '' AND desired <> 'deleted';
CREATE INDEX vms_name_was ON vms (project_id, name, created_at) WHERE name <> '' AND desired = 'deleted';
-- Lists of living VMs must not walk over tombstones. Where two indexes serve
-- equally, SQLite takes the one that was made last.
CREATE INDEX vms_created ON vms (project_id, created_at, id);
CREATE INDEX vms_live ON vms (project_id, created_at, id) WHERE observed <> 'deleted';
-- Covers the sums of admission.
CREATE INDEX vms_worker ON vms (worker_id, id, desired, observed, pause_mode, milli_cpu, memory_bytes, disk_bytes, pids)
    WHERE observed <> 'deleted';
CREATE INDEX vms_unconverged ON vms (worker_id, updated_at)
    WHERE observed <> desired AND observed <> 'deleted' AND (observed <> 'failed' OR desired = 'deleted');
CREATE INDEX vms_deadline ON vms (worker_id, deadline)
    WHERE deadline IS NOT NULL AND desired <> 'deleted' AND observed <> 'deleted';
CREATE INDEX vms_deadline_unacked ON vms (worker_id, updated_at)
    WHERE deadline_ack < deadline_gen AND observed <> 'deleted';
CREATE INDEX vms_tombstones ON vms (ended_at) WHERE observed = 'deleted';
CREATE INDEX vms_build ON vms (build_id) WHERE observed <> 'deleted' AND build_id <> '';
CREATE INDEX vms_snapshot ON vms (snapshot_id) WHERE observed <> 'deleted' AND snapshot_id <> '';

-- An index of vms.metadata by key and value; the column is the truth.
CREATE TABLE vm_metadata (
    vm_id      TEXT NOT NULL,
    project_id TEXT NOT NULL,
    key        TEXT NOT NULL,
    value      TEXT NOT NULL,
    PRIMARY KEY (vm_id, project_id, key),
    FOREIGN KEY (vm_id, project_id) REFERENCES vms (id, project_id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX vm_metadata_value ON vm_metadata (project_id, key, value, vm_id);

-- Machines belong to nodes. One without a VM waits in the warm pool.
CREATE TABLE machines (
    id           TEXT    NOT NULL PRIMARY KEY,
    worker_id    TEXT    NOT NULL,
    driver       TEXT    NOT NULL,
    handle       BLOB,
    build_id     TEXT    NOT NULL,
    milli_cpu    INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    disk_bytes   INTEGER NOT NULL,
    pids         INTEGER NOT NULL,
    network      TEXT    NOT NULL,
    vm_id        TEXT,
    epoch        INTEGER NOT NULL,
    created_at   INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX machines_vm ON machines (vm_id) WHERE vm_id IS NOT NULL;
CREATE INDEX machines_worker ON machines (worker_id, created_at, id);
CREATE INDEX machines_pool ON machines (worker_id, driver, build_id, milli_cpu, memory_bytes, disk_bytes, pids, network, created_at, id)
    WHERE vm_id IS NULL;
CREATE INDEX machines_build ON machines (build_id);

CREATE TABLE executions (
    id             TEXT    NOT NULL,
    project_id     TEXT    NOT NULL,
    vm_id          TEXT    NOT NULL,
    epoch          INTEGER NOT NULL,
    command_sealed BLOB,
    state          TEXT    NOT NULL,
    pid            INTEGER NOT NULL,
    exit_code      INTEGER,
    signal         INTEGER NOT NULL,
    lost_reason    TEXT    NOT NULL,
    output_bytes   INTEGER NOT NULL,
    timed_out      INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    started_at     INTEGER,
    ended_at       INTEGER,
    PRIMARY KEY (id, project_id),
    FOREIGN KEY (vm_id, project_id) REFERENCES vms (id, project_id) ON DELETE CASCADE
) STRICT;
CREATE INDEX executions_vm ON executions (vm_id, project_id, created_at, id);
CREATE INDEX executions_created ON executions (project_id, created_at, id);
CREATE INDEX executions_open ON executions (vm_id, created_at) WHERE state IN ('starting', 'running');
CREATE INDEX executions_ended ON executions (ended_at) WHERE ended_at IS NOT NULL;

-- The namespace that templates and snapshots of a project share.
CREATE TABLE names (
    project_id TEXT NOT NULL REFERENCES projects (id),
    name       TEXT NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('template', 'snapshot')),
    subject_id TEXT NOT NULL,
    PRIMARY KEY (project_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX names_subject ON names (subject_id);

CREATE TABLE templates (
    id         TEXT    NOT NULL,
    project_id TEXT    NOT NULL REFERENCES projects (id),
    name       TEXT    NOT NULL,
    public     INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision   INTEGER NOT NULL,
    PRIMARY KEY (id, project_id)
) STRICT;
CREATE INDEX templates_created ON templates (project_id, created_at, id);
CREATE INDEX templates_public ON templates (name, created_at) WHERE public = 1;

-- No reference to templates: a build outlives its template while VMs use it.
CREATE TABLE builds (
    id             TEXT    NOT NULL,
    project_id     TEXT    NOT NULL REFERENCES projects (id),
    template_id    TEXT    NOT NULL,
    state          TEXT    NOT NULL,
    platform       TEXT    NOT NULL,
    source         TEXT    NOT NULL,
    shape          TEXT    NOT NULL,
    kernel         TEXT    NOT NULL,
    driver_version TEXT    NOT NULL,
    artifacts      TEXT    NOT NULL,
    default_user   TEXT    NOT NULL,
    env            TEXT    NOT NULL,
    work_dir       TEXT    NOT NULL,
    reason         TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    ready_at       INTEGER,
    revision       INTEGER NOT NULL,
    PRIMARY KEY (id, project_id)
) STRICT;
CREATE INDEX builds_template ON builds (template_id, project_id, created_at, id);
CREATE INDEX builds_created ON builds (project_id, created_at, id);

CREATE TABLE tags (
    template_id TEXT NOT NULL,
    project_id  TEXT NOT NULL,
    tag         TEXT NOT NULL,
    build_id    TEXT NOT NULL,
    PRIMARY KEY (template_id, project_id, tag),
    FOREIGN KEY (template_id, project_id) REFERENCES templates (id, project_id) ON DELETE CASCADE,
    FOREIGN KEY (build_id, project_id) REFERENCES builds (id, project_id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_build ON tags (build_id, project_id);

CREATE TABLE snapshots (
    id             TEXT    NOT NULL,
    project_id     TEXT    NOT NULL REFERENCES projects (id),
    vm_id          TEXT    NOT NULL,
    name           TEXT    NOT NULL,
    build_id       TEXT    NOT NULL,
    driver         TEXT    NOT NULL,
    driver_version TEXT    NOT NULL,
    kind           TEXT    NOT NULL,
    spec           TEXT    NOT NULL,
    env_sealed     BLOB,
    worker_id      TEXT    NOT NULL,
    bytes          INTEGER NOT NULL,
    state          TEXT    NOT NULL,
    ephemeral      INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    revision       INTEGER NOT NULL,
    PRIMARY KEY (id, project_id)
) STRICT;
CREATE INDEX snapshots_created ON snapshots (project_id, created_at, id);
CREATE INDEX snapshots_vm ON snapshots (vm_id, project_id, created_at, id);
CREATE INDEX snapshots_worker ON snapshots (worker_id, created_at, id);
CREATE INDEX snapshots_build ON snapshots (build_id);

CREATE TABLE tasks (
    id           TEXT    NOT NULL,
    project_id   TEXT    NOT NULL REFERENCES projects (id),
    kind         TEXT    NOT NULL,
    subject      TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    args         TEXT    NOT NULL,
    result       TEXT    NOT NULL,
    error        TEXT,
    attempts     INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    cancel_asked INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    run_at       INTEGER NOT NULL,
    ended_at     INTEGER,
    revision     INTEGER NOT NULL,
    PRIMARY KEY (id, project_id)
) STRICT;
CREATE INDEX tasks_created ON tasks (project_id, created_at, id);
CREATE INDEX tasks_subject ON tasks (subject, project_id, created_at, id);
CREATE INDEX tasks_pending ON tasks (run_at, id) WHERE state = 'pending';
CREATE INDEX tasks_running ON tasks (updated_at, id) WHERE state = 'running';
CREATE INDEX tasks_ended ON tasks (ended_at) WHERE ended_at IS NOT NULL;

-- Events are written in the transaction of what they tell. Writers take turns,
-- so seq is commit order. They outlive what they are about.
CREATE TABLE outbox (
    seq        INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    project_id TEXT    NOT NULL,
    type       TEXT    NOT NULL,
    subject    TEXT    NOT NULL,
    vm_id      TEXT    NOT NULL,
    data       TEXT    NOT NULL,
    at         INTEGER NOT NULL
) STRICT;
CREATE INDEX outbox_project ON outbox (project_id, seq);
CREATE INDEX outbox_vm ON outbox (vm_id, seq) WHERE vm_id <> '';

-- Usage outlives its VM.
CREATE TABLE usage (
    vm_id           TEXT    NOT NULL,
    project_id      TEXT    NOT NULL REFERENCES projects (id),
    from_at         INTEGER NOT NULL,
    to_at           INTEGER NOT NULL,
    cpu_seconds     REAL    NOT NULL,
    memory_byte_sec REAL    NOT NULL,
    disk_bytes      INTEGER NOT NULL,
    egress_bytes    INTEGER NOT NULL,
    PRIMARY KEY (vm_id, project_id, from_at)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_project ON usage (project_id, from_at);
CREATE INDEX usage_end ON usage (to_at);

-- The hash is of a random secret and unique by itself.
CREATE TABLE api_keys (
    id           TEXT    NOT NULL,
    project_id   TEXT    NOT NULL REFERENCES projects (id),
    name         TEXT    NOT NULL,
    prefix       TEXT    NOT NULL,
    hash         BLOB    NOT NULL,
    scopes       TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER,
    revoked_at   INTEGER,
    PRIMARY KEY (id, project_id)
) STRICT;
CREATE UNIQUE INDEX api_keys_hash ON api_keys (hash);
CREATE INDEX api_keys_created ON api_keys (project_id, created_at, id);

CREATE TABLE idempotency (
    project_id     TEXT    NOT NULL REFERENCES projects (id),
    key            TEXT    NOT NULL,
    request_digest TEXT    NOT NULL,
    subject_id     TEXT    NOT NULL,
    status         INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    expires_at     INTEGER NOT NULL,
    PRIMARY KEY (project_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_expiry ON idempotency (expires_at);

CREATE TABLE secrets (
    id         TEXT    NOT NULL,
    project_id TEXT    NOT NULL REFERENCES projects (id),
    name       TEXT    NOT NULL,
    sealed     BLOB    NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (id, project_id)
) STRICT;
CREATE UNIQUE INDEX secrets_name ON secrets (project_id, name);

-- +goose Down

DROP TABLE secrets;
DROP TABLE idempotency;
DROP TABLE api_keys;
DROP TABLE usage;
DROP TABLE outbox;
DROP TABLE tasks;
DROP TABLE snapshots;
DROP TABLE tags;
DROP TABLE builds;
DROP TABLE templates;
DROP TABLE names;
DROP TABLE executions;
DROP TABLE machines;
DROP TABLE vm_metadata;
DROP TABLE vms;
DROP TABLE workers;
DROP TABLE projects;
DROP TABLE settings;
