package sqlrepo

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type workers struct{ s Session }

const (
	workerFixed    = "id, joined_at"
	workerChanging = "name, version, platform, drivers, milli_cpu, memory_bytes, disk_bytes, pids, state, cordoned, drain_at, moving, staying, address, storage, revision"
	workerColumns  = workerFixed + ", seen_at, " + workerChanging
	workerSelect   = "SELECT " + workerColumns + " FROM workers"

	// What VMs, volumes and tasks hold of some workers, which triggers keep; %s are
	// the workers. Of nobody it tells how many rows there are, and their revisions
	// summed: that needs no order and no row is sent.
	reservedQuery = `SELECT worker_id, milli_cpu, memory_bytes, disk_bytes, pids, vms, active, tasks, 0 FROM worker_sums WHERE worker_id IN (%s)
		UNION ALL SELECT '', 0, 0, 0, 0, COUNT(*), 0, 0, CAST(COALESCE(SUM(revision), 0) AS BIGINT) FROM workers`
	// maxCounted bounds the workers of one reservedQuery.
	maxCounted = 1000
)

func workerChangingOf(w *domain.Worker, revision int64) []any {
	c := w.Capacity
	return []any{
		w.Name, w.Version, w.Platform, jsonText{w.Drivers}, c.MilliCPU, c.MemoryBytes, c.DiskBytes, c.PIDs,
		string(w.State), flag(w.Cordoned), optMicros(w.DrainAt), flag(w.Moving), w.Staying, w.Address, w.Storage, revision,
	}
}

func scanWorker(r Row) (*domain.Worker, error) {
	w := new(domain.Worker)
	c := &w.Capacity
	return w, r.Scan(&w.ID, scanTime{&w.JoinedAt}, scanTime{&w.SeenAt}, &w.Name, &w.Version, &w.Platform, jsonText{&w.Drivers},
		&c.MilliCPU, &c.MemoryBytes, &c.DiskBytes, &c.PIDs, &w.State, scanFlag{&w.Cordoned}, scanOptTime{&w.DrainAt}, scanFlag{&w.Moving}, &w.Staying, &w.Address, &w.Storage, &w.Revision)
}

func (r workers) one(ctx context.Context, absent *errors.Error, cond, arg string) (*domain.Worker, error) {
	w, err := queryOne(ctx, r.s, scanWorker, absent, workerSelect+" WHERE "+cond, arg)
	if err != nil {
		return nil, err
	}
	_, err = r.Count(ctx, w)
	return w, err
}

func (r workers) Get(ctx context.Context, id domain.ID) (*domain.Worker, error) {
	return r.one(ctx, notFound("worker", id), "id = ?", string(id))
}

func (r workers) ByName(ctx context.Context, name string) (*domain.Worker, error) {
	return r.one(ctx, errors.New(errors.NotFound, "no worker is named %q", name), "name = ?", name)
}

func (r workers) All(ctx context.Context) ([]*domain.Worker, error) {
	return queryAll(ctx, r.s, scanWorker, workerSelect+" ORDER BY name")
}

func (r workers) Insert(ctx context.Context, w *domain.Worker) error {
	_, err := r.s.Exec(ctx, "INSERT INTO workers ("+workerColumns+") VALUES ("+marks(workerColumns)+")",
		append([]any{string(w.ID), micros(w.JoinedAt), micros(w.SeenAt)}, workerChangingOf(w, 1)...)...)
	if err != nil {
		return workerFault(err, w)
	}
	w.Revision = 1
	return nil
}

func (r workers) Update(ctx context.Context, w *domain.Worker) error {
	n, err := r.s.Exec(ctx, "UPDATE workers SET "+sets(workerChanging)+" WHERE id = ? AND revision = ?",
		append(workerChangingOf(w, w.Revision+1), string(w.ID), w.Revision)...)
	if err != nil {
		return workerFault(err, w)
	}
	if n == 0 {
		if _, err := r.Get(ctx, w.ID); err != nil {
			return err
		}
		return changedMeanwhile("worker")
	}
	w.Revision++
	return nil
}

func workerFault(err error, w *domain.Worker) error {
	switch {
	case violated(err, Unique, "name"):
		return errors.Wrap(err, errors.AlreadyExists, "a worker named %q exists already", w.Name)
	case violated(err, Unique):
		return errors.Wrap(err, errors.AlreadyExists, "worker %s exists already", w.ID)
	}
	return err
}

