package watch_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

func TestNoChangeIsMissed(t *testing.T) {
	t.Parallel()
	var hub watch.Hub[int]
	var value [4]atomic.Int64
	const last = 2000
	var wg sync.WaitGroup
	for key := range value {
		for range 3 {
			wg.Go(func() {
				sub := hub.Subscribe(key)
				defer sub.Done()
				for {
					changed := sub.Changed()
					if value[key].Load() == last {
						return
					}
					<-changed // a missed wake-up would hang the test
				}
			})
		}
		wg.Go(func() {
			for range last {
				value[key].Add(1)
				hub.Notify(key)
			}
		})
	}
	wg.Wait()
}

func TestOnlyTheKeyIsWoken(t *testing.T) {
	t.Parallel()
	var hub watch.Hub[string]
	a, b := hub.Subscribe("a"), hub.Subscribe("b")
	ca, cb := a.Changed(), b.Changed()
	hub.Notify("a")
	<-ca
	select {
	case <-cb:
		t.Fatal("b was woken for a")
	default:
	}
	hub.NotifyAll()
	<-cb
	a.Done()
	a.Done()
	b.Done()
	hub.Notify("a") // nobody waits: nothing happens
}
