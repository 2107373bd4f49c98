-- What a worker still has to do of builds and installations is counted.

-- +goose Up

CREATE INDEX tasks_worker ON tasks (worker_id) WHERE worker_id <> '' AND ended_at IS NULL;

-- +goose Down

DROP INDEX tasks_worker;
