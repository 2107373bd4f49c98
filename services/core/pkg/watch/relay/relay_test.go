package relay_test

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/redis/redistest"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
	"github.com/aetherium/aetherium/services/core/pkg/watch/relay"
)

// process is one of those that are connected.
type process struct {
	hub   watch.Hub[string]
	relay *relay.Relay[string]
}

func start(t *testing.T, server *redistest.Server, backstop time.Duration) *process {
	t.Helper()
	p := &process{}
	p.relay = relay.Start(relay.Config[string]{
		Client: server.Client(t), Name: "test", Hub: &p.hub, Backstop: backstop, Logger: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(p.relay.Close)
	return p
}

// await reads until the value is as wanted, woken by the process' hub alone.
func (p *process) await(value *atomic.Int64, want int64) {
	sub := p.hub.Subscribe("a")
	defer sub.Done()
	for {
		changed := sub.Changed()
		if value.Load() == want {
			return
		}
		<-changed
	}
}

// Readers in two processes follow a writer in a third by what Redis tells
// them: the backstop would be too late.
func TestOthersAreWoken(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	writer := start(t, server, time.Hour)
	readers := []*process{start(t, server, time.Hour), start(t, server, time.Hour)}
	var value atomic.Int64
	for want := range int64(100) {
		var reading sync.WaitGroup
		for _, r := range readers {
			reading.Go(func() { r.await(&value, want+1) })
		}
		value.Add(1)
		writer.relay.Notify("a")
		reading.Wait()
	}
}

// Without Redis, readers have it by looking again; and once more when it is back.
func TestWithoutRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	writer := start(t, server, time.Hour)
	patient, slow := start(t, server, time.Hour), start(t, server, 10*time.Millisecond)
	var value atomic.Int64
	server.Kill(t)
	value.Store(1)
	writer.relay.Notify("a")
	writer.await(&value, 1)
	var reading sync.WaitGroup
	reading.Go(func() { slow.await(&value, 2) })
	value.Store(2)
	writer.relay.Notify("a")
	reading.Wait()
	sub := patient.hub.Subscribe("a")
	defer sub.Done()
	changed := sub.Changed()
	server.Restart(t)
	<-changed // that it is connected again is a reason to look
}
