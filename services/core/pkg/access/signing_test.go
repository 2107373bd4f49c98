package access_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

func TestSigningKeys(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	const month = 30 * 24 * time.Hour
	s := access.NewSigning(b.deps, month)
	signer := func(s *access.Signing) access.SigningKey {
		t.Helper()
		k, err := s.Signer(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	verifies := func(s *access.Signing, id string, want bool) {
		t.Helper()
		k, err := s.Verifier(ctx, id)
		if (err == nil) != want || want && k.ID != id || !want && !errors.HasCode(err, errors.NotFound) {
			t.Errorf("%s verifies: %v", id, err)
		}
	}
	if _, err := s.Verifier(ctx, string(domain.NewID())); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("before the first: %v", err)
	}
	first := signer(s)
	if again := signer(s); again.ID != first.ID {
		t.Errorf("two keys sign: %s, %s", first.ID, again.ID)
	}
	// Another process finds the same, also one that starts later.
	later := access.NewSigning(b.deps, month)
	if found := signer(later); found.ID != first.ID || !bytes.Equal(found.Private, first.Private) {
		t.Error("another process signs with another key")
	}
	// The stored key is sealed.
	b.update(func(tx storage.Tx) error {
		text, err := tx.Settings().Get(ctx, storage.SettingTokenKeys)
		sealed, derr := base64.StdEncoding.DecodeString(text)
		if _, ok := seal.KeyID(sealed); derr != nil || !ok || bytes.Contains(sealed, first.Private.Seed()) {
			t.Errorf("stored as %s", text)
		}
		return err
	})
	b.pass(month) // its time is over
	second := signer(s)
	if second.ID == first.ID {
		t.Error("a key signs for longer than it should")
	}
	verifies(s, first.ID, true)
	verifies(later, second.ID, true) // which the other process has made
	if found := signer(later); found.ID != second.ID {
		t.Error("another process does not follow")
	}
	b.pass(access.MaxTokenTTL + 2*time.Minute) // nothing the first signed is valid
	verifies(s, first.ID, false)
	verifies(s, second.ID, true)

	plain := vmm.Caller{Scopes: domain.Scopes{domain.ScopeManage}}
	b.refused("rotation by who is no administrator", s.Rotate(ctx, plain, false), errors.PermissionDenied)
	if err := s.Rotate(ctx, b.admin, false); err != nil {
		t.Fatal(err)
	}
	third := signer(s)
	verifies(s, second.ID, true)
	if err := s.Rotate(ctx, b.admin, true); err != nil {
		t.Fatal(err)
	}
	for _, k := range []access.SigningKey{second, third} {
		verifies(s, k.ID, false)
	}
	verifies(s, signer(s).ID, true)
	verifies(later, third.ID, false) // every process hears of it
	if found := signer(later); found.ID != signer(s).ID {
		t.Error("another process signs with a key that is forgotten")
	}
}

// refusing is a store that writes nothing.
type refusing struct{ storage.Store }

func (refusing) Update(context.Context, func(storage.Tx) error) error {
	return errors.New(errors.Unavailable, "the database is away")
}

// A key that could not be stored signs nothing: nobody else would know it.
func TestASigningKeyThatIsNotStored(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	deps := b.deps
	deps.Store = refusing{b.store}
	s := access.NewSigning(deps, 30*24*time.Hour)
	for range 2 {
		if k, err := s.Signer(t.Context()); !errors.HasCode(err, errors.Unavailable) {
			t.Errorf("%s signs, %v", k.ID, err)
		}
	}
}
