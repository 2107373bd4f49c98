package fake

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

type secret struct {
	domain.Secret
	value string
}

// Secret gives a stored secret's value, for tests to look at.
func (o *Orchestrator) Secret(project domain.ID, name string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.secrets[project][name].value
}

// ListSecrets implements vmm.Secrets.
func (o *Orchestrator) ListSecrets(_ context.Context, by vmm.Caller) ([]*domain.Secret, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []*domain.Secret
	for _, name := range slices.Sorted(maps.Keys(o.secrets[by.ProjectID])) {
		s := o.secrets[by.ProjectID][name].Secret
		out = append(out, &s)
	}
	return out, nil
}

// PutSecret implements vmm.Secrets.
func (o *Orchestrator) PutSecret(_ context.Context, by vmm.Caller, name, value string) (*domain.Secret, error) {
	if err := errors.Join(domain.ValidateSecretName("name", name), domain.ValidateSecretValue("value", value)); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now().UTC()
	s := secret{domain.Secret{ID: domain.NewID(), ProjectID: by.ProjectID, Name: name, CreatedAt: now, UpdatedAt: now}, value}
	if was, ok := o.secrets[by.ProjectID][name]; ok {
		s.CreatedAt = was.CreatedAt
	}
	if o.secrets[by.ProjectID] == nil {
		o.secrets[by.ProjectID] = map[string]secret{}
	}
	o.secrets[by.ProjectID][name] = s
	return &s.Secret, nil
}

// DeleteSecret implements vmm.Secrets.
func (o *Orchestrator) DeleteSecret(_ context.Context, by vmm.Caller, name string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.secrets[by.ProjectID][name]; !ok {
		return errors.New(errors.NotFound, "no secret is named %q", name)
	}
	delete(o.secrets[by.ProjectID], name)
	return nil
}
