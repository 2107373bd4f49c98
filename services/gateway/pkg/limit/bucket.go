package limit

import (
	"math"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Rate is so many in a second, and so many at once. Zero is without bound.
type Rate struct {
	PerSecond float64
	Burst     int
}

func (r Rate) limits() bool { return r.PerSecond > 0 && r.Burst > 0 }

// Validate checks a rate's form. Returns InvalidArgument.
func (r Rate) Validate(field string) error {
	switch {
	case math.IsNaN(r.PerSecond) || r.PerSecond < 0 || r.PerSecond > 1e6 || r.Burst < 0 || r.Burst > 1e7:
		return errors.New(errors.InvalidArgument, "a rate of %v in a second and %d at once is out of range", r.PerSecond, r.Burst).WithField(field)
	case (r.PerSecond > 0) != (r.Burst > 0):
		return errors.New(errors.InvalidArgument, "a rate needs both a number in a second and one at once").WithField(field).
			WithHint("0 and 0 are no limit")
	}
	return nil
}

// maxBuckets bounds the buckets of a kind; each takes about 200 bytes.
const maxBuckets = 1 << 15

// buckets are those of one kind, by what each is for.
type buckets[K comparable] struct {
	rate  Rate
	known *lru.Cache[K, *rate.Limiter]
}

func newBuckets[K comparable](r Rate) *buckets[K] {
	known, err := lru.New[K, *rate.Limiter](maxBuckets)
	if err != nil {
		panic(err) // the size is a constant
	}
	return &buckets[K]{rate: r, known: known}
}

// state is what a bucket holds after something was taken.
type state struct {
	ok     bool
	tokens float64
	rate   Rate
}

// take takes one token, or none where there is none.
func (b *buckets[K]) take(key K, now time.Time) state {
	l, ok := b.known.Get(key)
	if !ok {
		l = rate.NewLimiter(rate.Limit(b.rate.PerSecond), b.rate.Burst)
		if earlier, was, _ := b.known.PeekOrAdd(key, l); was {
			l = earlier
		}
	}
	took := l.AllowN(now, 1)
	return state{ok: took, tokens: max(l.TokensAt(now), 0), rate: b.rate}
}

// wait is how long until there is a token.
func (s state) wait() time.Duration {
	return max(time.Duration((1-s.tokens)/s.rate.PerSecond*float64(time.Second)), time.Millisecond)
}

// reset is how many seconds until the bucket is full.
func (s state) reset() int64 {
	return int64(math.Ceil((float64(s.rate.Burst) - s.tokens) / s.rate.PerSecond))
}
