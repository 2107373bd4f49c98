package api

import (
	"context"
	"net/http"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/webhook"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

// Webhooks is where projects have their events told. Its errors are what
// webhook.Service promises.
type Webhooks interface {
	Create(ctx context.Context, by vmm.Caller, url string, types []string) (webhook.Created, error)
	Get(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Webhook, error)
	List(ctx context.Context, by vmm.Caller, p vmm.Page) (vmm.List[*domain.Webhook], error)
	Rotate(ctx context.Context, by vmm.Caller, id domain.ID, overlap time.Duration) (webhook.Created, error)
	Enable(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Webhook, error)
	Disable(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Webhook, error)
	Delete(ctx context.Context, by vmm.Caller, id domain.ID) error
	Deliveries(ctx context.Context, by vmm.Caller, id domain.ID, p vmm.Page) (vmm.List[*domain.Delivery], error)
}

type (
	createWebhookInput struct{ Body wire.CreateWebhook }
	newWebhookOutput   struct {
		Location string `header:"Location"`
		Body     wire.NewWebhook
	}
	rotateWebhookInput struct {
		IDPath
		Body *wire.RotateWebhookSecret
	}
	rotatedWebhookOutput struct{ Body wire.NewWebhook }
	webhookOutput        struct{ Body wire.Webhook }
	webhooksOutput       struct{ Body *wire.List[wire.Webhook] }
	deliveriesInput      struct {
		IDPath
		PageQuery
	}
	deliveriesOutput struct {
		Body *wire.List[wire.WebhookDelivery]
	}
)

// defaultOverlap is how long a secret goes on where a rotation says nothing.
const defaultOverlap = 24 * time.Hour

func (a *API) webhookRoutes() {
	const tag = "Webhooks"
	create := operation("create-webhook", http.MethodPost, "/webhooks", tag, "Have events told to a URL",
		"Those from now on, each by a POST that is signed as Standard Webhooks has it, until it is answered with 2xx. The secret is told this once.")
	create.DefaultStatus = http.StatusCreated
	register(a, create, options{scope: domain.ScopeManage, secret: true}, a.createWebhook)
	register(a, operation("list-webhooks", http.MethodGet, "/webhooks", tag, "List webhooks", ""), options{scope: domain.ScopeManage},
		func(ctx context.Context, in *PageQuery) (*webhooksOutput, error) {
			hooks, err := a.webhooks()
			if err != nil {
				return nil, err
			}
			l, err := hooks.List(ctx, auth.CallerFrom(ctx), in.page())
			if err != nil {
				return nil, err
			}
			return &webhooksOutput{listOf(l, webhookOf)}, nil
		})
	register(a, operation("get-webhook", http.MethodGet, "/webhooks/{id}", tag, "Get a webhook", ""), options{scope: domain.ScopeManage}, a.onWebhook(Webhooks.Get))
	register(a, operation("enable-webhook", http.MethodPost, "/webhooks/{id}/enable", tag, "Have a disabled webhook told again",
		"What was given up when it was disabled, and what has happened since, as far as these are kept."), options{scope: domain.ScopeManage}, a.onWebhook(Webhooks.Enable))
	register(a, operation("disable-webhook", http.MethodPost, "/webhooks/{id}/disable", tag, "Have a webhook told nothing until it is enabled",
		"What is under way may still arrive."), options{scope: domain.ScopeManage}, a.onWebhook(Webhooks.Disable))
	register(a, operation("rotate-webhook-secret", http.MethodPost, "/webhooks/{id}/secret", tag, "Make a webhook another secret",
		"It is told this once. For a time messages are signed with the one before as well, so that the receiver can learn it; one from before that counts no longer."),
		options{scope: domain.ScopeManage, secret: true}, a.rotateWebhookSecret)
	register(a, operation("delete-webhook", http.MethodDelete, "/webhooks/{id}", tag, "Delete a webhook", "It is told nothing more; what is under way may still arrive."), options{scope: domain.ScopeManage},
		func(ctx context.Context, in *IDPath) (*empty, error) {
			hooks, err := a.webhooks()
			if err != nil {
				return nil, err
			}
			return nil, hooks.Delete(ctx, auth.CallerFrom(ctx), in.id())
		})
	register(a, operation("list-webhook-deliveries", http.MethodGet, "/webhooks/{id}/deliveries", tag, "List what a webhook is told",
		"Those that are under way, and those of the last week."), options{scope: domain.ScopeManage},
		func(ctx context.Context, in *deliveriesInput) (*deliveriesOutput, error) {
			hooks, err := a.webhooks()
			if err != nil {
				return nil, err
			}
			l, err := hooks.Deliveries(ctx, auth.CallerFrom(ctx), in.id(), in.page())
			if err != nil {
				return nil, err
			}
			return &deliveriesOutput{listOf(l, delivery)}, nil
		})
}

func (a *API) webhooks() (Webhooks, error) {
	if a.Webhooks == nil {
		return nil, errors.New(errors.Unsupported, "this server has no webhooks")
	}
	return a.Webhooks, nil
}

// onWebhook answers with the webhook that do gives.
func (a *API) onWebhook(do func(Webhooks, context.Context, vmm.Caller, domain.ID) (*domain.Webhook, error)) func(context.Context, *IDPath) (*webhookOutput, error) {
	return func(ctx context.Context, in *IDPath) (*webhookOutput, error) {
		hooks, err := a.webhooks()
		if err != nil {
			return nil, err
		}
		w, err := do(hooks, ctx, auth.CallerFrom(ctx), in.id())
		if err != nil {
			return nil, err
		}
		return &webhookOutput{webhookOf(w)}, nil
	}
}

func (a *API) rotateWebhookSecret(ctx context.Context, in *rotateWebhookInput) (*rotatedWebhookOutput, error) {
	hooks, err := a.webhooks()
	if err != nil {
		return nil, err
	}
	overlap := defaultOverlap
	if ms := given(in.Body).OverlapMS; ms != nil {
		overlap = fromMS(*ms)
	}
	made, err := hooks.Rotate(ctx, auth.CallerFrom(ctx), in.id(), overlap)
	if err != nil {
		return nil, err
	}
	return &rotatedWebhookOutput{wire.NewWebhook{Webhook: webhookOf(made.Webhook), Secret: made.Secret}}, nil
}

func (a *API) createWebhook(ctx context.Context, in *createWebhookInput) (*newWebhookOutput, error) {
	hooks, err := a.webhooks()
	if err != nil {
		return nil, err
	}
	made, err := hooks.Create(ctx, auth.CallerFrom(ctx), in.Body.URL, in.Body.Types)
	if err != nil {
		return nil, err
	}
	id := made.Webhook.ID.String()
	trail.Subject(ctx, "webhook", id)
	return &newWebhookOutput{location("webhooks", id), wire.NewWebhook{Webhook: webhookOf(made.Webhook), Secret: made.Secret}}, nil
}

func webhookOf(w *domain.Webhook) wire.Webhook {
	out := wire.Webhook{
		ID: w.ID.String(), URL: w.URL, Types: w.Types, State: "active", FailingSince: w.FailingSince, DisabledAt: w.DisabledAt,
		DisabledReason: string(w.DisabledReason), CreatedAt: w.CreatedAt,
	}
	switch {
	case w.DisabledAt != nil:
		out.State = "disabled"
	case w.FailingSince != nil:
		out.State = "failing"
	}
	return out
}

func delivery(d *domain.Delivery) wire.WebhookDelivery {
	out := wire.WebhookDelivery{
		ID: d.ID.String(), Seq: d.Seq, Type: d.Type, State: string(d.State), Attempts: d.Attempts, AttemptedAt: d.AttemptedAt,
		Status: d.Status, Error: d.Error, CreatedAt: d.CreatedAt,
	}
	if d.State == domain.DeliveryPending {
		out.NextAttemptAt = &d.NextAt
	}
	return out
}
