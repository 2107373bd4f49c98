-- What a VM may reach is in its spec; which change of it the worker enforces.

-- +goose Up

ALTER TABLE vms ADD COLUMN egress_gen BIGINT NOT NULL DEFAULT 0;
ALTER TABLE vms ADD COLUMN egress_ack BIGINT NOT NULL DEFAULT 0;
DROP INDEX vms_deadline_unacked;
CREATE INDEX vms_unacked ON vms (worker_id, updated_at)
    WHERE (deadline_ack < deadline_gen OR egress_ack < egress_gen) AND observed <> 'deleted';

-- +goose Down

DROP INDEX vms_unacked;
CREATE INDEX vms_deadline_unacked ON vms (worker_id, updated_at)
    WHERE deadline_ack < deadline_gen AND observed <> 'deleted';
ALTER TABLE vms DROP COLUMN egress_ack;
ALTER TABLE vms DROP COLUMN egress_gen;
