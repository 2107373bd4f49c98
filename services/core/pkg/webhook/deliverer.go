package webhook

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
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
	Poll         time.Duration // between looks at all webhooks, for what nobody told of; 5 s
	MaxPending   int           // deliveries of a webhook; further events wait in the outbox. 10000
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
	if c.MaxPending == 0 {
		c.MaxPending = 10_000
	}
	return c
}

const (
	atOnce     = 64 // attempts in this process
	perWebhook = 4  // of one webhook; one of a webhook that fails
	// failingAtOnce leaves room for receivers that answer.
	failingAtOnce = atOnce / 2

	batch = 200 // events that are looked at in a transaction
	named = 500 // webhooks that are looked at by themselves; of more, all are

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
	due     map[domain.ID]bool // webhooks to look at
	waiting map[domain.ID]bool // to look at when an attempt has ended: there was no room
	busy    map[domain.ID]int  // attempts by webhook
	all     int
	failing int // of webhooks that fail
}

// NewDeliverer makes one; Run puts it to work.
func NewDeliverer(c Config, store storage.Store, sealer seal.Sealer, log *slog.Logger) *Deliverer {
	c = c.withDefaults()
	return &Deliverer{
		config: c, store: store, sealer: sealer, log: log, metrics: newMetrics(),
		secure: c.Targets.transport(true), plain: c.Targets.transport(false), woken: make(chan struct{}, 1),
		due: map[domain.ID]bool{}, waiting: map[domain.ID]bool{}, busy: map[domain.ID]int{},
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
	poll := time.NewTicker(d.config.Poll)
	defer poll.Stop()
	seen, all := int64(0), true // up to which event webhooks were looked at
	for ctx.Err() == nil {
		changed := d.store.Changed()
		newest, err := d.pass(ctx, seen, all)
		if err != nil && ctx.Err() == nil {
			d.log.Error("webhooks are looked at again", "error", err)
		}
		seen, all = newest, err != nil
		select {
		case <-changed:
			d.pause(ctx)
		case <-d.woken:
		case <-poll.C:
			all = true
		case <-prune.C:
			d.prune(ctx)
		case <-ctx.Done():
		}
	}
	defer time.AfterFunc(stopGrace, end).Stop()
	d.wg.Wait()
}

// pause lets events come that are looked at together.
func (d *Deliverer) pause(ctx context.Context) {
	select {
	case <-time.After(gather):
	case <-ctx.Done():
	}
}

// wake has a webhook looked at.
func (d *Deliverer) wake(id domain.ID) {
	d.mu.Lock()
	d.due[id] = true
	d.mu.Unlock()
	d.look()
}

// look has a pass made.
func (d *Deliverer) look() {
	select {
	case d.woken <- struct{}{}:
	default:
	}
}

// pass does what there is to do now: for the webhooks that were woken, and of
// projects with events after the one that was seen, or for all. It returns up to
// which event it has looked.
func (d *Deliverer) pass(ctx context.Context, seen int64, all bool) (newest int64, err error) {
	d.mu.Lock()
	woken := slices.Collect(maps.Keys(d.due))
	clear(d.due)
	d.mu.Unlock()
	all = all || len(woken) > named
	var work []storage.WebhookWork
	err = d.store.View(ctx, func(tx storage.Tx) (err error) {
		// First: what comes in between is looked at twice, and not left out.
		if _, newest, err = tx.Outbox().Bounds(ctx); err != nil {
			return err
		}
		if all {
			work, err = tx.Webhooks().Work(ctx)
		} else {
			work, err = tx.Webhooks().WorkOf(ctx, seen, woken...)
		}
		return err
	})
	if err != nil {
		return seen, err
	}
	full := 0
	// Where there is not room for all, each has the same chance.
	rand.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
	for _, w := range work {
		if w.Behind {
			added, room, err := d.catchUp(ctx, w.ID)
			if err != nil {
				return seen, err
			}
			w.Due = w.Due || added
			if !room {
				full++
			}
		}
		if w.Due {
			if err := d.claim(ctx, w.Webhook); err != nil {
				return seen, err
			}
		}
	}
	if all {
		d.metrics.full.Set(float64(full))
	}
	return newest, nil
}

// catchUp makes deliveries of a batch of the events that a webhook is behind, and
// reports whether there were some to be made, and room for them.
func (d *Deliverer) catchUp(ctx context.Context, id domain.ID) (added, room bool, err error) {
	more := false
	err = d.store.Update(ctx, func(tx storage.Tx) error {
		added, room, more = false, true, false
		w, err := tx.Webhooks().Get(ctx, storage.System, id)
		if errors.HasCode(err, errors.NotFound) || err == nil && w.DisabledAt != nil {
			return nil
		}
		if err != nil {
			return err
		}
		// A new event finds none to be told in most cases; only a receiver that
		// does not keep up has so many.
		n, err := tx.Webhooks().Pending(ctx, id, d.config.MaxPending)
		if room = n < d.config.MaxPending; err != nil || !room {
			return err
		}
		happened, err := tx.Outbox().List(ctx, storage.EventFilter{ProjectID: w.ProjectID, After: w.AfterSeq, Limit: batch})
		if err != nil || len(happened) == 0 {
			return err
		}
		var made []*domain.Delivery
		for _, e := range happened {
			if !w.Wants(e.Type) {
				continue
			}
			body, err := message(e)
			if err != nil {
				return err
			}
			made = append(made, &domain.Delivery{ID: domain.NewID(), ProjectID: w.ProjectID, WebhookID: w.ID, Seq: e.Seq, Type: e.Type, Body: body})
		}
		if err := tx.Webhooks().Deliver(ctx, made...); err != nil {
			return err
		}
		added, more = len(made) > 0, len(happened) == batch
		return tx.Webhooks().Advance(ctx, id, happened[len(happened)-1].Seq)
	})
	if more {
		d.wake(id) // after the others
	}
	return added, room, err
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
	waited := false
	for range n - len(claimed) {
		waited = d.give(w.ID, fails) || waited
	}
	if waited && err == nil { // else the poll tries again
		d.look()
	}
	for _, one := range claimed {
		d.wg.Go(func() {
			d.attempt(w, one)
			d.give(w.ID, fails)
			d.wake(w.ID) // there is room for what comes next
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
	if n = max(0, n); n == 0 {
		d.waiting[id] = true
		return 0
	}
	d.busy[id] += n
	d.all += n
	if fails {
		d.failing += n
	}
	return n
}

// give gives room back, and reports whether some waited for it.
func (d *Deliverer) give(id domain.ID, fails bool) (waited bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all--
	if fails {
		d.failing--
	}
	if d.busy[id]--; d.busy[id] == 0 {
		delete(d.busy, id)
	}
	waited = len(d.waiting) > 0
	maps.Copy(d.due, d.waiting)
	clear(d.waiting)
	return waited
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
