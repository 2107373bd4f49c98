package service_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// A secret is stored sealed, opens in its own project under its own name, and
// is nowhere in what callers get.
func TestSecrets(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	other := vmm.Caller{ProjectID: domain.NewID(), Name: "another"}
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		return tx.Projects().Insert(b.ctx, &domain.Project{ID: other.ProjectID, Name: "q", CreatedAt: b.now()})
	}))
	const value = "ghp_correct-horse"
	put, err := b.PutSecret(b.ctx, b.by, "TOKEN", value)
	must(t, err)
	if put.Name != "TOKEN" || put.Sealed != nil || put.CreatedAt.IsZero() {
		t.Errorf("put %+v", put)
	}
	stored := func(project domain.ID, name string) (s *domain.Secret) {
		t.Helper()
		must(t, b.store.View(b.ctx, func(tx storage.Tx) (err error) {
			s, err = tx.Secrets().Get(b.ctx, project, name)
			return err
		}))
		return s
	}
	if s := stored(b.by.ProjectID, "TOKEN"); len(s.Sealed) == 0 || bytes.Contains(s.Sealed, []byte(value)) {
		t.Errorf("stored %q", s.Sealed)
	}
	if got, err := service.SecretValue(b.ctx, b.store, b.sealer, b.by.ProjectID, "TOKEN"); err != nil || got != value {
		t.Errorf("%q, %v", got, err)
	}
	// The same name in another project is another secret.
	_, err = b.PutSecret(b.ctx, other, "TOKEN", "other")
	must(t, err)
	if got, err := service.SecretValue(b.ctx, b.store, b.sealer, b.by.ProjectID, "TOKEN"); err != nil || got != value {
		t.Errorf("after another project's: %q, %v", got, err)
	}
	again, err := b.PutSecret(b.ctx, b.by, "TOKEN", "second")
	must(t, err)
	if !again.CreatedAt.Equal(put.CreatedAt) || again.ID == put.ID {
		t.Errorf("replaced: %+v, first %+v", again, put)
	}
	if got, err := service.SecretValue(b.ctx, b.store, b.sealer, b.by.ProjectID, "TOKEN"); err != nil || got != "second" {
		t.Errorf("replaced: %q, %v", got, err)
	}
	list, err := b.ListSecrets(b.ctx, b.by)
	if err != nil || len(list) != 1 || list[0].Name != "TOKEN" || list[0].Sealed != nil {
		t.Errorf("list %+v, %v", list, err)
	}
	must(t, b.DeleteSecret(b.ctx, b.by, "TOKEN"))
	for _, call := range []func() error{
		func() error { return b.DeleteSecret(b.ctx, b.by, "TOKEN") },
		func() error {
			_, err := service.SecretValue(b.ctx, b.store, b.sealer, b.by.ProjectID, "TOKEN")
			return err
		},
	} {
		if err := call(); !errors.HasCode(err, errors.NotFound) {
			t.Errorf("deleted: %v", err)
		}
	}
	if got, err := service.SecretValue(b.ctx, b.store, b.sealer, other.ProjectID, "TOKEN"); err != nil || got != "other" {
		t.Errorf("another project's after the deletion: %q, %v", got, err)
	}
}

// A row that was moved behind the key's back, to another name or project, does
// not open: its value would go to hosts it was not meant for.
func TestAMovedSecretDoesNotOpen(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, err := b.PutSecret(b.ctx, b.by, "A", "value")
	must(t, err)
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		s, err := tx.Secrets().Get(b.ctx, b.by.ProjectID, "A")
		if err != nil {
			return err
		}
		if err := tx.Secrets().Delete(b.ctx, b.by.ProjectID, "A"); err != nil {
			return err
		}
		s.Name = "B"
		return tx.Secrets().Put(b.ctx, s)
	}))
	if got, err := service.SecretValue(b.ctx, b.store, b.sealer, b.by.ProjectID, "B"); !errors.HasCode(err, errors.Internal) || got != "" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestSecretBounds(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, bad := range []struct{ name, value, field string }{
		{"", "v", "name"}, {"a/b", "v", "name"}, {strings.Repeat("n", 64), "v", "name"},
		{"N", "", "value"}, {"N", "a\x00b", "value"}, {"N", "a\xff", "value"}, {"N", strings.Repeat("x", domain.MaxSecretBytes+1), "value"},
	} {
		_, err := b.PutSecret(b.ctx, b.by, bad.name, bad.value)
		var e *errors.Error
		if !errors.As(err, &e) || e.Code != errors.InvalidArgument || e.Field != bad.field {
			t.Errorf("%q: %v", bad.name, err)
		}
	}
	if err := b.DeleteSecret(b.ctx, b.by, "a/b"); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("delete: %v", err)
	}
	sealed, err := b.sealer.Seal(b.ctx, "p", []byte("v"))
	must(t, err)
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		for range domain.MaxSecrets {
			id := domain.NewID()
			s := &domain.Secret{ID: id, ProjectID: b.by.ProjectID, Name: "n" + string(id), Sealed: sealed, CreatedAt: b.now(), UpdatedAt: b.now()}
			if err := tx.Secrets().Put(b.ctx, s); err != nil {
				return err
			}
		}
		return nil
	}))
	if _, err := b.PutSecret(b.ctx, b.by, "ONE_MORE", "v"); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("one too many: %v", err)
	}
	list, err := b.ListSecrets(b.ctx, b.by)
	if err != nil || len(list) != domain.MaxSecrets {
		t.Fatalf("%d secrets, %v", len(list), err)
	}
	if _, err := b.PutSecret(b.ctx, b.by, list[0].Name, "anew"); err != nil { // one that is there can still be replaced
		t.Errorf("replaced: %v", err)
	}
}

// A value sealed with a key that is gone is not an empty one.
func TestASecretWhoseKeyIsLost(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, err := b.PutSecret(b.ctx, b.by, "A", "value")
	must(t, err)
	ring, err := seal.NewKeys(bytes.Repeat([]byte{7}, 32))
	must(t, err)
	if got, err := service.SecretValue(b.ctx, b.store, seal.New(ring), b.by.ProjectID, "A"); err == nil || got != "" {
		t.Errorf("%q, %v", got, err)
	}
}
