package storetest

import (
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

func uploads(e *env) {
	p, q := e.project("p"), e.project("q")
	sent := func(project domain.ID, bytes int64, ttl time.Duration) *domain.Upload {
		e.Helper()
		at := e.tick()
		u := &domain.Upload{ID: domain.NewID(), ProjectID: project, WorkerID: "w", Name: "n", SizeBytes: bytes, CreatedAt: at, ExpiresAt: at.Add(ttl)}
		e.update(func(tx storage.Tx) error { return tx.Uploads().Insert(e.ctx(), u) })
		return u
	}
	get := func(project, id domain.ID, at time.Time) func(storage.Tx) (*domain.Upload, error) {
		return func(tx storage.Tx) (*domain.Upload, error) { return tx.Uploads().Get(e.ctx(), project, id, at) }
	}
	held := func(project domain.ID, at time.Time) int64 {
		e.Helper()
		return read(e, func(tx storage.Tx) (int64, error) { return tx.Uploads().Held(e.ctx(), project, at) })
	}
	brief, long, others := sent(p, 3, time.Minute), sent(p, 4, time.Hour), sent(q, 1<<40, time.Hour)
	same(e, "an upload", read(e, get(p, brief.ID, e.now)), brief)
	same(e, "a project's bytes", held(p, e.now), 7)
	same(e, "another's", held(q, e.now), others.SizeBytes)
	same(e, "those that have not expired", held(p, brief.ExpiresAt), 4)
	for name, get := range map[string]func(storage.Tx) (*domain.Upload, error){
		"another project's": get(q, brief.ID, e.now), "one that has expired": get(p, brief.ID, brief.ExpiresAt), "none": get(p, domain.NewID(), e.now),
	} {
		if c := code(e, get); c != errors.NotFound {
			e.Errorf("%s: %s", name, c)
		}
	}

	long.SizeBytes, long.SHA256, long.ExpiresAt = 5, "ab", long.ExpiresAt.Add(time.Hour)
	e.update(func(tx storage.Tx) error { return tx.Uploads().Update(e.ctx(), long) })
	same(e, "a whole one", read(e, get(p, long.ID, e.now)), long)
	named := func(project domain.ID, name string, at time.Time) func(storage.Tx) (*domain.Upload, error) {
		return func(tx storage.Tx) (*domain.Upload, error) { return tx.Uploads().Named(e.ctx(), project, name, at) }
	}
	same(e, "one by its name", read(e, named(p, "n", e.now)), long)
	newer := sent(p, 6, time.Hour)
	same(e, "a newer one that is not whole", read(e, named(p, "n", e.now)), long)
	newer.SHA256 = "cd"
	e.update(func(tx storage.Tx) error { return tx.Uploads().Update(e.ctx(), newer) })
	same(e, "a newer one", read(e, named(p, "n", e.now)), newer)
	for what, get := range map[string]func(storage.Tx) (*domain.Upload, error){
		"another project's": named(q, "n", e.now), "another name": named(p, "m", e.now), "all expired": named(p, "n", long.ExpiresAt),
	} {
		if c := code(e, get); c != errors.NotFound {
			e.Errorf("%s by its name: %s", what, c)
		}
	}
	e.update(func(tx storage.Tx) error { return tx.Uploads().Delete(e.ctx(), p, newer.ID) })
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error { return tx.Uploads().Insert(e.ctx(), long) })
	absent := &domain.Upload{ID: domain.NewID(), ProjectID: p, CreatedAt: e.now, ExpiresAt: e.now}
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Uploads().Update(e.ctx(), absent) })
	absent.ProjectID = domain.NewID()
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Uploads().Insert(e.ctx(), absent) })

	expired := func(at time.Time) (n int) {
		e.update(func(tx storage.Tx) (err error) {
			n, err = tx.Uploads().DeleteExpired(e.ctx(), at, 10)
			return err
		})
		return n
	}
	same(e, "expired", expired(brief.ExpiresAt), 1)
	same(e, "those left", held(p, e.now), 5)
	e.update(func(tx storage.Tx) error {
		return errors.Join(tx.Uploads().Delete(e.ctx(), q, long.ID), tx.Uploads().Delete(e.ctx(), p, domain.NewID()))
	})
	same(e, "those left when another project deletes it", held(p, e.now), 5)
	e.update(func(tx storage.Tx) error { return tx.Uploads().DeleteOn(e.ctx(), domain.NewID()) })
	same(e, "those left when another worker is gone", held(p, e.now), 5)
	e.update(func(tx storage.Tx) error { return tx.Uploads().DeleteOn(e.ctx(), long.WorkerID) })
	same(e, "none left", held(p, e.now), 0)
}
