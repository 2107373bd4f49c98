package serve_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/installation"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/serve"
)

// The first key is made once. What became of it since stays so: a secret that
// was rotated away does not come back from its file.
func TestTheFirstKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store, err := sqlitetest.Open(t.Context(), dir+"/db", sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	var log strings.Builder
	in := &installation.Installation{Store: store}
	file := filepath.Join(dir, "api.key")
	start := func() (domain.ID, string) {
		t.Helper()
		project, err := in.FirstProject(t.Context())
		if err == nil {
			err = serve.FirstKey(t.Context(), store, project, file, slog.New(slog.NewTextHandler(&log, nil)))
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return project, strings.TrimSpace(string(text))
	}
	lookup := access.NewLookup(store, nil)
	opens := func(what, text string, want bool) {
		t.Helper()
		k, err := lookup.LookupKey(t.Context(), access.HashKey(text))
		if ok := err == nil && k.Opens(access.HashKey(text), time.Now()) && k.Scopes.Allows(domain.ScopeAdmin); ok != want {
			t.Errorf("%s opens: %t, %v", what, ok, err)
		}
	}
	project, first := start()
	opens("the first key", first, true)
	if again, same := start(); again != project || same != first {
		t.Errorf("the second start made %s, %s", again, same)
	}
	service := access.New(access.Deps{Store: store})
	admin := vmm.Caller{ProjectID: project, Name: "root", Scopes: domain.Scopes{domain.ScopeAdmin}, Admin: true}
	keys, err := service.ListKeys(t.Context(), admin, vmm.Page{})
	if err != nil || len(keys.Items) != 1 {
		t.Fatalf("%v, %v", keys, err)
	}
	fresh, err := service.RotateKey(t.Context(), admin, keys.Items[0].ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	start()
	opens("a secret that was rotated away", first, false)
	opens("the one in its place", fresh.Text, true)
	if !strings.Contains(log.String(), "is not valid; remove it") || strings.Contains(log.String(), first) {
		t.Errorf("logged %s", log.String())
	}
	if err := service.RevokeKey(t.Context(), admin, keys.Items[0].ID); err != nil {
		t.Fatal(err)
	}
	start()
	opens("a revoked key", fresh.Text, false)
	opens("a secret that was rotated away", first, false)
	// The way back in: without its file a key is made.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	_, second := start()
	opens("a key made since", second, true)
	// The project may have another name, and another may be the first.
	if _, err := service.RenameProject(t.Context(), admin, domain.DefaultProjectName, "renamed"); err != nil {
		t.Fatal(err)
	}
	if again, _ := start(); again != project {
		t.Errorf("a renamed project became %s", again)
	}
	var list storage.List[*domain.Project]
	if err := store.View(t.Context(), func(tx storage.Tx) (err error) {
		list, err = tx.Projects().List(t.Context(), storage.Page{})
		return err
	}); err != nil || len(list.Items) != 1 {
		t.Errorf("%d projects, %v", len(list.Items), err)
	}
}
