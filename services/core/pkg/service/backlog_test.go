package service_test

import (
	"context"
	"log/slog"
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
