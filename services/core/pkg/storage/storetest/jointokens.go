package storetest

import (
	"crypto/sha256"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

func joinTokens(e *env) {
	mint := func(secret string) *domain.JoinToken {
		e.Helper()
		at := e.tick()
		t := &domain.JoinToken{ID: domain.NewID(), Hash: sha256.Sum256([]byte(secret)), CreatedBy: "root", CreatedAt: at, ExpiresAt: at.Add(time.Hour)}
		e.update(func(tx storage.Tx) error { return tx.JoinTokens().Insert(e.ctx(), t) })
		return t
	}
	first, second := mint("a"), mint("b")
	get := func(t *domain.JoinToken) *domain.JoinToken {
		e.Helper()
		return read(e, func(tx storage.Tx) (*domain.JoinToken, error) { return tx.JoinTokens().ByHash(e.ctx(), t.Hash) })
	}
	same(e, "stored", get(first), first)
	twin := *first
	twin.ID = domain.NewID()
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error { return tx.JoinTokens().Insert(e.ctx(), &twin) })
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		_, err := tx.JoinTokens().ByHash(e.ctx(), sha256.Sum256([]byte("c")))
		return err
	})

	first.WorkerID, first.KeyHash, first.UsedAt = domain.NewID(), sha256.Sum256([]byte("key")), ptr(e.tick())
	use := func(tx storage.Tx) error {
		return tx.JoinTokens().Use(e.ctx(), first.ID, first.WorkerID, first.KeyHash, *first.UsedAt)
	}
	e.update(use)
	same(e, "used", get(first), first)
	e.refused(errors.Conflict, use)
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		return tx.JoinTokens().Use(e.ctx(), domain.NewID(), first.WorkerID, first.KeyHash, e.now)
	})
	same(e, "the other", get(second), second)

	third := mint("d")
	list := read(e, func(tx storage.Tx) (storage.List[*domain.JoinToken], error) {
		return tx.JoinTokens().List(e.ctx(), storage.Page{Limit: 2})
	})
	same(e, "newest first", list.Items, []*domain.JoinToken{third, second})
	list = read(e, func(tx storage.Tx) (storage.List[*domain.JoinToken], error) {
		return tx.JoinTokens().List(e.ctx(), storage.Page{Limit: 2, Cursor: list.Next})
	})
	same(e, "the rest", list.Items, []*domain.JoinToken{first})

	e.update(func(tx storage.Tx) error { return tx.JoinTokens().Delete(e.ctx(), second.ID) })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.JoinTokens().Delete(e.ctx(), second.ID) })
	var n int
	e.update(func(tx storage.Tx) (err error) {
		n, err = tx.JoinTokens().DeleteExpired(e.ctx(), third.ExpiresAt, 10)
		return err
	})
	if n != 1 {
		e.Errorf("%d expired tokens went", n)
	}
	same(e, "what has not expired", get(third), third)
}
