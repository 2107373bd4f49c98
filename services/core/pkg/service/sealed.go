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
	p, err := openPrivate(ctx, sealer, storage.SealedVMEnv(vm.ID), vm.EnvSealed)
	if p.Env == nil {
		p.Env = map[string]string{}
	}
	return p.Env, err
}

// OpenEgress gives a VM's policy, and decrypts what its headers say and its
// proxy's password: for what puts it in force. No caller from outside may see
// the result.
func OpenEgress(ctx context.Context, sealer seal.Sealer, vm *domain.VM) (domain.Egress, error) {
	e := domain.Egress{Policy: vm.Spec.Egress}
	if len(e.Policy.Rules) == 0 && e.Policy.Proxy == nil {
		return e, nil
	}
	p, err := openPrivate(ctx, sealer, storage.SealedVMEnv(vm.ID), vm.EnvSealed)
	e.Rules, e.Proxy = p.Rules, p.Proxy
	return e, err
}

// private is what is stored of a VM encrypted: in one value, as it is read
// together. Where there is an environment alone, the value is just that.
type private struct {
	Env   map[string]string   `json:"env,omitempty"`
	Rules []domain.HeaderRule `json:"rules,omitempty"`
	Proxy *domain.EgressProxy `json:"proxy,omitempty"`
}

func openPrivate(ctx context.Context, sealer seal.Sealer, place string, sealed []byte) (private, error) {
	var p private
	if len(sealed) == 0 {
		return p, nil
	}
	plain, err := sealer.Open(ctx, place, sealed)
	if err != nil {
		return p, err
	}
	if json.Unmarshal(plain, &p.Env) == nil {
		return p, nil
	}
	p = private{}
	if err := json.Unmarshal(plain, &p); err != nil {
		// Not wrapped: its text could hold a part of it.
		return private{}, errors.New(errors.Internal, "what is stored encrypted of the VM is damaged")
	}
	return p, nil
}

// seal gives the value to store; nil: there is none.
func (p private) seal(ctx context.Context, sealer seal.Sealer, place string) ([]byte, error) {
	if len(p.Env) == 0 && len(p.Rules) == 0 && p.Proxy == nil {
		return nil, nil
	}
	var value any = p
	if len(p.Rules) == 0 && p.Proxy == nil {
		value = p.Env
	}
	plain, err := json.Marshal(value)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the environment could not be stored")
	}
	return sealer.Seal(ctx, place, plain)
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
