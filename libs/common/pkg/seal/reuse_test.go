package seal_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
)

// counted is a keyring that counts, and can be away.
type counted struct {
	seal.Keyring
	mu            sync.Mutex
	wraps, opened int
	away          bool
}

func (c *counted) ask(n *int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
	if c.away {
		return errors.New(errors.Unavailable, "away")
	}
	return nil
}

func (c *counted) Wrap(ctx context.Context, key []byte) (string, []byte, error) {
	if err := c.ask(&c.wraps); err != nil {
		return "", nil, err
	}
	return c.Keyring.Wrap(ctx, key)
}

func (c *counted) Unwrap(ctx context.Context, id string, wrapped []byte) ([]byte, error) {
	if err := c.ask(&c.opened); err != nil {
		return nil, err
	}
	return c.Keyring.Unwrap(ctx, id, wrapped)
}

func (c *counted) set(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = away
}

func (c *counted) counts() (wraps, opened int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wraps, c.opened
}

// clock is moved by hand.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func newCounted(t *testing.T) *counted {
	t.Helper()
	keys, err := seal.NewKeys(key())
	if err != nil {
		t.Fatal(err)
	}
	return &counted{Keyring: keys}
}

func TestReuseAsksSeldom(t *testing.T) {
	t.Parallel()
	ctx, ring, time_ := context.Background(), newCounted(t), &clock{at: time.Unix(1e9, 0)}
	s := seal.NewReusing(ring, seal.Reuse{For: time.Minute, Records: 10, Opened: 3, Now: time_.now})
	var records [][]byte
	put := func() {
		t.Helper()
		sealed, err := s.Seal(ctx, fmt.Sprint(len(records)), fmt.Append(nil, "value ", len(records)))
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, sealed)
	}
	check := func(want string) {
		t.Helper()
		for i, r := range records {
			if got, err := s.Open(ctx, fmt.Sprint(i), r); err != nil || string(got) != fmt.Sprint("value ", i) {
				t.Fatalf("record %d: %q, %v", i, got, err)
			}
		}
		wraps, opened := ring.counts()
		if got := fmt.Sprint(wraps, " ", opened); got != want {
			t.Errorf("wraps and unwraps: %s, want %s", got, want)
		}
	}
	for range 10 {
		put()
	}
	check("1 0") // one data key, which is remembered
	put()        // its number of records is reached
	check("2 0")
	time_.pass(59 * time.Second)
	put()
	check("2 0")
	time_.pass(2 * time.Second)
	put() // its time is over; what was remembered of the others, too
	check("3 2")
	check("3 2")
	// However many there are, only three are kept: reading them all pushes out each.
	for range 4 {
		time_.pass(time.Minute)
		put()
	}
	_, before := ring.counts()
	check(fmt.Sprint("7 ", before+7))
}

// While the service is away, what was sealed lately can be read, a data key
// seals on for a while, and then there is an honest refusal. Nothing is lost.
func TestReuseInAnOutage(t *testing.T) {
	t.Parallel()
	ctx, ring, time_ := context.Background(), newCounted(t), &clock{at: time.Unix(1e9, 0)}
	s := seal.NewReusing(ring, seal.Reuse{For: time.Minute, Grace: time.Hour, Now: time_.now})
	first, err := s.Seal(ctx, "p", []byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	ring.set(true)
	time_.pass(2 * time.Minute)
	late, err := s.Seal(ctx, "p", []byte("late"))
	if err != nil {
		t.Fatalf("beyond its time, in an outage: %v", err)
	}
	wraps, _ := ring.counts()
	for range 20 { // a service in trouble is left alone for a moment
		if _, err := s.Seal(ctx, "p", nil); err != nil {
			t.Fatal(err)
		}
	}
	if now, _ := ring.counts(); now != wraps {
		t.Errorf("asked %d times more", now-wraps)
	}
	if _, err := s.Open(ctx, "p", first); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("a data key that was forgotten: %v", err)
	}
	time_.pass(2 * time.Hour)
	for range 2 {
		if _, err := s.Seal(ctx, "p", nil); !errors.HasCode(err, errors.Unavailable) {
			t.Errorf("after the grace: %v", err)
		}
	}
	ring.set(false)
	time_.pass(time.Minute)
	if _, err := s.Seal(ctx, "p", nil); err != nil {
		t.Errorf("it is back: %v", err)
	}
	for want, sealed := range map[string][]byte{"first": first, "late": late} {
		if got, err := s.Open(ctx, "p", sealed); err != nil || string(got) != want {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestReuseWithoutGrace(t *testing.T) {
	t.Parallel()
	ctx, ring, time_ := context.Background(), newCounted(t), &clock{at: time.Unix(1e9, 0)}
	s := seal.NewReusing(ring, seal.Reuse{For: time.Minute, Grace: -1, Now: time_.now})
	if _, err := s.Seal(ctx, "p", nil); err != nil {
		t.Fatal(err)
	}
	ring.set(true)
	time_.pass(time.Minute)
	if _, err := s.Seal(ctx, "p", nil); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("%v", err)
	}
}

func TestReuseByMany(t *testing.T) {
	t.Parallel()
	ctx, ring := context.Background(), newCounted(t)
	s := seal.NewReusing(ring, seal.Reuse{Records: 7, Opened: 2})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			place := fmt.Sprint(i)
			sealed, err := s.Seal(ctx, place, []byte(place))
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := s.Open(ctx, place, sealed); err != nil || string(got) != place {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if wraps, _ := ring.counts(); wraps != 10 { // 64 records, 7 under each
		t.Errorf("%d data keys", wraps)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := seal.NewReusing(newCounted(t), seal.Reuse{}).Seal(ended, "p", nil); err != nil && !errors.HasCode(err, errors.Canceled) {
		t.Errorf("nobody waits any more: %v", err)
	}
}
