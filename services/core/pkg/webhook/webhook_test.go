package webhook_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	standard "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/pgtest"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/webhook"
)

var server *pgtest.Server

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, &server, nil)) }

// bed is an installation's store with a project, and a receiver on this host.
type bed struct {
	*testing.T
	ctx    context.Context
	store  storage.Store
	sealer seal.Sealer
	by     vmm.Caller
	config webhook.Config
	hooks  *webhook.Service

	received chan message
	receiver *httptest.Server
	answer   func(message) int // by default: 204
	asks     func(http.Header) // what an answer says beside
}

type message struct {
	id     string
	header http.Header
	body   []byte
}

// kinds are the databases.
func kinds() map[string]func(*testing.T) storage.Store {
	log := slog.New(slog.DiscardHandler)
	return map[string]func(*testing.T) storage.Store{
		"sqlite": func(t *testing.T) storage.Store {
			s, err := sqlitetest.Open(t.Context(), filepath.Join(t.TempDir(), "db"), sqlite.Options{Logger: log})
			must(t, err)
			return s
		},
		"postgres": func(t *testing.T) storage.Store {
			s, err := postgres.Open(t.Context(), server.Database(t), postgres.Options{Logger: log, Among: true})
			must(t, err)
			return s
		},
	}
}

// each runs a test on each database.
func each(t *testing.T, f func(b *bed)) {
	t.Parallel()
	for name, open := range kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(newBed(t, open(t)))
		})
	}
}

func newBed(t *testing.T, store storage.Store) *bed {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	keys, err := seal.NewKeys(make([]byte, 32))
	must(t, err)
	targets, err := webhook.NewTargets("allow", []string{"127.0.0.0/8"})
	must(t, err)
	b := &bed{T: t, ctx: ctx, store: store, sealer: seal.New(keys), by: vmm.Caller{ProjectID: domain.NewID(), Name: "tester"}, received: make(chan message, 10_000)}
	t.Cleanup(func() { must(t, store.Close()) })
	b.config = webhook.Config{Targets: targets, Schedule: slices.Repeat([]time.Duration{time.Millisecond}, 3), Poll: 10 * time.Millisecond}
	b.hooks = webhook.New(webhook.Deps{Store: store, Sealer: b.sealer, Targets: targets})
	b.receiver = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		m := message{r.Header.Get(api.HeaderWebhookID), r.Header, body}
		status := http.StatusNoContent
		if b.answer != nil {
			status = b.answer(m)
		}
		if b.asks != nil {
			b.asks(w.Header())
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		b.received <- m
	}))
	t.Cleanup(b.receiver.Close)
	b.update(func(tx storage.Tx) error {
		return tx.Projects().Insert(ctx, &domain.Project{ID: b.by.ProjectID, Name: "p", CreatedAt: time.Now().UTC()})
	})
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bed) update(f func(tx storage.Tx) error) {
	b.Helper()
	must(b, b.store.Update(b.ctx, f))
}

// happens has events happen to a VM of the project.
func (b *bed) happens(kinds ...string) {
	b.Helper()
	b.update(func(tx storage.Tx) error {
		for _, kind := range kinds {
			vm := &domain.VM{ID: domain.NewID(), ProjectID: b.by.ProjectID, Name: "m", Observed: domain.Running, Desired: domain.WantRunning}
			if err := tx.Outbox().Append(b.ctx, events.VM(kind, vm, time.Now().UTC())); err != nil {
				return err
			}
		}
		return nil
	})
}

// deliver has events told by a store until the test ends, or stop is called.
func (b *bed) deliver(store storage.Store) (stop func()) {
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan struct{})
	d := webhook.NewDeliverer(b.config, store, b.sealer, slog.New(slog.DiscardHandler))
	go func() { defer close(done); d.Run(ctx) }()
	stop = func() { cancel(); <-done }
	b.Cleanup(stop)
	return stop
}

func (b *bed) create(types ...string) webhook.Created {
	b.Helper()
	w, err := b.hooks.Create(b.ctx, b.by, b.receiver.URL+"/hook", types)
	must(b, err)
	return w
}

func (b *bed) next() message {
	b.Helper()
	select {
	case m := <-b.received:
		return m
	case <-b.ctx.Done():
		b.Fatal("nothing was received")
	}
	return message{}
}

// until waits for what the store says of a webhook's deliveries.
func (b *bed) until(w *domain.Webhook, is func(*domain.Webhook, []*domain.Delivery) bool) []*domain.Delivery {
	b.Helper()
	for {
		got, err := b.hooks.Get(b.ctx, b.by, w.ID)
		must(b, err)
		l, err := b.hooks.Deliveries(b.ctx, b.by, w.ID, vmm.Page{Limit: 1000})
		must(b, err)
		if is(got, l.Items) {
			return l.Items
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-b.ctx.Done():
			b.Fatalf("the webhook is still %+v", got)
		}
	}
}

