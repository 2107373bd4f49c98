package watch_test

import (
	"context"
	"sync"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

func TestChange(t *testing.T) {
	t.Parallel()
	var (
		mu     sync.Mutex
		change watch.Change
		value  int
	)
	change.Notify() // nobody waits
	next := change.Next()
	if next != change.Next() {
		t.Error("two who wait for one change have different channels")
	}
	var waiting sync.WaitGroup
	mu.Lock()
	for range 3 {
		waiting.Go(func() {
			mu.Lock()
			defer mu.Unlock()
			for value == 0 {
				if err := change.Wait(t.Context(), &mu); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	mu.Unlock()
	mu.Lock()
	value = 1
	change.Notify()
	mu.Unlock()
	<-next
	waiting.Wait()

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	mu.Lock()
	defer mu.Unlock() // Wait has taken it again
	if err := change.Wait(ctx, &mu); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
