package once_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/once"
)

// things are there by name once they were made, which takes a minute.
type things struct {
	once.Works
	made, there atomic.Int32
}

func (t *things) want(ctx context.Context) error {
	return t.Do(ctx, "a", func() (bool, error) { return t.there.Load() > 0, nil }, func() error {
		t.made.Add(1)
		select {
		case <-time.After(time.Minute):
		case <-ctx.Done():
			return ctx.Err()
		}
		t.there.Add(1)
		return nil
	})
}

func TestManyWantOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all things
		answers := make(chan error)
		for range 8 {
			go func() { answers <- all.want(t.Context()) }()
		}
		for range 8 {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
		if n := all.made.Load(); n != 1 {
			t.Errorf("it was made %d times", n)
		}
	})
}

func TestNobodyWaitsPastItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all things
		go func() { _ = all.want(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := all.want(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestWhatIsGivenUpTheNextMakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all things
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		first := make(chan error, 1)
		go func() { first <- all.want(ctx) }()
		synctest.Wait()
		if err := all.want(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-first; !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if n := all.made.Load(); n != 2 {
			t.Errorf("it was made %d times", n)
		}
	})
}

// What is there, or is another thing, waits for nobody.
func TestNobodyWaitsForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all things
		go func() { _ = all.want(t.Context()) }()
		synctest.Wait()
		began := time.Now()
		for name, there := range map[string]bool{"a": true, "b": false} {
			if err := all.Do(t.Context(), name, func() (bool, error) { return there, nil }, func() error { return nil }); err != nil {
				t.Error(err)
			}
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("it took %v", waited)
		}
	})
}
