-- The first schema.
--
-- Conventions: times are microseconds since 1970 UTC, durations microseconds,
-- booleans 0 or 1, structured values JSON, sealed values BYTEA. Every tenant
-- table has project_id, and it is part of every unique key, so that one
-- project's IDs and names say nothing about another's. Keys begin with id, so
-- that the system finds a row without knowing its project.

-- +goose Up

CREATE TABLE settings (
    key TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);

CREATE TABLE projects (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX projects_name ON projects (name);
CREATE INDEX projects_created ON projects (created_at, id);

CREATE TABLE workers (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C" NOT NULL,
    platform TEXT COLLATE "C" NOT NULL,
    drivers TEXT COLLATE "C" NOT NULL,
    milli_cpu BIGINT NOT NULL,
    memory_bytes BIGINT NOT NULL,
    disk_bytes BIGINT NOT NULL,
    pids BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    seen_at BIGINT NOT NULL,
    joined_at BIGINT NOT NULL,
    revision BIGINT NOT NULL
);
CREATE UNIQUE INDEX workers_name ON workers (name);

CREATE TABLE vms (
    id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    name TEXT COLLATE "C" NOT NULL,
    metadata TEXT COLLATE "C" NOT NULL,
    spec TEXT COLLATE "C" NOT NULL,
    -- Copies of parts of spec, for filters, references and admission.
    template TEXT COLLATE "C" NOT NULL,
    template_id TEXT COLLATE "C" NOT NULL,
    build_id TEXT COLLATE "C" NOT NULL,
    snapshot_id TEXT COLLATE "C" NOT NULL,
    milli_cpu BIGINT NOT NULL,
    memory_bytes BIGINT NOT NULL,
    disk_bytes BIGINT NOT NULL,
    pids BIGINT NOT NULL,
    isolation TEXT COLLATE "C" NOT NULL,
    desired TEXT COLLATE "C" NOT NULL,
    observed TEXT COLLATE "C" NOT NULL,
    pause_mode TEXT COLLATE "C" NOT NULL,
    generation BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    worker_id TEXT COLLATE "C" NOT NULL,
    machine_id TEXT COLLATE "C" NOT NULL,
    deadline BIGINT,
    deadline_gen BIGINT NOT NULL,
    deadline_ack BIGINT NOT NULL,
    on_timeout TEXT COLLATE "C" NOT NULL,
    idle_timeout BIGINT NOT NULL,
    auto_resume BIGINT NOT NULL,
    env_sealed BYTEA,
    token_sealed BYTEA,
    reason TEXT COLLATE "C" NOT NULL,
    tombstone TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    started_at BIGINT,
    ended_at BIGINT,
    PRIMARY KEY (id, project_id)
);
-- A VM that is wanted deleted has given up its name.
CREATE UNIQUE INDEX vms_name ON vms (project_id, name) WHERE name <> '' AND desired <> 'deleted';
CREATE INDEX vms_name_was ON vms (project_id, name, created_at) WHERE name <> '' AND desired = 'deleted';
-- Lists of living VMs must not walk over tombstones.
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
    vm_id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (vm_id, project_id, key),
    FOREIGN KEY (vm_id, project_id) REFERENCES vms (id, project_id) ON DELETE CASCADE
);
CREATE INDEX vm_metadata_value ON vm_metadata (project_id, key, value, vm_id);

