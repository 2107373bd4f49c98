package journal_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
)

// small is a store whose journals drop their oldest output after 64 KiB.
func small(t *testing.T) *journal.Store {
	t.Helper()
	s, err := journal.OpenStore(t.TempDir(), journal.Options{MaxBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func opened(t *testing.T, s *journal.Store) *journal.Journal {
	t.Helper()
	j, err := s.Open(journal.Key{VM: domain.NewID(), Epoch: 1, Execution: domain.NewID()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

// A reader that holds the journal gets every byte, however slow it is, of an
// output that is many times what the journal keeps.
func TestHold(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			j := opened(t, small(t))
			r, err := j.NewReader(0, true)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = r.Close() }()
			r.Hold()
			random := rand.New(rand.NewPCG(seed, 1))
			out := make([]byte, 1<<20)
			for i := range out {
				out[i] = byte(random.Uint32())
			}
			var writer sync.WaitGroup
			defer writer.Wait()
			defer cancel()
			writer.Go(func() {
				for next := 0; next < len(out); {
					// From single bytes, which are mostly headers, to more than is kept.
					n := min(1+random.IntN(1<<random.IntN(18)), len(out)-next)
					if err := j.Feed(ctx, int64(next), domain.Stdout, out[next:next+n]); err != nil {
						t.Error(err)
						return
					}
					next += n
				}
				if err := j.AppendEnd(domain.ExecutionEnd{}); err != nil {
					t.Error(err)
				}
			})
			var got []byte
			for {
				ev, err := r.Next(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if ev.Gap != nil {
					t.Fatalf("a gap from %d to %d", ev.Gap.From, ev.Gap.To)
				}
				if ev.End != nil {
					break
				}
				got = append(got, ev.Data...)
			}
			writer.Wait()
			if !bytes.Equal(got, out) {
				t.Errorf("%d bytes of %d, or not the right ones", len(got), len(out))
			}
		})
	}
}

func TestRoomIsWaitedForAndGiven(t *testing.T) {
	t.Parallel()
	j := opened(t, small(t))
	fill := func() error {
		data := make([]byte, 4<<10)
		for range 32 {
			if err := j.Feed(t.Context(), j.NextOffset(), domain.Stdout, data); err != nil {
				return err
			}
		}
		return nil
	}
	if err := fill(); err != nil { // nobody holds it: twice what it keeps
		t.Fatal(err)
	}
	hold := func() *journal.Reader {
		r, err := j.NewReader(j.FirstOffset(), true)
		if err != nil {
			t.Fatal(err)
		}
		r.Hold()
		return r
	}
	// A reader that goes lets the writer go on; so does the journal's end.
	for name, end := range map[string]func(*journal.Reader){
		"closed": func(r *journal.Reader) { _ = r.Close() },
		"twice":  func(r *journal.Reader) { r.Hold(); _ = r.Close(); _ = r.Close() },
	} {
		r := hold()
		done := make(chan error, 1)
		go func() { done <- fill() }()
		end(r)
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := hold()
	defer func() { _ = r.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	full := make(chan error, 1)
	go func() { full <- j.Feed(ctx, j.NextOffset(), domain.Stdout, make([]byte, 128<<10)) }()
	cancel()
	if err := <-full; !errors.Is(err, context.Canceled) {
		t.Errorf("a wait that was given up: %v", err)
	}
}

func TestADeletedJournalHoldsNobody(t *testing.T) {
	t.Parallel()
	s := small(t)
	j := opened(t, s)
	r, err := j.NewReader(0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	r.Hold()
	done := make(chan error, 1)
	go func() {
		for {
			if err := j.Feed(context.Background(), j.NextOffset(), domain.Stdout, make([]byte, 4<<10)); err != nil {
				done <- err
				return
			}
		}
	}()
	if err := s.Delete(j.Key()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.HasCode(err, errors.Gone) {
		t.Errorf("%v", err)
	}
}