func ended(n int) func(*domain.Webhook, []*domain.Delivery) bool {
	return func(_ *domain.Webhook, ds []*domain.Delivery) bool {
		return len(ds) == n && !slices.ContainsFunc(ds, func(d *domain.Delivery) bool { return d.State == domain.DeliveryPending })
	}
}

// What is wanted, and happens after the webhook was made, is told, and a
// receiver that knows Standard Webhooks alone finds that it is genuine.
func TestEventsAreTold(t *testing.T) {
	each(t, func(b *bed) {
		b.happens(events.VMDeleted)
		w := b.create(events.VMRunning, events.VMDeleted, events.VMRunning)
		b.deliver(b.store)
		b.happens(events.VMCreated, events.VMRunning)
		m := b.next()
		verifier, err := standard.NewWebhook(w.Secret)
		must(b, err)
		must(b, verifier.Verify(m.body, m.header))
		if err := verifier.Verify(append(m.body, ' '), m.header); err == nil {
			b.Error("a changed message is genuine")
		}
		var told api.WebhookMessage
		must(b, json.Unmarshal(m.body, &told))
		var of events.VMPayload
		must(b, json.Unmarshal(told.Data, &of))
		if told.Type != events.VMRunning || of.Name != "m" || told.Subject == "" || told.Timestamp.IsZero() || m.header.Get("Content-Type") != "application/json" {
			b.Errorf("told %s", m.body)
		}
		ds := b.until(w.Webhook, ended(1))
		if d := ds[0]; d.ID.String() != m.id || d.State != domain.DeliveryDelivered || d.Attempts != 1 || d.Status != 204 || d.Error != "" || d.Seq != told.Seq {
			b.Errorf("the delivery is %+v", d)
		}
	})
}

// A message has the same ID at every attempt, and another signature only by its
// time; one that is never taken is given up.
func TestAttemptsAreRepeated(t *testing.T) {
	each(t, func(b *bed) {
		var mu sync.Mutex
		answers := []int{500, 302, 200, 503, 503, 503, 503}
		b.answer = func(message) int {
			mu.Lock()
			defer mu.Unlock()
			status := answers[0]
			answers = answers[1:]
			return status
		}
		w := b.create()
		b.deliver(b.store)
		verifier, err := standard.NewWebhook(w.Secret)
		must(b, err)
		for _, attempts := range []int{3, 4} {
			b.happens(events.VMRunning)
			first := b.next()
			for range attempts - 1 {
				m := b.next()
				must(b, verifier.Verify(m.body, m.header))
				if m.id != first.id || string(m.body) != string(first.body) {
					b.Errorf("first %v, then %v", first, m)
				}
			}
			b.until(w.Webhook, func(hook *domain.Webhook, ds []*domain.Delivery) bool {
				i := slices.IndexFunc(ds, func(d *domain.Delivery) bool { return d.ID.String() == first.id })
				return i >= 0 && ds[i].State != domain.DeliveryPending && ds[i].Attempts == attempts && (hook.FailingSince == nil) == (ds[i].State == domain.DeliveryDelivered)
			})
		}
		if n := len(b.received); n != 0 {
			b.Errorf("%d more were received", n)
		}
	})
}

// mortal is a store that takes nothing any more once it is killed.
type mortal struct {
	storage.Store
	mu   sync.Mutex
	gone bool
}

func (m *mortal) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone = true
}

func (m *mortal) Update(ctx context.Context, f func(storage.Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return errors.New(errors.Unavailable, "the process was killed")
	}
	return m.Store.Update(ctx, f)
}

// A process that dies between an attempt and its record leaves a claim; when
// that has ended another tells the same message again.
func TestKilledBetweenAttemptAndRecord(t *testing.T) {
	each(t, func(b *bed) {
		b.config.Lease = 50 * time.Millisecond
		dies := &mortal{Store: b.store}
		var once sync.Once
		b.answer = func(message) int {
			once.Do(dies.kill)
			return 204
		}
		w := b.create()
		stop := b.deliver(dies)
		b.happens(events.VMRunning)
		first := b.next()
		stop()
		// On a host that is slow a claim ends before its attempt, which is then made anew.
		claims := b.until(w.Webhook, func(_ *domain.Webhook, ds []*domain.Delivery) bool {
			return len(ds) == 1 && ds[0].State == domain.DeliveryPending && ds[0].Attempts > 0
		})[0].Attempts
		// The claim that was left has its end; those of the second outlast its attempts.
		b.config.Lease = 0
		b.deliver(b.store)
		if second := b.next(); second.id != first.id || string(second.body) != string(first.body) {
			b.Errorf("first %v, then %v", first, second)
		}
		if ds := b.until(w.Webhook, ended(1)); ds[0].Attempts <= claims || ds[0].State != domain.DeliveryDelivered {
			b.Errorf("the delivery is %+v", ds[0])
		}
	})
}

