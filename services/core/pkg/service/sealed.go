package service

import (
	"context"
	"encoding/json"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// SealCommand encrypts a command for its row.
func SealCommand(ctx context.Context, sealer seal.Sealer, id domain.ID, c domain.Command) ([]byte, error) {
	plain, err := json.Marshal(c)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the command could not be stored")
	}
	return sealer.Seal(ctx, storage.SealedCommand(id), plain)
}

// OpenCommand undoes SealCommand.
func OpenCommand(ctx context.Context, sealer seal.Sealer, id domain.ID, sealed []byte) (domain.Command, error) {
	var c domain.Command
	plain, err := sealer.Open(ctx, storage.SealedCommand(id), sealed)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(plain, &c); err != nil {
		return c, errors.Wrap(err, errors.Internal, "the stored command is damaged")
	}
	return c, nil
}

// OpenEnv decrypts a VM's environment; none yields an empty map.
func OpenEnv(ctx context.Context, sealer seal.Sealer, vm *domain.VM) (map[string]string, error) {
	env := map[string]string{}
	if len(vm.EnvSealed) == 0 {
		return env, nil
	}
	plain, err := sealer.Open(ctx, storage.SealedVMEnv(vm.ID), vm.EnvSealed)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(plain, &env); err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the stored environment is damaged")
	}
	return env, nil
}

// SecretValue finds a project's stored secret by name and decrypts it: for
// what gives secrets to VMs. No caller from outside may see the result.
// Returns NotFound, and Unavailable while its key cannot be reached.
func SecretValue(ctx context.Context, store storage.Store, sealer seal.Sealer, project domain.ID, name string) (string, error) {
	var s *domain.Secret
	err := store.View(ctx, func(tx storage.Tx) (err error) {
		s, err = tx.Secrets().Get(ctx, project, name)
		return err
	})
	if err != nil {
		return "", err
	}
	plain, err := sealer.Open(ctx, storage.SealedSecret(s), s.Sealed)
	return string(plain), err
}
