package service

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// ListSecrets implements vmm.Secrets.
func (s *Service) ListSecrets(ctx context.Context, by vmm.Caller) (list []*domain.Secret, err error) {
	err = s.store.View(ctx, func(tx storage.Tx) error {
		list, err = tx.Secrets().List(ctx, by.ProjectID)
		return err
	})
	return list, err
}

// PutSecret implements vmm.Secrets.
func (s *Service) PutSecret(ctx context.Context, by vmm.Caller, name, value string) (*domain.Secret, error) {
	if err := domain.ValidateSecretName("name", name); err != nil {
		return nil, err
	}
	if err := domain.ValidateSecretValue("value", value); err != nil {
		return nil, err
	}
	now := s.time()
	secret := &domain.Secret{ID: domain.NewID(), ProjectID: by.ProjectID, Name: name, CreatedAt: now, UpdatedAt: now}
	var err error
	if secret.Sealed, err = s.sealer.Seal(ctx, storage.SealedSecret(secret), []byte(value)); err != nil {
		return nil, err
	}
	users, err := s.secretUsers(ctx, by.ProjectID, name)
	if err != nil {
		return nil, err
	}
	changed := map[domain.ID]*domain.VM{}
	err = s.store.Update(ctx, func(tx storage.Tx) error {
		if err := tx.Secrets().Put(ctx, secret); err != nil {
			return err
		}
		n, err := tx.Secrets().Count(ctx, by.ProjectID)
		if err == nil && n > domain.MaxSecrets {
			return errors.New(errors.Conflict, "the project has %d secrets already", domain.MaxSecrets).WithHint("delete those that nothing uses")
		}
		if err != nil {
			return err
		}
		// Along with the value, so that their workers take it over whoever dies or leaves now.
		clear(changed)
		for _, vm := range users {
			row, err := s.raiseEgress(ctx, tx, by.ProjectID, vm.ID, func(*domain.VM) error { return nil })
			switch {
			case err == nil:
				changed[vm.ID] = row
			case !errors.HasCode(err, errors.NotFound): // it went meanwhile
				return err
			}
		}
		return nil
	})
	secret.Sealed = nil
	if err != nil {
		return secret, err
	}
	return secret, s.secretChanged(ctx, by.ProjectID, name, changed)
}

// DeleteSecret implements vmm.Secrets.
func (s *Service) DeleteSecret(ctx context.Context, by vmm.Caller, name string) error {
	if err := domain.ValidateSecretName("name", name); err != nil {
		return err
	}
	return s.store.Update(ctx, func(tx storage.Tx) error { return tx.Secrets().Delete(ctx, by.ProjectID, name) })
}