// Several processes share the work, and nothing is told twice; one receiver that
// never answers keeps no other waiting.
func TestProcessesShareTheWork(t *testing.T) {
	each(t, func(b *bed) {
		silent := make(chan struct{})
		deaf := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-silent }))
		b.Cleanup(deaf.Close)
		answer := sync.OnceFunc(func() { close(silent) })
		b.Cleanup(answer)
		_, err := b.hooks.Create(b.ctx, b.by, deaf.URL, nil)
		must(b, err)
		w := b.create()
		const processes, rounds, each = 3, 5, 20
		for range processes {
			b.deliver(b.store)
		}
		for range rounds {
			b.happens(slices.Repeat([]string{events.VMUpdated}, each)...)
		}
		ids := map[string]bool{}
		for range rounds * each {
			ids[b.next().id] = true
		}
		ds := b.until(w.Webhook, ended(rounds*each))
		if len(ids) != rounds*each || len(b.received) != 0 || slices.ContainsFunc(ds, func(d *domain.Delivery) bool { return d.Attempts != 1 }) {
			b.Errorf("%d messages of %d, %d more", len(ids), rounds*each, len(b.received))
		}
		answer()
	})
}

// A receiver that says that it is gone is told nothing more, and neither is one
// that fails for too long.
func TestDisabled(t *testing.T) {
	each(t, func(b *bed) {
		for reason, status := range map[domain.DisabledReason]int{domain.DisabledGone: 410, domain.DisabledFailing: 500} {
			b.config.DisableAfter = time.Hour
			if reason == domain.DisabledFailing {
				b.config.DisableAfter = time.Nanosecond
			}
			b.answer = func(message) int { return status }
			w := b.create()
			stop := b.deliver(b.store)
			b.happens(slices.Repeat([]string{events.VMUpdated}, 9)...)
			b.until(w.Webhook, func(hook *domain.Webhook, ds []*domain.Delivery) bool {
				return hook.DisabledReason == reason && hook.DisabledAt != nil && ended(9)(hook, ds)
			})
			b.happens(events.VMRunning)
			stop()
			if ds := b.until(w.Webhook, ended(9)); ds[0].State != domain.DeliveryFailed {
				b.Errorf("the delivery is %+v", ds[0])
			}
			must(b, b.hooks.Delete(b.ctx, b.by, w.Webhook.ID))
		}
	})
}

// Where as many deliveries wait as may, further events wait in their place, which
// is measured, and all of them are told in the end.
func TestEventsWaitForRoom(t *testing.T) {
	each(t, func(b *bed) {
		const bound, all = 3, 250 // events come in by the batch
		b.config.MaxPending = bound
		b.config.Schedule = slices.Repeat([]time.Duration{time.Millisecond}, 100_000)
		var well atomic.Bool
		b.answer = func(message) int {
			if well.Load() {
				return 204
			}
			return 500
		}
		w := b.create()
		ctx, cancel := context.WithCancel(b.ctx)
		d := webhook.NewDeliverer(b.config, b.store, b.sealer, slog.New(slog.DiscardHandler))
		done := make(chan struct{})
		go func() { defer close(done); d.Run(ctx) }()
		b.Cleanup(func() { cancel(); <-done })
		measured := prometheus.NewRegistry()
		measured.MustRegister(d.Collectors()...)
		full := func(want float64) {
			b.Helper()
			for {
				families, err := measured.Gather()
				must(b, err)
				i := slices.IndexFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == "aetherium_webhooks_full" })
				if families[i].GetMetric()[0].GetGauge().GetValue() == want {
					return
				}
				select {
				case <-time.After(5 * time.Millisecond):
				case <-b.ctx.Done():
					b.Fatalf("never %v webhooks were full", want)
				}
			}
		}
		b.happens(slices.Repeat([]string{events.VMUpdated}, all)...)
		full(1)
		if ds := b.until(w.Webhook, func(*domain.Webhook, []*domain.Delivery) bool { return true }); len(ds) == 0 || len(ds) == all {
			b.Errorf("%d deliveries of %d wait", len(ds), all)
		}
		well.Store(true)
		b.until(w.Webhook, ended(all))
		full(0)
	})
}

