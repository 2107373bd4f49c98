package service_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// stalled is a store whose writers wait until it is let go.
type stalled struct {
	storage.Store
	waits chan struct{} // gets one when a writer waits
	goOn  chan struct{}
}

func (s *stalled) Update(ctx context.Context, f func(storage.Tx) error) error {
	select {
	case <-s.goOn:
	default:
		s.waits <- struct{}{}
		<-s.goOn
	}
	return s.Store.Update(ctx, f)
}

// Who asks for a VM, forks or tasks while others have waited for long is refused at once
// and told when to come again; those who wait get theirs.
func TestWhatBeginsIsRefusedWhileOthersWaitForLong(t *testing.T) {
	b := newBench(t)
	origin, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	store := &stalled{Store: b.store, waits: make(chan struct{}), goOn: make(chan struct{})}
	base := time.Now() // time goes on by ahead alone, however slow the host is
	var ahead atomic.Int64
	s := service.New(b.config, service.Deps{
		Store: store, Nodes: nodes{}, Sealer: b.sealer, Changes: new(watch.Hub[domain.ID]), Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return base.Add(time.Duration(ahead.Load())) },
	})
	made := make(chan error)
	create := func() {
		_, err := s.CreateVM(b.ctx, b.by, vmm.CreateVM{})
		made <- err
	}
	run := func() {
		_, err := s.CreateRuns(b.ctx, b.by, vmm.CreateRuns{Runs: []vmm.Run{{Command: domain.Command{Args: []string{"true"}, Timeout: time.Minute}}}})
		made <- err
	}
	fork := func() {
		_, err := s.ForkVM(b.ctx, b.by, origin.ID, 1, vmm.CreateVM{})
		made <- err
	}
	go create()
	<-store.waits
	go run() // the first has not waited for long
	<-store.waits
	ahead.Store(int64(time.Minute))
	for name, ask := range map[string]func(){"a VM": create, "a task": run, "a fork": fork} {
		go ask()
		if err := <-made; !errors.HasCode(err, errors.Unavailable) || errors.Public(err).RetryAfter != 2*time.Second {
			t.Errorf("who asks for %s is told %v", name, err)
		}
	}
	close(store.goOn)
	for range 2 {
		must(t, <-made)
	}
	for _, ask := range []func(){create, run} { // nobody waits any more
		go ask()
		must(t, <-made)
	}
}

// turns is a store whose writers are let through one by one.
type turns struct {
	storage.Store
	waits chan struct{} // gets one when a writer waits
	goOn  chan struct{}

	mu    sync.Mutex
	order []domain.ID // whose turns there were
}

// whose is the key of a context's project.
type whose struct{}

func (s *turns) Update(ctx context.Context, f func(storage.Tx) error) error {
	s.waits <- struct{}{}
	<-s.goOn
	s.mu.Lock()
	s.order = append(s.order, ctx.Value(whose{}).(domain.ID))
	s.mu.Unlock()
	return s.Store.Update(ctx, f)
}

// Who makes one VM does not wait for all that another project makes, but for those
// that wait for the store already.
func TestProjectsTakeTurnsBeforeTheStore(t *testing.T) {
	const flood, writing = 100, 32
	b := newBench(t, func(c *service.Config) { c.Overcommit = service.Overcommit{} })
	now := time.Now() // stands still: nobody has waited for long, however slow the host is
	store := &turns{Store: b.store, waits: make(chan struct{}, flood+1), goOn: make(chan struct{})}
	s := service.New(b.config, service.Deps{
		Store: store, Nodes: nodes{}, Sealer: b.sealer, Changes: new(watch.Hub[domain.ID]), Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now },
	})
	made := make(chan error, flood+1)
	create := func(ctx context.Context, by vmm.Caller) {
		go func() {
			_, err := s.CreateVM(context.WithValue(ctx, whose{}, by.ProjectID), by, vmm.CreateVM{})
			made <- err
		}()
	}
	queued := func(n int) {
		t.Helper()
		for s.Queued() != n {
			time.Sleep(time.Millisecond)
		}
	}
	other := b.by
	other.ProjectID = domain.NewID()
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		now := b.now()
		tmpl := &domain.Template{ID: domain.NewID(), ProjectID: other.ProjectID, Name: "base", CreatedAt: now, UpdatedAt: now}
		build := &domain.Build{
			ID: domain.NewID(), ProjectID: other.ProjectID, TemplateID: tmpl.ID, State: domain.BuildReady, Platform: "linux/amd64",
			Source: domain.TemplateSource{Dir: "/"}, CreatedAt: now, ReadyAt: &now,
		}
		err := errors.Join(
			tx.Projects().Insert(b.ctx, &domain.Project{ID: other.ProjectID, Name: "other", CreatedAt: now}),
			tx.Templates().Insert(b.ctx, tmpl), tx.Builds().Insert(b.ctx, build),
		)
		tmpl.Tags = map[string]domain.ID{domain.DefaultTag: build.ID}
		return errors.Join(err, tx.Templates().Update(b.ctx, tmpl))
	}))
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	for range flood - 1 {
		create(b.ctx, b.by)
	}
	queued(flood - 1 - writing)
	create(ctx, b.by) // goes away before it has a place
	queued(flood - writing)
	cancel()
	if err := <-made; !errors.Is(err, context.Canceled) {
		t.Errorf("who went away: %v", err)
	}
	create(b.ctx, other)
	queued(flood - writing + 1)
	for range writing {
		<-store.waits
	}
	for i := range flood {
		store.goOn <- struct{}{}
		if i < flood-writing {
			<-store.waits // of who has got the place
		}
	}
	for range flood {
		must(t, <-made)
	}
	// One of the project that waited longer, before it.
	if at := slices.Index(store.order, other.ProjectID); at < writing || at > writing+2 || len(store.order) != flood {
		t.Errorf("it had turn %d of %d", at, len(store.order))
	}
	queued(0)
}
