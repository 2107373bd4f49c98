package api

import (
	"context"
	"net/http"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
)

type (
	// SecretPath names a stored secret in a path.
	SecretPath struct {
		Name string `path:"name" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" patternDescription:"letters, digits, dots, dashes and underscores" doc:"Name of a stored secret"`
	}
	secretsOutput  struct{ Body *wire.List[wire.Secret] }
	setSecretInput struct {
		SecretPath
		Body wire.SetSecret
	}
	secretOutput struct{ Body wire.Secret }
)

func (a *API) secretRoutes() {
	const tag = "Secrets"
	register(a, operation("list-secrets", http.MethodGet, "/secrets", tag, "List the stored secrets", "By name, all of them; their values are never read back."), options{scope: domain.ScopeManage}, a.listSecrets)
	register(a, operation("set-secret", http.MethodPut, "/secrets/{name}", tag, "Store a secret", "Replaces the value that the name has."), options{scope: domain.ScopeManage}, a.setSecret)
	register(a, operation("delete-secret", http.MethodDelete, "/secrets/{name}", tag, "Delete a stored secret", ""), options{scope: domain.ScopeManage},
		func(ctx context.Context, in *SecretPath) (*empty, error) {
			return nil, a.VMs.DeleteSecret(ctx, auth.CallerFrom(ctx), in.Name)
		})
}

func (a *API) listSecrets(ctx context.Context, _ *none) (*secretsOutput, error) {
	l, err := a.VMs.ListSecrets(ctx, auth.CallerFrom(ctx))
	if err != nil {
		return nil, err
	}
	return &secretsOutput{&wire.List[wire.Secret]{Items: mapped(l, secret)}}, nil
}

func (a *API) setSecret(ctx context.Context, in *setSecretInput) (*secretOutput, error) {
	s, err := a.VMs.PutSecret(ctx, auth.CallerFrom(ctx), in.Name, in.Body.Value)
	if err != nil {
		return nil, err
	}
	return &secretOutput{secret(s)}, nil
}

func secret(s *domain.Secret) wire.Secret {
	return wire.Secret{Name: s.Name, CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt}
}