// A webhook that was disabled, by its receiver or by hand, is told what it missed
// when it is enabled.
func TestEnabledAgain(t *testing.T) {
	each(t, func(b *bed) {
		var status atomic.Int32
		b.answer = func(message) int { return int(status.Load()) }
		w := b.create()
		missed := 0
		for _, gone := range []bool{true, false} {
			status.Store(410)
			stop := b.deliver(b.store)
			if gone {
				b.happens(events.VMCreated, events.VMUpdated)
			} else {
				hook, err := b.hooks.Disable(b.ctx, b.by, w.Webhook.ID)
				must(b, err)
				if hook.DisabledReason != domain.DisabledAsked || hook.DisabledAt == nil {
					b.Errorf("disabled %+v", hook)
				}
			}
			b.until(w.Webhook, func(hook *domain.Webhook, _ []*domain.Delivery) bool { return hook.DisabledAt != nil })
			b.happens(events.VMRunning, events.VMStopped)
			stop()
			if missed += 2; gone {
				missed += 2
			}
			for len(b.received) > 0 {
				<-b.received
			}
			status.Store(204)
			for range 2 { // the second changes nothing
				hook, err := b.hooks.Enable(b.ctx, b.by, w.Webhook.ID)
				must(b, err)
				if hook.DisabledAt != nil || hook.DisabledReason != "" || hook.FailingSince != nil {
					b.Errorf("enabled %+v", hook)
				}
			}
			stop = b.deliver(b.store)
			for _, d := range b.until(w.Webhook, ended(missed)) {
				if d.State != domain.DeliveryDelivered {
					b.Errorf("the delivery is %+v", d)
				}
			}
			stop()
		}
	})
}

// While a secret is changed messages are genuine by the old and by the new one,
// for as long as was asked for.
func TestSecretsAreRotated(t *testing.T) {
	each(t, func(b *bed) {
		w := b.create()
		b.deliver(b.store)
		genuine := func(m message, secret string) bool {
			v, err := standard.NewWebhook(secret)
			must(b, err)
			return v.Verify(m.body, m.header) == nil
		}
		check := func(n int, secrets map[string]bool) {
			b.Helper()
			b.happens(events.VMRunning)
			m := b.next()
			if got := strings.Fields(m.header.Get(api.HeaderWebhookSignature)); len(got) != n {
				b.Errorf("%d signatures of %d", len(got), n)
			}
			for secret, want := range secrets {
				if genuine(m, secret) != want {
					b.Errorf("genuine by %.12s… is not %t", secret, want)
				}
			}
		}
		second, err := b.hooks.Rotate(b.ctx, b.by, w.Webhook.ID, time.Hour)
		must(b, err)
		check(2, map[string]bool{w.Secret: true, second.Secret: true})
		third, err := b.hooks.Rotate(b.ctx, b.by, w.Webhook.ID, time.Hour)
		must(b, err)
		check(2, map[string]bool{w.Secret: false, second.Secret: true, third.Secret: true})
		last, err := b.hooks.Rotate(b.ctx, b.by, w.Webhook.ID, 0)
		must(b, err)
		check(1, map[string]bool{third.Secret: false, last.Secret: true})
		past := webhook.New(webhook.Deps{Store: b.store, Sealer: b.sealer, Now: func() time.Time { return time.Now().Add(-2 * time.Hour) }})
		over, err := past.Rotate(b.ctx, b.by, w.Webhook.ID, time.Hour)
		must(b, err)
		check(1, map[string]bool{last.Secret: false, over.Secret: true})
		for _, overlap := range []time.Duration{-1, domain.MaxSecretOverlap + 1} {
			if _, err := b.hooks.Rotate(b.ctx, b.by, w.Webhook.ID, overlap); !errors.HasCode(err, errors.InvalidArgument) {
				b.Errorf("%s: %v", overlap, err)
			}
		}
		if _, err := b.hooks.Rotate(b.ctx, vmm.Caller{ProjectID: domain.NewID()}, w.Webhook.ID, 0); !errors.HasCode(err, errors.NotFound) {
			b.Error(err)
		}
	})
}