-- Machines belong to nodes. One without a VM waits in the warm pool.
CREATE TABLE machines (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    worker_id TEXT COLLATE "C" NOT NULL,
    driver TEXT COLLATE "C" NOT NULL,
    handle BYTEA,
    build_id TEXT COLLATE "C" NOT NULL,
    milli_cpu BIGINT NOT NULL,
    memory_bytes BIGINT NOT NULL,
    disk_bytes BIGINT NOT NULL,
    pids BIGINT NOT NULL,
    network TEXT COLLATE "C" NOT NULL,
    vm_id TEXT COLLATE "C",
    epoch BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX machines_vm ON machines (vm_id) WHERE vm_id IS NOT NULL;
CREATE INDEX machines_worker ON machines (worker_id, created_at, id);
CREATE INDEX machines_pool ON machines (worker_id, driver, build_id, milli_cpu, memory_bytes, disk_bytes, pids, network, created_at, id)
    WHERE vm_id IS NULL;
CREATE INDEX machines_build ON machines (build_id);

CREATE TABLE executions (
    id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL,
    vm_id TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    command_sealed BYTEA,
    state TEXT COLLATE "C" NOT NULL,
    pid BIGINT NOT NULL,
    exit_code BIGINT,
    signal BIGINT NOT NULL,
    lost_reason TEXT COLLATE "C" NOT NULL,
    output_bytes BIGINT NOT NULL,
    timed_out BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    ended_at BIGINT,
    PRIMARY KEY (id, project_id),
    FOREIGN KEY (vm_id, project_id) REFERENCES vms (id, project_id) ON DELETE CASCADE
);
CREATE INDEX executions_vm ON executions (vm_id, project_id, created_at, id);
CREATE INDEX executions_created ON executions (project_id, created_at, id);
CREATE INDEX executions_open ON executions (vm_id, created_at) WHERE state IN ('starting', 'running');
CREATE INDEX executions_ended ON executions (ended_at) WHERE ended_at IS NOT NULL;

-- The namespace that templates and snapshots of a project share.
CREATE TABLE names (
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    name TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL CHECK (kind IN ('template', 'snapshot')),
    subject_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (project_id, name)
);
CREATE INDEX names_subject ON names (subject_id);

CREATE TABLE templates (
    id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    name TEXT COLLATE "C" NOT NULL,
    public BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    PRIMARY KEY (id, project_id)
);
CREATE INDEX templates_created ON templates (project_id, created_at, id);
CREATE INDEX templates_public ON templates (name, created_at) WHERE public = 1;

-- No reference to templates: a build outlives its template while VMs use it.
CREATE TABLE builds (
    id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    template_id TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    platform TEXT COLLATE "C" NOT NULL,
    source TEXT COLLATE "C" NOT NULL,
    shape TEXT COLLATE "C" NOT NULL,
    kernel TEXT COLLATE "C" NOT NULL,
    driver_version TEXT COLLATE "C" NOT NULL,
    artifacts TEXT COLLATE "C" NOT NULL,
    default_user TEXT COLLATE "C" NOT NULL,
    env TEXT COLLATE "C" NOT NULL,
    work_dir TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    ready_at BIGINT,
    revision BIGINT NOT NULL,
    PRIMARY KEY (id, project_id)
);
CREATE INDEX builds_template ON builds (template_id, project_id, created_at, id);
CREATE INDEX builds_created ON builds (project_id, created_at, id);

CREATE TABLE tags (
    template_id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL,
    tag TEXT COLLATE "C" NOT NULL,
    build_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (template_id, project_id, tag),
    FOREIGN KEY (template_id, project_id) REFERENCES templates (id, project_id) ON DELETE CASCADE,
    FOREIGN KEY (build_id, project_id) REFERENCES builds (id, project_id) ON DELETE CASCADE
);
CREATE INDEX tags_build ON tags (build_id, project_id);

CREATE TABLE snapshots (
    id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    vm_id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    build_id TEXT COLLATE "C" NOT NULL,
    driver TEXT COLLATE "C" NOT NULL,
    driver_version TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    spec TEXT COLLATE "C" NOT NULL,
    env_sealed BYTEA,
    worker_id TEXT COLLATE "C" NOT NULL,
    bytes BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    ephemeral BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    PRIMARY KEY (id, project_id)
);
CREATE INDEX snapshots_created ON snapshots (project_id, created_at, id);
CREATE INDEX snapshots_vm ON snapshots (vm_id, project_id, created_at, id);
CREATE INDEX snapshots_worker ON snapshots (worker_id, created_at, id);
CREATE INDEX snapshots_build ON snapshots (build_id);

CREATE TABLE tasks (
    id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    kind TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    args TEXT COLLATE "C" NOT NULL,
    result TEXT COLLATE "C" NOT NULL,
    error TEXT COLLATE "C",
    attempts BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    cancel_asked BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    ended_at BIGINT,
    revision BIGINT NOT NULL,
    PRIMARY KEY (id, project_id)
);
CREATE INDEX tasks_created ON tasks (project_id, created_at, id);
CREATE INDEX tasks_subject ON tasks (subject, project_id, created_at, id);
CREATE INDEX tasks_pending ON tasks (run_at, id) WHERE state = 'pending';
CREATE INDEX tasks_running ON tasks (updated_at, id) WHERE state = 'running';
CREATE INDEX tasks_ended ON tasks (ended_at) WHERE ended_at IS NOT NULL;

-- Events are written in the transaction of what they tell. Writers take turns,
-- so seq is commit order. They outlive what they are about.
CREATE TABLE outbox (
    seq BIGINT NOT NULL GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    project_id TEXT COLLATE "C" NOT NULL,
    type TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    vm_id TEXT COLLATE "C" NOT NULL,
    data TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX outbox_project ON outbox (project_id, seq);
CREATE INDEX outbox_vm ON outbox (vm_id, seq) WHERE vm_id <> '';

-- Usage outlives its VM.
CREATE TABLE usage (
    vm_id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    from_at BIGINT NOT NULL,
    to_at BIGINT NOT NULL,
    cpu_seconds DOUBLE PRECISION NOT NULL,
    memory_byte_sec DOUBLE PRECISION NOT NULL,
    disk_bytes BIGINT NOT NULL,
    egress_bytes BIGINT NOT NULL,
    PRIMARY KEY (vm_id, project_id, from_at)
);
CREATE INDEX usage_project ON usage (project_id, from_at);
CREATE INDEX usage_end ON usage (to_at);

-- The hash is of a random secret and unique by itself.
CREATE TABLE api_keys (
    id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    name TEXT COLLATE "C" NOT NULL,
    prefix TEXT COLLATE "C" NOT NULL,
    hash BYTEA NOT NULL,
    scopes TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    last_used_at BIGINT,
    revoked_at BIGINT,
    PRIMARY KEY (id, project_id)
);
CREATE UNIQUE INDEX api_keys_hash ON api_keys (hash);
CREATE INDEX api_keys_created ON api_keys (project_id, created_at, id);

CREATE TABLE idempotency (
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    key TEXT COLLATE "C" NOT NULL,
    request_digest TEXT COLLATE "C" NOT NULL,
    subject_id TEXT COLLATE "C" NOT NULL,
    status BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, key)
);
CREATE INDEX idempotency_expiry ON idempotency (expires_at);

CREATE TABLE secrets (
    id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    name TEXT COLLATE "C" NOT NULL,
    sealed BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (id, project_id)
);
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
