package storage

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// WebhookWork is a webhook that something is to be done for.
type WebhookWork struct {
	*domain.Webhook
	Behind bool // there are events that were not looked at for it
	Due    bool // there are deliveries whose time has come
}

// WebhookAttempt is what came of an attempt.
type WebhookAttempt struct {
	State  domain.DeliveryState // the delivery's from now on
	Next   time.Duration        // until the next attempt, of one that is pending
	Status int                  // of the answer; 0: there was none
	Error  string
}

// Webhooks is the tables of webhooks and of what is told to them. Times are the
// database's: whoever tells need not agree on them.
type Webhooks interface {
	// Get returns NotFound.
	Get(ctx context.Context, project, id domain.ID) (*domain.Webhook, error)
	// Insert makes a webhook that is told of the events from now on. Returns
	// NotFound for the project.
	Insert(ctx context.Context, w *domain.Webhook) error
	// Delete removes a webhook with its deliveries. Returns NotFound.
	Delete(ctx context.Context, project, id domain.ID) error
	List(ctx context.Context, project domain.ID, p Page) (List[*domain.Webhook], error)
	Count(ctx context.Context, project domain.ID) (int, error)

	// Work lists the webhooks that are behind or have deliveries that are due.
	// Disabled ones have none.
	Work(ctx context.Context) ([]WebhookWork, error)
	// WorkOf lists likewise those of the projects with events after one, and those
	// that are named. It reads nothing of others.
	WorkOf(ctx context.Context, after int64, named ...domain.ID) ([]WebhookWork, error)
	// Advance notes up to which event a webhook has its deliveries.
	Advance(ctx context.Context, id domain.ID, seq int64) error
	// Failed notes that an attempt at a webhook has failed, and since when all
	// have; Succeeded that one has not.
	Failed(ctx context.Context, id domain.ID) (since time.Duration, err error)
	Succeeded(ctx context.Context, id domain.ID) error
	// Disable has a webhook told nothing more, and gives up what it was to be
	// told. It reports false for one that is absent or disabled already.
	Disable(ctx context.Context, id domain.ID, reason domain.DisabledReason) (bool, error)
	// Enable has a disabled webhook told again: what was given up with it, and the
	// events since that are kept. It reports false for one that is absent or not disabled.
	Enable(ctx context.Context, id domain.ID) (bool, error)
	// SetSecret replaces what a webhook's messages are signed with. It reports
	// false when that is no longer what it was, or the webhook is gone.
	SetSecret(ctx context.Context, id domain.ID, was, is []byte) (bool, error)

	// Deliver adds deliveries that are due at once. One that there is already,
	// for the webhook and the event, is left alone.
	Deliver(ctx context.Context, ds ...*domain.Delivery) error
	// Pending counts what a webhook is still to be told, up to a limit.
	Pending(ctx context.Context, id domain.ID, limit int) (int, error)
	// Claim takes deliveries of a webhook that are due, longest due first, and
	// counts an attempt of each. They are due again after the lease, unless
	// what came of the attempt is told before.
	Claim(ctx context.Context, id domain.ID, lease time.Duration, limit int) ([]*domain.Delivery, error)
	// Attempted tells what came of the attempt that a delivery was claimed for. It
	// reports false when another has claimed it since, or it is gone.
	Attempted(ctx context.Context, d *domain.Delivery, a WebhookAttempt) (bool, error)
	// Deliveries lists those of a webhook.
	Deliveries(ctx context.Context, project, id domain.ID, p Page) (List[*domain.Delivery], error)
	// DeleteEnded removes at most limit deliveries that have ended and were made
	// longer ago than an age.
	DeleteEnded(ctx context.Context, age time.Duration, limit int) (int, error)
}
