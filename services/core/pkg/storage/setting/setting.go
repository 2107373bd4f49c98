// Package setting keeps secrets that an installation makes once, sealed, among
// its settings.
package setting

import (
	"context"
	"encoding/base64"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// Once gives the secret that is kept under a key, which begins with
// [storage.SealedSettings]. Where there is none, one is made and kept; of
// several processes that do so at once all get the same. Returns Internal for
// one that cannot be opened, and what make returns.
func Once(ctx context.Context, store storage.Store, sealer seal.Sealer, key string, make func() ([]byte, error)) ([]byte, error) {
	var stored string
	err := store.View(ctx, func(tx storage.Tx) (err error) {
		stored, err = tx.Settings().Get(ctx, key)
		return err
	})
	if errors.HasCode(err, errors.NotFound) {
		stored, err = keep(ctx, store, sealer, key, make)
	}
	if err != nil {
		return nil, err
	}
	sealed, err := base64.StdEncoding.DecodeString(stored)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the setting %s is damaged", key)
	}
	return sealer.Open(ctx, storage.SealedSetting(key), sealed)
}

// keep makes a secret, and keeps it unless somebody else has been faster. Sealing
// may be a call to a service, which no transaction waits for.
func keep(ctx context.Context, store storage.Store, sealer seal.Sealer, key string, make func() ([]byte, error)) (stored string, err error) {
	plain, err := make()
	if err != nil {
		return "", err
	}
	sealed, err := sealer.Seal(ctx, storage.SealedSetting(key), plain)
	if err != nil {
		return "", err
	}
	err = store.Update(ctx, func(tx storage.Tx) (err error) {
		stored, err = tx.Settings().Init(ctx, key, base64.StdEncoding.EncodeToString(sealed))
		return err
	})
	return stored, err
}
