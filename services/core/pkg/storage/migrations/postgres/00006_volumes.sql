-- Volumes, and which VMs have them.

-- +goose Up

CREATE TABLE volumes (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    name TEXT COLLATE "C" NOT NULL,
    worker_id TEXT COLLATE "C" NOT NULL,
    disk_bytes BIGINT NOT NULL,
    token_sealed BYTEA NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX volumes_name ON volumes (project_id, name);
CREATE INDEX volumes_created ON volumes (project_id, created_at, id);
-- Covers the sums of quotas and of admission.
CREATE INDEX volumes_quota ON volumes (project_id, disk_bytes);
CREATE INDEX volumes_worker ON volumes (worker_id, id, disk_bytes);

-- A VM's mounts are in its spec and never change; this finds them by volume.
CREATE TABLE volume_mounts (
    project_id TEXT COLLATE "C" NOT NULL,
    volume_id TEXT COLLATE "C" NOT NULL REFERENCES volumes (id) ON DELETE CASCADE,
    vm_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (volume_id, vm_id),
    FOREIGN KEY (vm_id, project_id) REFERENCES vms (id, project_id) ON DELETE CASCADE
);
CREATE INDEX volume_mounts_vm ON volume_mounts (vm_id, project_id);
CREATE INDEX volume_mounts_project ON volume_mounts (project_id);

-- +goose Down

DROP TABLE volume_mounts;
DROP TABLE volumes;