func (r workers) State(ctx context.Context, id domain.ID) (domain.WorkerState, error) {
	var state domain.WorkerState
	err := r.s.Query(ctx, func(row Row) error { return row.Scan(&state) }, "SELECT state FROM workers WHERE id = ?", string(id))
	if err == nil && state == "" {
		err = notFound("worker", id)
	}
	return state, err
}

func (r workers) Seen(ctx context.Context, id domain.ID) (storage.Sign, error) {
	now, args := r.s.Clock()
	sign, err := queryOne(ctx, r.s, func(row Row) (*storage.Sign, error) {
		s := new(storage.Sign)
		var left *int64
		err := row.Scan(&s.State, scanFlag{&s.Cordoned}, &left, scanFlag{&s.Moving})
		if left != nil {
			d := time.Duration(*left) * time.Microsecond
			s.Drain = &d
		}
		return s, err
	}, notFound("worker", id), "UPDATE workers SET seen_at = "+now+" WHERE id = ? RETURNING state, cordoned, drain_at - seen_at, moving", append(args, string(id))...)
	if err != nil {
		return storage.Sign{}, err
	}
	return *sign, nil
}

func (r workers) Silent(ctx context.Context, since time.Duration) ([]domain.ID, error) {
	now, args := r.s.Clock()
	var ids []domain.ID
	err := r.s.Query(ctx, func(row Row) error {
		var id domain.ID
		err := row.Scan(&id)
		ids = append(ids, id)
		return err
	}, "SELECT id FROM workers WHERE state <> 'away' AND seen_at < "+now+" - ? ORDER BY id", append(args, since.Microseconds())...)
	return ids, err
}

func (r workers) Away(ctx context.Context, id domain.ID, since time.Duration) (bool, error) {
	now, args := r.s.Clock()
	n, err := r.s.Exec(ctx, "UPDATE workers SET state = 'away', revision = revision + 1 WHERE id = ? AND state <> 'away' AND seen_at < "+now+" - ?",
		slices.Concat([]any{string(id)}, args, []any{since.Microseconds()})...)
	return n > 0, err
}

func (r workers) Clock(ctx context.Context) (time.Time, error) {
	now, args := r.s.Clock()
	at, err := queryInt(ctx, r.s, "SELECT "+now, args...)
	return time.UnixMicro(at).UTC(), err
}

func (r workers) Delete(ctx context.Context, id domain.ID) error {
	placed, err := queryInt(ctx, r.s, `SELECT (SELECT COUNT(*) FROM vms WHERE worker_id = ? AND observed <> 'deleted')
		+ (SELECT COUNT(*) FROM machines WHERE worker_id = ?)`, string(id), string(id))
	if err != nil {
		return err
	}
	if placed > 0 {
		return errors.New(errors.Conflict, "worker %s still has %d VMs or machines", id, placed)
	}
	for _, table := range []string{"copies", "snapshot_copies"} {
		if _, err := r.s.Exec(ctx, "DELETE FROM "+table+" WHERE worker_id = ?", string(id)); err != nil {
			return err
		}
	}
	n, err := r.s.Exec(ctx, "DELETE FROM workers WHERE id = ?", string(id))
	if err == nil && n == 0 {
		return notFound("worker", id)
	}
	return err
}

func (r workers) Count(ctx context.Context, ws ...*domain.Worker) (version storage.WorkersVersion, err error) {
	for some := range slices.Chunk(ws, maxCounted) {
		at := make(map[domain.ID]*domain.Worker, len(some))
		ids := make([]any, 0, len(some))
		for _, w := range some {
			w.Reserved, w.VMs, w.Active, w.Tasks = domain.Resources{}, 0, 0, 0
			at[w.ID] = w
			ids = append(ids, string(w.ID))
		}
		err := r.s.Query(ctx, func(row Row) error {
			var id domain.ID
			var held domain.Resources
			var vms, active, tasks int
			var revisions int64
			if err := row.Scan(&id, &held.MilliCPU, &held.MemoryBytes, &held.DiskBytes, &held.PIDs, &vms, &active, &tasks, &revisions); err != nil {
				return err
			}
			if id == "" {
				version = storage.WorkersVersion{Workers: vms, Revisions: revisions}
				return nil
			}
			w := at[id]
			w.Reserved, w.VMs, w.Active, w.Tasks = held, vms, active, tasks
			return nil
		}, fmt.Sprintf(reservedQuery, placeholders(len(some))), ids...)
		if err != nil {
			return version, err
		}
	}
	return version, nil
}
