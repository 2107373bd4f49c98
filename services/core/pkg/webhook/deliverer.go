package webhook

import (
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// Config is how events are told. Zero values are the defaults.
type Config struct {
	Targets Targets
	// Schedule is the pauses after attempts; after the last of them a delivery
	// has failed. Default: that of Standard Webhooks, three days in all.
	Schedule []time.Duration
	Timeout  time.Duration // of an attempt; 15 s
	// Lease is until a claimed delivery is attempted again whose attempt nobody
	// told the end of; longer than Timeout. Default: a minute.
	Lease time.Duration
	// DisableAfter is how long all attempts at a webhook fail until it is told
	// nothing more; five days.
	DisableAfter time.Duration
	Keep         time.Duration // deliveries that have ended; seven days
	Poll         time.Duration // between looks for what nobody told of; 5 s
}

func schedule() []time.Duration {
	return []time.Duration{
		5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
	}
}

func (c Config) withDefaults() Config {
	if c.Schedule == nil {
		c.Schedule = schedule()
	}
	for to, d := range map[*time.Duration]time.Duration{
		&c.Timeout: 15 * time.Second, &c.Lease: time.Minute, &c.DisableAfter: 5 * 24 * time.Hour, &c.Keep: 7 * 24 * time.Hour, &c.Poll: 5 * time.Second,
	} {
		if *to == 0 {
			*to = d
		}
	}
	return c
}

const (
	atOnce     = 64 // attempts in this process
	perWebhook = 4  // of one webhook; one of a webhook that fails
	// failingAtOnce leaves room for receivers that answer.
	failingAtOnce = atOnce / 2

	batch      = 200    // events that are looked at in a transaction
	maxPending = 10_000 // deliveries of a webhook; further events wait in the outbox

	gather     = 50 * time.Millisecond // events that come in this time are looked at together
	pruneEvery = 10 * time.Minute
	stopGrace  = 3 * time.Second // for attempts that are under way
	writeLimit = 10 * time.Second
)

// Deliverer tells events. Every gateway has one; they share the work.
type Deliverer struct {
	config  Config
	store   storage.Store
	sealer  seal.Sealer
	log     *slog.Logger
	metrics *metrics

	secure, plain http.RoundTripper
	woken         chan struct{}

	attempts context.Context // ends some time after Run was to
	wg       sync.WaitGroup

	mu      sync.Mutex
	busy    map[domain.ID]int // attempts by webhook
	all     int
	failing int // of webhooks that fail
}

// NewDeliverer makes one; Run puts it to work.
func NewDeliverer(c Config, store storage.Store, sealer seal.Sealer, log *slog.Logger) *Deliverer {
	c = c.withDefaults()
	return &Deliverer{
		config: c, store: store, sealer: sealer, log: log, metrics: newMetrics(),
		secure: c.Targets.transport(true), plain: c.Targets.transport(false), woken: make(chan struct{}, 1), busy: map[domain.ID]int{},
	}
}

// Collectors are the metrics for Prometheus.
func (d *Deliverer) Collectors() []prometheus.Collector { return d.metrics.collectors() }

// Run tells events until ctx ends.
func (d *Deliverer) Run(ctx context.Context) {
	var end context.CancelFunc
	d.attempts, end = context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	for ctx.Err() == nil {
		changed := d.store.Changed()
		if err := d.pass(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("webhooks are looked at again", "error", err)
		}
		select {
		case <-changed:
			select {
			case <-time.After(gather):
			case <-ctx.Done():
			}
		case <-d.woken:
		case <-time.After(d.config.Poll):
		case <-prune.C:
			d.prune(ctx)
		case <-ctx.Done():
		}
	}
	defer time.AfterFunc(stopGrace, end).Stop()
	d.wg.Wait()
}

func (d *Deliverer) wake() {
	select {
	case d.woken <- struct{}{}:
	default:
	}
}

// pass does what there is to do now.
func (d *Deliverer) pass(ctx context.Context) error {
	var work []storage.WebhookWork
	err := d.store.View(ctx, func(tx storage.Tx) (err error) {
		work, err = tx.Webhooks().Work(ctx)
		return err
	})
	if err != nil {
		return err
	}
	// Where there is not room for all, each has the same chance.
	rand.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
	for _, w := range work {
		if w.Behind {
			added, err := d.catchUp(ctx, w.ID)
			if err != nil {
				return err
			}
			w.Due = w.Due || added
		}
		if w.Due {
			if err := d.claim(ctx, w.Webhook); err != nil {
				return err
			}
		}
	}
	return nil
}

// catchUp makes deliveries of a batch of the events that a webhook is behind.
func (d *Deliverer) catchUp(ctx context.Context, id domain.ID) (added bool, err error) {
	more := false
	err = d.store.Update(ctx, func(tx storage.Tx) error {
		added, more = false, false
		w, err := tx.Webhooks().Get(ctx, storage.System, id)
		if errors.HasCode(err, errors.NotFound) || err == nil && w.DisabledAt != nil {
			return nil
		}
		if err != nil {
			return err
		}
		// A new event finds none to be told in most cases; only a receiver that
		// does not keep up has so many.
		n, err := tx.Webhooks().Pending(ctx, id, maxPending)
		if err != nil || n >= maxPending {
			return err
		}
		happened, err := tx.Outbox().List(ctx, storage.EventFilter{ProjectID: w.ProjectID, After: w.AfterSeq, Limit: batch})
		if err != nil || len(happened) == 0 {
			return err
		}
		for _, e := range happened {
			if !w.Wants(e.Type) {
				continue
			}
			body, err := message(e)
			if err != nil {
				return err
			}
			added = true
			if err := tx.Webhooks().Deliver(ctx, &domain.Delivery{
				ID: domain.NewID(), ProjectID: w.ProjectID, WebhookID: w.ID, Seq: e.Seq, Type: e.Type, Body: body,
			}); err != nil {
				return err
			}
		}
		more = len(happened) == batch
		return tx.Webhooks().Advance(ctx, id, happened[len(happened)-1].Seq)
	})
	if more {
		d.wake() // after the others
	}
	return added, err
}

// message is what is told of an event.
func message(e domain.Event) (string, error) {
	body, err := json.Marshal(api.WebhookMessage{
		Type: e.Type, Timestamp: e.At, Seq: e.Seq, Subject: e.Subject.String(), VMID: e.VMID.String(), Data: e.Data,
	})
	if err != nil {
		return "", errors.Wrap(err, errors.Internal, "event %d cannot be told", e.Seq)
	}
	return string(body), nil
}

// claim takes what is due of a webhook, as far as there is room, and attempts it.
func (d *Deliverer) claim(ctx context.Context, w *domain.Webhook) error {
	fails := w.FailingSince != nil
	n := d.take(w.ID, fails)
	if n == 0 {
		return nil
	}
	var claimed []*domain.Delivery
	err := d.store.Update(ctx, func(tx storage.Tx) (err error) {
		claimed, err = tx.Webhooks().Claim(ctx, w.ID, d.config.Lease, n)
		return err
	})
	for range n - len(claimed) {
		d.give(w.ID, fails)
	}
	for _, one := range claimed {
		d.wg.Go(func() {
			d.attempt(w, one)
			d.give(w.ID, fails)
			d.wake() // there is room for what comes next
		})
	}
	return err
}

// take has as many attempts at a webhook as there is room for.
func (d *Deliverer) take(id domain.ID, fails bool) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(perWebhook-d.busy[id], atOnce-d.all)
	if fails {
		n = min(1-d.busy[id], failingAtOnce-d.failing)
	}
	n = max(0, n)
	if n == 0 {
		return 0
	}
	d.busy[id] += n
	d.all += n
	if fails {
		d.failing += n
	}
	return n
}

func (d *Deliverer) give(id domain.ID, fails bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all--
	if fails {
		d.failing--
	}
	if d.busy[id]--; d.busy[id] == 0 {
		delete(d.busy, id)
	}
}

// prune removes deliveries that ended long ago.
func (d *Deliverer) prune(ctx context.Context) {
	for {
		n := 0
		err := d.store.Update(ctx, func(tx storage.Tx) (err error) {
			n, err = tx.Webhooks().DeleteEnded(ctx, d.config.Keep, storage.MaxPage)
			return err
		})
		if err != nil && ctx.Err() == nil {
			d.log.Error("old deliveries are removed later", "error", err)
		}
		if err != nil || n < storage.MaxPage {
			return
		}
	}
}
