package storetest

import (
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

func (e *env) webhook(project domain.ID, types ...string) *domain.Webhook {
	e.Helper()
	w := &domain.Webhook{
		ID: domain.NewID(), ProjectID: project, URL: "https://example.com/", Types: append([]string{}, types...), SecretSealed: []byte("signs"), CreatedAt: e.tick(),
	}
	e.update(func(tx storage.Tx) error { return tx.Webhooks().Insert(e.ctx(), w) })
	return w
}

func (e *env) event(project domain.ID) int64 {
	e.Helper()
	ev := &domain.Event{ProjectID: project, Type: "vm.running", Subject: domain.NewID(), At: e.now}
	e.update(func(tx storage.Tx) error { return tx.Outbox().Append(e.ctx(), ev) })
	return ev.Seq
}

func webhooks(e *env) {
	p, q := e.project("p"), e.project("q")
	e.event(p)
	a := e.webhook(p, "vm.running")
	b, others := e.webhook(p), e.webhook(q)
	get := func(project, id domain.ID) *domain.Webhook {
		e.Helper()
		return read(e, func(tx storage.Tx) (*domain.Webhook, error) { return tx.Webhooks().Get(e.ctx(), project, id) })
	}
	same(e, "every field", get(p, a.ID), a)
	same(e, "for the system", get(storage.System, others.ID), others)
	e.refused(errors.NotFound, func(tx storage.Tx) error { _, err := tx.Webhooks().Get(e.ctx(), q, a.ID); return err })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Webhooks().Delete(e.ctx(), q, a.ID) })
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error { return tx.Webhooks().Insert(e.ctx(), a) })
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		return tx.Webhooks().Insert(e.ctx(), &domain.Webhook{ID: domain.NewID(), ProjectID: domain.NewID(), SecretSealed: []byte("x"), CreatedAt: e.now})
	})
	list := read(e, func(tx storage.Tx) (storage.List[*domain.Webhook], error) {
		return tx.Webhooks().List(e.ctx(), p, storage.Page{Order: "asc"})
	})
	same(e, "a list", list.Items, []*domain.Webhook{a, b})
	same(e, "count", read(e, func(tx storage.Tx) (int, error) { return tx.Webhooks().Count(e.ctx(), p) }), 2)

	// One is behind once there are further events of its project.
	work := func() map[domain.ID][2]bool {
		e.Helper()
		out := map[domain.ID][2]bool{}
		for _, w := range read(e, func(tx storage.Tx) ([]storage.WebhookWork, error) { return tx.Webhooks().Work(e.ctx()) }) {
			out[w.ID] = [2]bool{w.Behind, w.Due}
		}
		return out
	}
	same(e, "nothing to do", work(), map[domain.ID][2]bool{})
	seq := e.event(p)
	behind, due := [2]bool{true, false}, [2]bool{false, true}
	same(e, "events to look at", work(), map[domain.ID][2]bool{a.ID: behind, b.ID: behind})
	of := func(after int64, named ...domain.ID) (ids []domain.ID) {
		e.Helper()
		for _, w := range read(e, func(tx storage.Tx) ([]storage.WebhookWork, error) {
			return tx.Webhooks().WorkOf(e.ctx(), after, named...)
		}) {
			if !w.Behind || w.Due {
				e.Errorf("of some %+v", w)
			}
			ids = append(ids, w.ID)
		}
		return ids
	}
	both := slices.Sorted(slices.Values([]domain.ID{a.ID, b.ID}))
	same(e, "of the projects of events", of(seq-1), both)
	same(e, "of those, and named", of(seq-1, a.ID, others.ID), both)
	same(e, "named alone", of(seq, a.ID, others.ID), []domain.ID{a.ID})
	same(e, "of no events", len(of(seq)), 0)
	d := &domain.Delivery{ID: domain.NewID(), ProjectID: p, WebhookID: a.ID, Seq: seq, Type: "vm.running", Body: `{"a":"b"}`}
	again := *d
	again.ID = domain.NewID()
	e.update(func(tx storage.Tx) error {
		for _, w := range []*domain.Webhook{a, b} {
			if err := tx.Webhooks().Advance(e.ctx(), w.ID, seq); err != nil {
				return err
			}
			if err := tx.Webhooks().Advance(e.ctx(), w.ID, seq-1); err != nil {
				return err
			}
		}
		return tx.Webhooks().Deliver(e.ctx(), d, &again)
	})
	same(e, "a delivery is due", work(), map[domain.ID][2]bool{a.ID: due})

	claim := func(lease time.Duration) (out []*domain.Delivery) {
		e.Helper()
		e.update(func(tx storage.Tx) (err error) {
			out, err = tx.Webhooks().Claim(e.ctx(), a.ID, lease, 10)
			return err
		})
		return out
	}
	attempted := func(d *domain.Delivery, a storage.WebhookAttempt) (ours bool) {
		e.Helper()
		e.update(func(tx storage.Tx) (err error) {
			ours, err = tx.Webhooks().Attempted(e.ctx(), d, a)
			return err
		})
		return ours
	}
	first := claim(-time.Second) // has ended already
	if len(first) != 1 || first[0].ID != d.ID || first[0].Body != d.Body || first[0].Type != d.Type || first[0].Seq != seq || first[0].Attempts != 1 || first[0].AttemptedAt == nil {
		e.Fatalf("claimed %+v", first)
	}
	second := claim(time.Hour)
	if len(second) != 1 || second[0].Attempts != 2 {
		e.Fatalf("claimed again %+v", second)
	}
	same(e, "claimed while a claim lasts", len(claim(time.Hour)), 0)
	same(e, "due while a claim lasts", work(), map[domain.ID][2]bool{})
	failed := storage.WebhookAttempt{State: domain.DeliveryPending, Next: -time.Second, Status: 500, Error: "status"}
	same(e, "told by who has lost its claim", attempted(first[0], failed), false)
	same(e, "told by who has it", attempted(second[0], failed), true)
	same(e, "due again", work(), map[domain.ID][2]bool{a.ID: due})
	same(e, "pending", read(e, func(tx storage.Tx) (int, error) { return tx.Webhooks().Pending(e.ctx(), a.ID, 10) }), 1)
	third := claim(time.Hour)
	if len(third) != 1 || third[0].Status != 500 || third[0].Error != "status" || third[0].State != domain.DeliveryPending {
		e.Fatalf("after a failure %+v", third)
	}
	same(e, "delivered", attempted(third[0], storage.WebhookAttempt{State: domain.DeliveryDelivered, Status: 200}), true)
	same(e, "told twice", attempted(third[0], failed), false)
	same(e, "pending afterwards", read(e, func(tx storage.Tx) (int, error) { return tx.Webhooks().Pending(e.ctx(), a.ID, 10) }), 0)

	// How a receiver does.
	var since time.Duration
	fails := func(tx storage.Tx) (err error) {
		since, err = tx.Webhooks().Failed(e.ctx(), a.ID)
		return err
	}
	e.update(fails)
	from := get(p, a.ID).FailingSince
	e.update(fails)
	if from == nil || since < 0 || !get(p, a.ID).FailingSince.Equal(*from) {
		e.Errorf("failing since %v, %v", from, since)
	}
	e.update(func(tx storage.Tx) error { return tx.Webhooks().Succeeded(e.ctx(), a.ID) })
	if w := get(p, a.ID); w.FailingSince != nil {
		e.Errorf("afterwards %+v", w)
	}
	next := &domain.Delivery{ID: domain.NewID(), ProjectID: p, WebhookID: a.ID, Seq: e.event(p), Type: "vm.running", Body: "{}"}
	disable := func(tx storage.Tx) (ok bool) {
		ok, err := tx.Webhooks().Disable(e.ctx(), a.ID, domain.DisabledGone)
		if err != nil {
			e.Error(err)
		}
		return ok
	}
	e.update(func(tx storage.Tx) error {
		if err := tx.Webhooks().Deliver(e.ctx(), next); err != nil {
			return err
		}
		if !disable(tx) || disable(tx) {
			e.Error("not disabled once")
		}
		return nil
	})
	same(e, "nothing for a disabled one", work(), map[domain.ID][2]bool{b.ID: behind})
	if w := get(p, a.ID); w.DisabledAt == nil || w.DisabledReason != domain.DisabledGone {
		e.Errorf("disabled %+v", w)
	}
	deliveries := func() []*domain.Delivery {
		e.Helper()
		return read(e, func(tx storage.Tx) (storage.List[*domain.Delivery], error) {
			return tx.Webhooks().Deliveries(e.ctx(), p, a.ID, storage.Page{Order: "asc"})
		}).Items
	}
	same(e, "another project's", len(read(e, func(tx storage.Tx) (storage.List[*domain.Delivery], error) {
		return tx.Webhooks().Deliveries(e.ctx(), q, a.ID, storage.Page{})
	}).Items), 0)
	if ds := deliveries(); len(ds) != 2 || ds[0].ID != d.ID || ds[1].State != domain.DeliveryFailed || ds[1].Error != domain.DeliveryDisabled {
		e.Errorf("deliveries %+v", ds)
	}
	enable := func() (was bool) {
		e.Helper()
		e.update(func(tx storage.Tx) (err error) {
			was, err = tx.Webhooks().Enable(e.ctx(), a.ID)
			return err
		})
		return was
	}
	same(e, "enabled", enable(), true)
	same(e, "enabled already", enable(), false)
	if w := get(p, a.ID); w.DisabledAt != nil || w.DisabledReason != "" || w.FailingSince != nil {
		e.Errorf("enabled %+v", w)
	}
	if ds := deliveries(); ds[0].State != domain.DeliveryDelivered || ds[1].State != domain.DeliveryPending || len(claim(time.Hour)) != 1 {
		e.Errorf("deliveries of an enabled one %+v", ds)
	}
	e.update(func(tx storage.Tx) error {
		_, err := tx.Webhooks().Disable(e.ctx(), a.ID, domain.DisabledAsked)
		return err
	})

	replace := func(was, is string) (replaced bool) {
		e.Helper()
		e.update(func(tx storage.Tx) (err error) {
			replaced, err = tx.Webhooks().SetSecret(e.ctx(), a.ID, []byte(was), []byte(is))
			return err
		})
		return replaced
	}
	same(e, "another secret", replace("signs", "signs anew"), true)
	same(e, "in place of one that is none any more", replace("signs", "late"), false)
	same(e, "the secret", string(get(p, a.ID).SecretSealed), "signs anew")

	prune := func(age time.Duration) (n int) {
		e.update(func(tx storage.Tx) (err error) {
			n, err = tx.Webhooks().DeleteEnded(e.ctx(), age, 10)
			return err
		})
		return n
	}
	same(e, "young ones that were removed", prune(time.Hour), 0)
	same(e, "old ones that were removed", prune(-time.Hour), 2)
	same(e, "those that are left", len(deliveries()), 0)
	e.update(func(tx storage.Tx) error { return tx.Webhooks().Delete(e.ctx(), p, a.ID) })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Webhooks().Delete(e.ctx(), p, a.ID) })
}
