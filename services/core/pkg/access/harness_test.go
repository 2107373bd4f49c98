package access_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// counted counts the looks into a store.
type counted struct {
	storage.Store
	mu    sync.Mutex
	views int
}

func (c *counted) View(ctx context.Context, f func(storage.Tx) error) error {
	c.mu.Lock()
	c.views++
	c.mu.Unlock()
	return c.Store.View(ctx, f)
}

func (c *counted) Read(ctx context.Context, f func(storage.Tx) error) error {
	c.mu.Lock()
	c.views++
	c.mu.Unlock()
	return c.Store.Read(ctx, f)
}

// bench is an installation with two projects, without a server.
type bench struct {
	*testing.T
	store   *counted
	service *access.Service
	lookup  *access.Lookup
	deps    access.Deps
	admin   vmm.Caller
	other   domain.ID // project

	mu  sync.Mutex
	now time.Time
}

func (b *bench) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

func newBench(t *testing.T) *bench {
	t.Helper()
	store, err := sqlitetest.Open(t.Context(), filepath.Join(t.TempDir(), "a.db"), sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	ring, err := seal.NewKeys(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, store: &counted{Store: store}, now: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
	b.deps = access.Deps{Store: b.store, Sealer: seal.New(ring), Log: slog.New(slog.DiscardHandler), Now: b.clock}
	b.service, b.lookup = access.New(b.deps), access.NewLookup(b.store, b.clock)
	first := &domain.Project{ID: domain.NewID(), Name: "first", CreatedAt: b.now}
	b.update(func(tx storage.Tx) error { return tx.Projects().Insert(t.Context(), first) })
	b.admin = vmm.Caller{ProjectID: first.ID, Name: "root", Scopes: domain.Scopes{domain.ScopeAdmin}, Admin: true}
	b.pass(time.Second)
	b.other = b.project("other").ID
	return b
}

func (b *bench) update(f func(tx storage.Tx) error) {
	b.Helper()
	if err := b.store.Update(b.Context(), f); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) project(name string) *domain.Project {
	b.Helper()
	p, err := b.service.CreateProject(b.Context(), b.admin, name)
	if err != nil {
		b.Fatal(err)
	}
	return p
}

func (b *bench) user(name string) *domain.User {
	b.Helper()
	u, err := b.service.CreateUser(b.Context(), b.admin, access.CreateUser{Name: name})
	if err != nil {
		b.Fatal(err)
	}
	return u
}

// in is the administrator in another project.
func (b *bench) in(project domain.ID) vmm.Caller {
	by := b.admin
	by.ProjectID = project
	return by
}

func (b *bench) member(project domain.ID, user string, role domain.Role) {
	b.Helper()
	if _, err := b.service.PutMember(b.Context(), b.in(project), user, role); err != nil {
		b.Fatal(err)
	}
}

// key makes a key and gives who shows it.
func (b *bench) key(by vmm.Caller, req access.CreateKey) (access.NewKey, vmm.Caller) {
	b.Helper()
	k, err := b.service.CreateKey(b.Context(), by, req)
	if err != nil {
		b.Fatal(err)
	}
	return k, b.show(k.Text)
}

// show is who shows a key's text; nobody where it gives nothing.
func (b *bench) show(text string) vmm.Caller {
	b.Helper()
	hash := access.HashKey(text)
	k, err := b.lookup.LookupKey(b.Context(), hash)
	if errors.HasCode(err, errors.NotFound) || err == nil && !k.Opens(hash, b.clock()) {
		return vmm.Caller{}
	}
	if err != nil {
		b.Fatal(err)
	}
	return vmm.Caller{
		ProjectID: k.ProjectID, Name: k.Name, KeyID: k.ID, UserID: k.UserID, Scopes: k.Scopes, Admin: k.Scopes.Allows(domain.ScopeAdmin),
	}
}

func (b *bench) refused(what string, err error, code errors.Code) {
	b.Helper()
	if errors.CodeOf(err) != code {
		b.Errorf("%s: %v, want %s", what, err, code)
	}
}
