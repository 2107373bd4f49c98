package storetest

import (
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// archive makes an archive of one execution.
func (e *env) archive(project, worker domain.ID) *domain.Archive {
	e.Helper()
	id, at := domain.NewID(), e.tick()
	a := &domain.Archive{
		ID: id, ProjectID: project, WorkerID: worker, Executions: 1, FirstAt: at, LastAt: at, CreatedAt: e.tick(),
		KeySealed: []byte("key of " + id), Bytes: 3, Content: []byte{0, 1, 255},
	}
	e.update(func(tx storage.Tx) error { return tx.Archives().Insert(e.ctx(), a) })
	return a
}

func archives(e *env) {
	p, q, one, two := e.project("p"), e.project("q"), domain.NewID(), domain.NewID()
	first, others, second, foreign := e.archive(p, one), e.archive(p, two), e.archive(p, one), e.archive(q, one)
	get := func(project, id domain.ID) *domain.Archive {
		e.Helper()
		return read(e, func(tx storage.Tx) (*domain.Archive, error) { return tx.Archives().Get(e.ctx(), project, id) })
	}
	last := func(project, worker domain.ID) *domain.Archive {
		e.Helper()
		return read(e, func(tx storage.Tx) (*domain.Archive, error) { return tx.Archives().Last(e.ctx(), project, worker) })
	}
	listed := func(project domain.ID) []domain.ID {
		e.Helper()
		list := read(e, func(tx storage.Tx) (storage.List[*domain.Archive], error) {
			return tx.Archives().List(e.ctx(), project, storage.Page{Order: "asc"})
		})
		return ids(list.Items, func(a *domain.Archive) domain.ID {
			if a.Content != nil || a.Bytes != 3 && a.Bytes != 4 {
				e.Errorf("a list has %+v", a)
			}
			return a.ID
		})
	}
	same(e, "an archive", get(p, first.ID), first)
	same(e, "the last", last(p, one), second)
	same(e, "the last of another worker", last(p, two), others)
	same(e, "the last of another project", last(q, one), foreign)
	same(e, "a project's", listed(p), []domain.ID{first.ID, others.ID, second.ID})
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		_, err := tx.Archives().Get(e.ctx(), q, first.ID)
		return err
	})
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		_, err := tx.Archives().Last(e.ctx(), q, two)
		return err
	})
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error { return tx.Archives().Insert(e.ctx(), first) })

	more := *second
	more.VMs, more.Tasks, more.LastAt, more.KeySealed, more.Content, more.Bytes = 2, 4, e.tick(), []byte("another key"), []byte("more"), 4
	e.update(func(tx storage.Tx) error { return tx.Archives().Extend(e.ctx(), &more, second.Records()) })
	same(e, "a longer one", get(p, second.ID), &more)
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Archives().Extend(e.ctx(), &more, second.Records()) })
	absent := more
	absent.ID = domain.NewID()
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Archives().Extend(e.ctx(), &absent, more.Records()) })

	old := func(before time.Time, limit int) (n int) {
		e.Helper()
		e.update(func(tx storage.Tx) (err error) {
			n, err = tx.Archives().DeleteBefore(e.ctx(), before, limit)
			return err
		})
		return n
	}
	if n := old(first.LastAt, 10); n != 0 {
		e.Errorf("%d go before their time", n)
	}
	if n := old(more.LastAt, 2); n != 2 {
		e.Errorf("%d of the three that are old go at once, not 2", n)
	}
	same(e, "what is left", listed(p), []domain.ID{second.ID})
	if n := old(more.LastAt, 10); n != 1 {
		e.Errorf("%d go, not the last of the three", n)
	}
	e.update(func(tx storage.Tx) error { return tx.Projects().Delete(e.ctx(), p) })
	same(e, "what is left of a project that is gone", listed(p), []domain.ID{})
}