// A receiver says how long it is to be left alone in seconds or by a time of its
// own clock, and not for longer than a day.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	b := newBed(t, kinds()["sqlite"](t))
	b.answer = func(message) int { return 503 }
	its := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"3600": time.Hour, its.Add(2 * time.Hour).Format(http.TimeFormat): 2 * time.Hour, "86401": 24 * time.Hour,
		its.AddDate(1, 0, 0).Format(time.RFC850): 24 * time.Hour, its.Add(-time.Hour).Format(http.TimeFormat): 0, "-1": 0, "soon": 0,
	} {
		b.config.Schedule = []time.Duration{time.Minute}
		b.asks = func(h http.Header) { h.Set("Retry-After", text); h.Set("Date", its.Format(http.TimeFormat)) }
		w := b.create()
		stop := b.deliver(b.store)
		b.happens(events.VMRunning)
		want = max(want, time.Minute)
		d := b.until(w.Webhook, func(_ *domain.Webhook, ds []*domain.Delivery) bool { return len(ds) == 1 && ds[0].Status == 503 })[0]
		// A fifth is added at most, and what passes between the attempt and its record.
		if got := d.NextAt.Sub(*d.AttemptedAt); got < want || got > 2*want {
			t.Errorf("%q: another attempt after %s", text, got)
		}
		stop()
		must(t, b.hooks.Delete(b.ctx, b.by, w.Webhook.ID))
	}
}

// By default nothing leads to this host or its networks, by whatever name.
func TestPrivateAddressesAreRefused(t *testing.T) {
	t.Parallel()
	b := newBed(t, kinds()["sqlite"](t))
	b.config.Targets = webhook.Targets{}
	for _, url := range []string{
		b.receiver.URL, "http://example.com/", "https://127.0.0.1/", "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://169.254.169.254/latest/meta-data", "https://10.0.0.1/",
		"https://192.168.1.1/", "https://[fd00::1]/", "https://[fe80::1]/", "https://224.0.0.1/", "https://0.0.0.0/", "https://[::]/", "https://[64:ff9b::7f00:1]/",
	} {
		if err := (webhook.Targets{}).Check("url", url); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", url, err)
		}
	}
	must(t, (webhook.Targets{}).Check("url", "https://example.com/hook?a=b"))
	// Names lead where they like: what they mean is looked at when it is connected to.
	byName := strings.Replace(b.receiver.URL, "127.0.0.1", "localhost", 1)
	var all []webhook.Created
	for _, url := range []string{b.receiver.URL, byName, strings.Replace(byName, "http:", "https:", 1)} {
		w, err := b.hooks.Create(b.ctx, b.by, url, nil)
		must(t, err)
		all = append(all, w)
	}
	b.deliver(b.store)
	b.happens(events.VMRunning)
	for _, w := range all {
		ds := b.until(w.Webhook, ended(1))
		if ds[0].State != domain.DeliveryFailed || ds[0].Error != "address_not_allowed" || ds[0].Status != 0 {
			t.Errorf("%s: %+v", w.Webhook.URL, ds[0])
		}
	}
	if len(b.received) != 0 {
		t.Error("the receiver was reached")
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	b := newBed(t, kinds()["sqlite"](t))
	for _, url := range []string{"", "example.com", "ftp://example.com/", "https://a:b@example.com/", "https://example.com/#x", "https://exa mple.com/", "https://" + strings.Repeat("a", 2048), "https:///x", "https://[fe80::1%25eth0]/"} {
		if _, err := b.hooks.Create(b.ctx, b.by, url, nil); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%.40q: %v", url, err)
		}
	}
	for _, kind := range []string{"vm.exploded", events.WorkerAway, ""} {
		if _, err := b.hooks.Create(b.ctx, b.by, b.receiver.URL, []string{kind}); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%q: %v", kind, err)
		}
	}
	for _, text := range []string{"", "10.0.0.0", "10.0.0.0/33", "localhost", "fe80::1%eth0", "::ffff:10.0.0.0/104"} {
		if _, err := webhook.NewTargets("allow", []string{text}); errors.HasCode(err, errors.InvalidArgument) == (text == "10.0.0.0") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for range domain.MaxWebhooks {
		b.create()
	}
	if _, err := b.hooks.Create(b.ctx, b.by, b.receiver.URL, nil); !errors.HasCode(err, errors.Conflict) {
		t.Error(err)
	}
	stranger := vmm.Caller{ProjectID: domain.NewID()}
	l, err := b.hooks.List(b.ctx, b.by, vmm.Page{})
	must(t, err)
	for _, w := range l.Items {
		_, get := b.hooks.Get(b.ctx, stranger, w.ID)
		_, deliveries := b.hooks.Deliveries(b.ctx, stranger, w.ID, vmm.Page{})
		for _, err := range []error{get, deliveries, b.hooks.Delete(b.ctx, stranger, w.ID)} {
			if !errors.HasCode(err, errors.NotFound) {
				t.Error(err)
			}
		}
		must(t, b.hooks.Delete(b.ctx, b.by, w.ID))
	}
}
