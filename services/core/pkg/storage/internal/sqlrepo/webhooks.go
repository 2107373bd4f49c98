package sqlrepo

import (
	"context"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type webhooks struct{ s Session }

// deliveriesAtOnce is how many a statement inserts: there is a text for each
// number of them, and statements are kept prepared.
const deliveriesAtOnce = 50

const (
	webhookColumns = "id, project_id, url, types, secret_sealed, after_seq, failing_since, disabled_at, disabled_reason, created_at"
	webhookSelect  = "SELECT " + webhookColumns + " FROM webhooks"

	deliveryColumns = "id, project_id, webhook_id, seq, type, body, state, attempts, next_at, attempted_at, status, error, created_at"
	deliverySelect  = "SELECT " + deliveryColumns + " FROM webhook_deliveries"
)

func scanWebhook(r Row) (*domain.Webhook, error) {
	w := new(domain.Webhook)
	return w, r.Scan(webhookInto(w)...)
}

func webhookInto(w *domain.Webhook) []any {
	return []any{
		&w.ID, &w.ProjectID, &w.URL, jsonText{&w.Types}, &w.SecretSealed, &w.AfterSeq, scanOptTime{&w.FailingSince}, scanOptTime{&w.DisabledAt},
		&w.DisabledReason, scanTime{&w.CreatedAt},
	}
}

func scanDelivery(r Row) (*domain.Delivery, error) {
	d := new(domain.Delivery)
	return d, r.Scan(&d.ID, &d.ProjectID, &d.WebhookID, &d.Seq, &d.Type, &d.Body, &d.State, &d.Attempts, scanTime{&d.NextAt}, scanOptTime{&d.AttemptedAt},
		&d.Status, &d.Error, scanTime{&d.CreatedAt})
}

func (r webhooks) Get(ctx context.Context, project, id domain.ID) (*domain.Webhook, error) {
	w := where{}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	return queryOne(ctx, r.s, scanWebhook, notFound("webhook", id), webhookSelect+w.String(), w.args...)
}

func (r webhooks) Insert(ctx context.Context, w *domain.Webhook) error {
	err := r.s.Query(ctx, func(row Row) error { return row.Scan(&w.AfterSeq) },
		"INSERT INTO webhooks ("+webhookColumns+") VALUES (?, ?, ?, ?, ?, COALESCE((SELECT MAX(seq) FROM outbox), 0), NULL, NULL, '', ?) RETURNING after_seq",
		string(w.ID), string(w.ProjectID), w.URL, jsonText{w.Types}, w.SecretSealed, micros(w.CreatedAt))
	switch {
	case violated(err, Unique):
		return errors.Wrap(err, errors.AlreadyExists, "webhook %s exists already", w.ID)
	case violated(err, Reference):
		return errors.Wrap(err, errors.NotFound, "project %s does not exist", w.ProjectID)
	}
	return err
}

func (r webhooks) Delete(ctx context.Context, project, id domain.ID) error {
	w := where{}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	n, err := r.s.Exec(ctx, "DELETE FROM webhooks"+w.String(), w.args...)
	if err == nil && n == 0 {
		return notFound("webhook", id)
	}
	return err
}

func (r webhooks) List(ctx context.Context, project domain.ID, p storage.Page) (storage.List[*domain.Webhook], error) {
	w := &where{}
	w.eq("project_id", project)
	return page(ctx, r.s, webhookSelect, w, p, scanWebhook, func(w *domain.Webhook) (time.Time, domain.ID) { return w.CreatedAt, w.ID })
}

func (r webhooks) Count(ctx context.Context, project domain.ID) (int, error) {
	n, err := queryInt(ctx, r.s, "SELECT COUNT(*) FROM webhooks WHERE project_id = ?", string(project))
	return int(n), err
}

func (r webhooks) Work(ctx context.Context) ([]storage.WebhookWork, error) {
	return r.work(ctx, &where{})
}

func (r webhooks) WorkOf(ctx context.Context, after int64, named ...domain.ID) ([]storage.WebhookWork, error) {
	w, of := &where{}, "SELECT w.id FROM webhooks w WHERE w.project_id IN (SELECT o.project_id FROM outbox o WHERE o.seq > ?)"
	args := []any{after}
	if len(named) > 0 {
		of += " UNION ALL SELECT w.id FROM webhooks w WHERE w.id IN (" + placeholders(len(named)) + ")"
	}
	for _, id := range named {
		args = append(args, string(id))
	}
	w.add("id IN ("+of+")", args...)
	return r.work(ctx, w)
}

func (r webhooks) work(ctx context.Context, w *where) ([]storage.WebhookWork, error) {
	w.add("disabled_at IS NULL")
	now, args := r.s.Clock()
	var out []storage.WebhookWork
	// The two look-ups of each webhook are of the first row behind its place.
	err := r.s.Query(ctx, func(row Row) error {
		w := storage.WebhookWork{Webhook: new(domain.Webhook)}
		err := row.Scan(append(webhookInto(w.Webhook), scanFlag{&w.Behind}, scanFlag{&w.Due})...)
		if w.Behind || w.Due {
			out = append(out, w)
		}
		return err
	}, "SELECT "+webhookColumns+", "+
		exists("outbox o WHERE o.project_id = webhooks.project_id AND o.seq > webhooks.after_seq")+", "+
		exists("webhook_deliveries d WHERE d.webhook_id = webhooks.id AND d.state = 'pending' AND d.next_at <= "+now)+
		" FROM webhooks"+w.String()+" ORDER BY id", append(args, w.args...)...)
	return out, err
}

func (r webhooks) Advance(ctx context.Context, id domain.ID, seq int64) error {
	_, err := r.s.Exec(ctx, "UPDATE webhooks SET after_seq = ? WHERE id = ? AND after_seq < ?", seq, string(id), seq)
	return err
}

func (r webhooks) Failed(ctx context.Context, id domain.ID) (time.Duration, error) {
	now, args := r.s.Clock()
	var since time.Duration
	err := r.s.Query(ctx, func(row Row) error { return row.Scan(scanDuration{&since}) },
		"UPDATE webhooks SET failing_since = COALESCE(failing_since, "+now+") WHERE id = ? RETURNING "+now+" - failing_since",
		slices.Concat(args, []any{string(id)}, args)...)
	return since, err
}

func (r webhooks) Succeeded(ctx context.Context, id domain.ID) error {
	_, err := r.s.Exec(ctx, "UPDATE webhooks SET failing_since = NULL WHERE id = ? AND failing_since IS NOT NULL", string(id))
	return err
}

func (r webhooks) Disable(ctx context.Context, id domain.ID, reason domain.DisabledReason) (bool, error) {
	now, args := r.s.Clock()
	n, err := r.s.Exec(ctx, "UPDATE webhooks SET disabled_at = "+now+", disabled_reason = ? WHERE id = ? AND disabled_at IS NULL",
		append(args, string(reason), string(id))...)
	if err != nil || n == 0 {
		return false, err
	}
	_, err = r.s.Exec(ctx, "UPDATE webhook_deliveries SET state = ?, error = ? WHERE webhook_id = ? AND state = 'pending'",
		string(domain.DeliveryFailed), domain.DeliveryDisabled, string(id))
	return true, err
}

func (r webhooks) Enable(ctx context.Context, id domain.ID) (bool, error) {
	n, err := r.s.Exec(ctx, "UPDATE webhooks SET disabled_at = NULL, disabled_reason = '', failing_since = NULL WHERE id = ? AND disabled_at IS NOT NULL", string(id))
	if err != nil || n == 0 {
		return false, err
	}
	now, args := r.s.Clock()
	_, err = r.s.Exec(ctx, "UPDATE webhook_deliveries SET state = 'pending', next_at = "+now+" WHERE webhook_id = ? AND state = ? AND error IN (?, ?)",
		append(args, string(id), string(domain.DeliveryFailed), domain.DeliveryDisabled, domain.DeliveryGone)...)
	return true, err
}

func (r webhooks) SetSecret(ctx context.Context, id domain.ID, was, is []byte) (bool, error) {
	n, err := r.s.Exec(ctx, "UPDATE webhooks SET secret_sealed = ? WHERE id = ? AND secret_sealed = ?", is, string(id), was)
	return n > 0, err
}

func (r webhooks) Deliver(ctx context.Context, ds ...*domain.Delivery) error {
	now, clock := r.s.Clock()
	row := "(?, ?, ?, ?, ?, ?, 'pending', 0, " + now + ", NULL, 0, '', " + now + ")"
	for some := range slices.Chunk(ds, deliveriesAtOnce) {
		var args []any
		for _, d := range some {
			args = slices.Concat(args, []any{string(d.ID), string(d.ProjectID), string(d.WebhookID), d.Seq, d.Type, d.Body}, clock, clock)
		}
		_, err := r.s.Exec(ctx, "INSERT INTO webhook_deliveries ("+deliveryColumns+") VALUES "+times(row, len(some))+" ON CONFLICT (webhook_id, seq) DO NOTHING", args...)
		if err != nil {
			return fault(err, "queueing a delivery")
		}
	}
	return nil
}

func (r webhooks) Pending(ctx context.Context, id domain.ID, limit int) (int, error) {
	n, err := queryInt(ctx, r.s, "SELECT COUNT(*) FROM (SELECT 1 FROM webhook_deliveries WHERE webhook_id = ? AND state = 'pending' LIMIT ?) AS held", string(id), limit)
	return int(n), err
}

func (r webhooks) Claim(ctx context.Context, id domain.ID, lease time.Duration, limit int) ([]*domain.Delivery, error) {
	now, args := r.s.Clock()
	return queryAll(ctx, r.s, scanDelivery, `UPDATE webhook_deliveries SET attempts = attempts + 1, attempted_at = `+now+`, next_at = `+now+` + ? WHERE id IN (
		SELECT id FROM webhook_deliveries WHERE webhook_id = ? AND state = 'pending' AND next_at <= `+now+` ORDER BY next_at, id LIMIT ?) RETURNING `+deliveryColumns,
		slices.Concat(args, args, []any{lease.Microseconds(), string(id)}, args, []any{clampLimit(limit)})...)
}

func (r webhooks) Attempted(ctx context.Context, d *domain.Delivery, a storage.WebhookAttempt) (bool, error) {
	now, args := r.s.Clock()
	n, err := r.s.Exec(ctx, "UPDATE webhook_deliveries SET state = ?, status = ?, error = ?, next_at = "+now+" + ? WHERE id = ? AND attempts = ? AND state = 'pending'",
		slices.Concat([]any{string(a.State), a.Status, a.Error}, args, []any{a.Next.Microseconds(), string(d.ID), d.Attempts})...)
	return n > 0, err
}

func (r webhooks) Deliveries(ctx context.Context, project, id domain.ID, p storage.Page) (storage.List[*domain.Delivery], error) {
	w := &where{}
	w.add("webhook_id = ?", string(id))
	w.eq("project_id", project)
	return page(ctx, r.s, deliverySelect, w, p, scanDelivery, func(d *domain.Delivery) (time.Time, domain.ID) { return d.CreatedAt, d.ID })
}

func (r webhooks) DeleteEnded(ctx context.Context, age time.Duration, limit int) (int, error) {
	now, args := r.s.Clock()
	n, err := r.s.Exec(ctx, `DELETE FROM webhook_deliveries WHERE id IN (
		SELECT id FROM webhook_deliveries WHERE state <> 'pending' AND created_at < `+now+` - ? ORDER BY created_at, id LIMIT ?)`,
		append(args, age.Microseconds(), clampLimit(limit))...)
	return int(n), err
}
