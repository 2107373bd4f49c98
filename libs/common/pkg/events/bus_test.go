package events_test

import (
	"sync"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/events"
)

type tick struct{ From, N int }

func (tick) EventType() string { return "tick" }

type tock struct{ N int }

func (tock) EventType() string { return "tock" }

func TestTypesAreTopics(t *testing.T) {
	t.Parallel()
	b := events.NewBus()
	ticks, tocks, more := events.Subscribe[tick](b, 4), events.Subscribe[tock](b, 4), events.Subscribe[tick](b, 4)
	if n := events.Publish(b, tick{N: 1}); n != 2 {
		t.Errorf("%d took it, want 2", n)
	}
	events.Publish(b, tock{N: 2})
	if e := <-ticks.C(); e.N != 1 {
		t.Errorf("%+v", e)
	}
	if e := <-more.C(); e.N != 1 {
		t.Errorf("%+v", e)
	}
	if e := <-tocks.C(); e.N != 2 {
		t.Errorf("%+v", e)
	}
	if n := len(ticks.C()) + len(tocks.C()); n != 0 {
		t.Errorf("%d events of the wrong type", n)
	}
	if ticks.Err() != nil {
		t.Errorf("an open subscription has ended: %v", ticks.Err())
	}
}

func TestSlowSubscriberIsCutOff(t *testing.T) {
	t.Parallel()
	b := events.NewBus()
	slow, quick := events.Subscribe[tick](b, 2), events.Subscribe[tick](b, 10)
	for i := range 5 {
		events.Publish(b, tick{N: i}) // never waits
	}
	var got []int
	for e := range slow.C() {
		got = append(got, e.N)
	}
	if len(got) != 2 || got[0] != 0 || got[1] != 1 {
		t.Errorf("the slow one got %v, want what fitted", got)
	}
	if !errors.Is(slow.Err(), events.ErrSlow) {
		t.Errorf("the reason is %v", slow.Err())
	}
	slow.Close()
	if !errors.Is(slow.Err(), events.ErrSlow) {
		t.Errorf("closing changed the reason to %v", slow.Err())
	}
	if len(quick.C()) != 5 || quick.Err() != nil {
		t.Errorf("the quick one got %d events, %v", len(quick.C()), quick.Err())
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	b := events.NewBus()
	one, two := events.Subscribe[tick](b, 1), events.Subscribe[tick](b, 1)
	for range 2 {
		one.Close()
	}
	if _, open := <-one.C(); open || !errors.Is(one.Err(), events.ErrClosed) {
		t.Errorf("closed: open %v, %v", open, one.Err())
	}
	if n := events.Publish(b, tick{}); n != 1 {
		t.Errorf("%d took it after one closed", n)
	}
	for range 2 {
		b.Close()
	}
	if _, open := <-two.C(); !open {
		t.Error("what was buffered is lost")
	}
	if _, open := <-two.C(); open || !errors.Is(two.Err(), events.ErrClosed) {
		t.Errorf("bus closed: open %v, %v", open, two.Err())
	}
	late := events.Subscribe[tick](b, 1)
	if _, open := <-late.C(); open || !errors.Is(late.Err(), events.ErrClosed) {
		t.Errorf("subscribed to a closed bus: open %v, %v", open, late.Err())
	}
	late.Close()
	if n := events.Publish(b, tick{}); n != 0 {
		t.Errorf("%d took it from a closed bus", n)
	}
}

// Publishers, subscribers that come and go, slow ones and the end at once:
// everybody sees each publisher's events in order and without gaps up to its end.
func TestStress(t *testing.T) {
	t.Parallel()
	const publishers, each, subscribers = 4, 2000, 16
	b := events.NewBus()
	var pubs, subs sync.WaitGroup
	for i := range subscribers {
		s := events.Subscribe[tick](b, 1+i*64)
		subs.Go(func() {
			defer s.Close()
			last := [publishers]int{}
			for e := range s.C() {
				if e.N != last[e.From]+1 {
					t.Errorf("event %d of %d after %d", e.N, e.From, last[e.From])
				}
				last[e.From] = e.N
				if i%4 == 0 && e.N == each/2 {
					return // leaves in the middle
				}
			}
			if err := s.Err(); !errors.Is(err, events.ErrSlow) && !errors.Is(err, events.ErrClosed) {
				t.Errorf("ended without a reason: %v", err)
			}
		})
	}
	for p := range publishers {
		pubs.Go(func() {
			for n := 1; n <= each; n++ {
				events.Publish(b, tick{From: p, N: n})
			}
		})
	}
	pubs.Wait()
	b.Close()
	subs.Wait()
}

func BenchmarkPublish(b *testing.B) {
	bus := events.NewBus()
	var wg sync.WaitGroup
	subscribe := func() {
		s := events.Subscribe[tick](bus, 1024)
		wg.Go(func() {
			for range s.C() {
			}
		})
	}
	subscribe()
	for i := range b.N {
		if events.Publish(bus, tick{N: i}) == 0 {
			subscribe()
		}
	}
	bus.Close()
	wg.Wait()
}
