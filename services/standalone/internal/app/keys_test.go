package app

import (
	"context"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
)

// counted counts the looks into a store.
type counted struct {
	storage.Store
	views int
}

func (c *counted) View(ctx context.Context, f func(storage.Tx) error) error {
	c.views++
	return c.Store.View(ctx, f)
}

// A key is looked up once, and one that is revoked is so at once.
func TestKeysAreRemembered(t *testing.T) {
	t.Parallel()
	store, err := sqlite.Open(t.Context(), t.TempDir()+"/db", sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	project := &domain.Project{ID: domain.NewID(), Name: "p", CreatedAt: now()}
	change := func(f func(tx storage.Tx) error) {
		t.Helper()
		if err := store.Update(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	mint := func() (auth.Hash, *domain.APIKey) {
		text, hash := auth.MintKey()
		k := &domain.APIKey{ID: domain.NewID(), ProjectID: project.ID, Name: "k", Prefix: text[:8], Hash: hash, Scopes: domain.Scopes{domain.ScopeAdmin}, CreatedAt: now()}
		change(func(tx storage.Tx) error { return tx.Keys().Insert(t.Context(), k) })
		return hash, k
	}
	change(func(tx storage.Tx) error { return tx.Projects().Insert(t.Context(), project) })
	hash, key := mint()
	looked := &counted{Store: store}
	k := newKeys(looked)
	look := func(hash auth.Hash, views int) auth.Key {
		t.Helper()
		before := looked.views
		got, err := k.LookupKey(t.Context(), hash)
		if err != nil || looked.views-before != views {
			t.Errorf("%v after %d looks into the store, want %d", err, looked.views-before, views)
		}
		return got
	}
	if got := look(hash, 1); got.ID != key.ID || !got.Scopes.Allows(domain.ScopeAdmin) || got.RevokedAt != nil {
		t.Errorf("%+v", got)
	}
	if got := look(hash, 0); got.ID != key.ID || !got.Scopes.Allows(domain.ScopeAdmin) {
		t.Errorf("%+v", got)
	}
	if err := k.TouchKeys(t.Context(), map[domain.ID]time.Time{key.ID: time.Now()}); err != nil {
		t.Fatal(err)
	}
	look(hash, 0)
	for range 2 { // nothing is remembered of a key that there is not
		before := looked.views
		if _, err := k.LookupKey(t.Context(), auth.Hash{1}); !errors.HasCode(err, errors.NotFound) || looked.views == before {
			t.Errorf("an unknown key: %v", err)
		}
	}
	other, _ := mint()
	look(other, 1)
	look(hash, 1) // keys have changed
	look(hash, 0)
	change(func(tx storage.Tx) error { return tx.Keys().Revoke(t.Context(), project.ID, key.ID, now()) })
	if got := look(hash, 1); got.RevokedAt == nil {
		t.Error("a key that was revoked is in force")
	}
	if got := look(hash, 0); got.RevokedAt == nil {
		t.Error("a key that was revoked is in force again")
	}
}
