package webhook

import (
	"context"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Deps are what the use cases work with.
type Deps struct {
	Store   storage.Store
	Sealer  seal.Sealer
	Targets Targets
	Now     func() time.Time // nil: time.Now
}

// Service is the use cases.
type Service struct{ Deps }

// New makes the service.
func New(d Deps) *Service {
	if d.Now == nil {
		d.Now = time.Now
	}
	return &Service{d}
}

func (s *Service) time() time.Time { return s.Now().UTC().Truncate(time.Microsecond) }

// Created is a webhook with its secret, which is told this once.
type Created struct {
	Webhook *domain.Webhook
	Secret  string
}

// Create has a project's events told, from now on: those of some types, or all.
// Returns InvalidArgument, Conflict when the project has too many webhooks.
func (s *Service) Create(ctx context.Context, by vmm.Caller, url string, types []string) (Created, error) {
	if err := s.Targets.Check("url", url); err != nil {
		return Created{}, err
	}
	types, err := normalTypes("types", types)
	if err != nil {
		return Created{}, err
	}
	w := &domain.Webhook{ID: domain.NewID(), ProjectID: by.ProjectID, URL: url, Types: types, CreatedAt: s.time()}
	secret := newSecret()
	if w.SecretSealed, err = (secrets{Current: secret}).seal(ctx, s.Sealer, w.ProjectID, w.ID); err != nil {
		return Created{}, err
	}
	err = s.Store.Update(ctx, func(tx storage.Tx) error {
		n, err := tx.Webhooks().Count(ctx, by.ProjectID)
		if err != nil {
			return err
		}
		if n >= domain.MaxWebhooks {
			return errors.New(errors.Conflict, "the project has %d webhooks already", n).WithHint("delete those that are not needed")
		}
		return tx.Webhooks().Insert(ctx, w)
	})
	return Created{w, secretText(secret)}, err
}

// normalTypes checks the types of events that are wanted, and brings them into one form.
func normalTypes(field string, types []string) ([]string, error) {
	known := events.OfProjects()
	out := slices.Compact(slices.Sorted(slices.Values(types)))
	for _, kind := range out {
		if !slices.Contains(known, kind) {
			return nil, errors.New(errors.InvalidArgument, "there are no events of the type %.64q in a project", kind).WithField(field).WithHint("such as vm.running, execution.exited or task.succeeded")
		}
	}
	if out == nil {
		out = []string{}
	}
	return out, nil
}

// Get returns NotFound.
func (s *Service) Get(ctx context.Context, by vmm.Caller, id domain.ID) (w *domain.Webhook, err error) {
	err = s.Store.View(ctx, func(tx storage.Tx) error {
		w, err = tx.Webhooks().Get(ctx, by.ProjectID, id)
		return err
	})
	return w, err
}

// List lists a project's webhooks.
func (s *Service) List(ctx context.Context, by vmm.Caller, p vmm.Page) (l vmm.List[*domain.Webhook], err error) {
	err = s.Store.View(ctx, func(tx storage.Tx) error {
		l, err = tx.Webhooks().List(ctx, by.ProjectID, p)
		return err
	})
	return l, err
}

// Rotate makes a webhook another secret. For a time its messages are signed with
// the one before as well, and with none before that. Returns NotFound,
// InvalidArgument, Conflict when the secret was changed meanwhile.
func (s *Service) Rotate(ctx context.Context, by vmm.Caller, id domain.ID, overlap time.Duration) (Created, error) {
	if overlap < 0 || overlap > domain.MaxSecretOverlap {
		return Created{}, errors.New(errors.InvalidArgument, "two secrets cannot sign for %s", overlap).WithField("overlap_ms").WithHint("up to %s", domain.MaxSecretOverlap)
	}
	w, err := s.Get(ctx, by, id)
	if err != nil {
		return Created{}, err
	}
	was, err := openSecrets(ctx, s.Sealer, w)
	if err != nil {
		return Created{}, err
	}
	secret := newSecret()
	sealed, err := was.rotated(secret, s.time(), overlap).seal(ctx, s.Sealer, w.ProjectID, w.ID)
	if err != nil {
		return Created{}, err
	}
	err = s.Store.Update(ctx, func(tx storage.Tx) error {
		ours, err := tx.Webhooks().SetSecret(ctx, id, w.SecretSealed, sealed)
		if err == nil && !ours {
			err = errors.New(errors.Conflict, "the webhook's secret was changed, or the webhook deleted, at the same time").WithHint("ask again")
		}
		return err
	})
	if err != nil {
		return Created{}, err
	}
	return Created{w, secretText(secret)}, nil
}

// Enable has a disabled webhook told again: what was given up when it was
// disabled, and what has happened since, as far as these are kept. One that is
// not disabled stays as it is. Returns NotFound.
func (s *Service) Enable(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Webhook, error) {
	return s.change(ctx, by, id, func(hooks storage.Webhooks) error { _, err := hooks.Enable(ctx, id); return err })
}

// Disable has a webhook told nothing until it is enabled. An attempt that is
// under way may still arrive. Returns NotFound.
func (s *Service) Disable(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Webhook, error) {
	return s.change(ctx, by, id, func(hooks storage.Webhooks) error {
		_, err := hooks.Disable(ctx, id, domain.DisabledAsked)
		return err
	})
}

func (s *Service) change(ctx context.Context, by vmm.Caller, id domain.ID, do func(storage.Webhooks) error) (w *domain.Webhook, err error) {
	err = s.Store.Update(ctx, func(tx storage.Tx) error {
		if _, err := tx.Webhooks().Get(ctx, by.ProjectID, id); err != nil {
			return err
		}
		if err := do(tx.Webhooks()); err != nil {
			return err
		}
		w, err = tx.Webhooks().Get(ctx, by.ProjectID, id)
		return err
	})
	return w, err
}

// Delete removes a webhook. An attempt that is under way may still arrive.
// Returns NotFound.
func (s *Service) Delete(ctx context.Context, by vmm.Caller, id domain.ID) error {
	return s.Store.Update(ctx, func(tx storage.Tx) error { return tx.Webhooks().Delete(ctx, by.ProjectID, id) })
}

// Deliveries lists what a webhook is told and was told of late. Returns NotFound.
func (s *Service) Deliveries(ctx context.Context, by vmm.Caller, id domain.ID, p vmm.Page) (l vmm.List[*domain.Delivery], err error) {
	err = s.Store.View(ctx, func(tx storage.Tx) error {
		if _, err := tx.Webhooks().Get(ctx, by.ProjectID, id); err != nil {
			return err
		}
		l, err = tx.Webhooks().Deliveries(ctx, by.ProjectID, id, p)
		return err
	})
	return l, err
}
