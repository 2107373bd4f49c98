package seal

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Reuse says how long data keys stay in memory where wrapping one is a call to
// a service. Zero values are good.
type Reuse struct {
	// For is how long a data key seals new records, and how long an unwrapped
	// one opens records; 0: 5 minutes.
	For time.Duration
	// Grace is how much longer a data key seals while the keyring is
	// unavailable; 0: an hour; negative: not at all.
	Grace time.Duration
	// Records is how many one data key seals at most; 0: 10000.
	Records int
	// Opened is how many unwrapped data keys are kept; 0: 1024.
	Opened int
	// Now is for tests; nil: time.Now.
	Now func() time.Time
}

func (r Reuse) withDefaults() Reuse {
	if r.For <= 0 {
		r.For = 5 * time.Minute
	}
	if r.Grace == 0 {
		r.Grace = time.Hour
	}
	if r.Records <= 0 {
		r.Records = 10000
	}
	if r.Opened <= 0 {
		r.Opened = 1024
	}
	if r.Now == nil {
		r.Now = time.Now
	}
	return r
}

// restFor is how long a keyring that was unavailable is not asked for data keys:
// who waits for one would only add to its troubles.
const restFor = 5 * time.Second

// NewReusing makes a sealer on a keyring that is a service: a data key seals
// several records, and is remembered for a while.
func NewReusing(ring Keyring, r Reuse) Sealer {
	return &envelope{&reusing{own: ownKeys{ring}, limits: r.withDefaults(), turn: make(chan struct{}, 1), opened: map[[32]byte]opened{}}}
}

type reusing struct {
	own    ownKeys
	limits Reuse
	turn   chan struct{} // held by whoever asks the keyring for a data key

	mu      sync.Mutex
	sealing dataKey // the key is nil before the first
	made    time.Time
	used    int
	refused error     // what the keyring said when it was last found unavailable
	rests   time.Time // until when it is not asked
	opened  map[[32]byte]opened
	order   [][32]byte // of opened, the oldest first, which ends first
}

type opened struct {
	key   []byte
	until time.Time
}

// usable gives the data key that seals, if it may once more. late allows it
// beyond its time, for when no other can be had.
func (r *reusing) usable(late bool) (dataKey, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	age := r.limits.Now().Sub(r.made)
	limit := r.limits.For
	if late {
		limit += max(0, r.limits.Grace)
	}
	if r.sealing.key == nil || age >= limit || r.used >= r.limits.Records {
		return dataKey{}, false
	}
	r.used++
	return r.sealing, true
}

// instead gives what there is while the keyring rests: a data key beyond its
// time, or the keyring's refusal. Without either it may be asked.
func (r *reusing) instead() (dataKey, error) {
	r.mu.Lock()
	refused := r.refused
	if !r.limits.Now().Before(r.rests) {
		refused = nil
	}
	r.mu.Unlock()
	if refused == nil {
		return dataKey{}, nil
	}
	if d, ok := r.usable(true); ok {
		return d, nil
	}
	return dataKey{}, refused
}

func (r *reusing) fresh(ctx context.Context) (dataKey, error) {
	try := func() (dataKey, error) {
		if d, ok := r.usable(false); ok {
			return d, nil
		}
		return r.instead()
	}
	if d, err := try(); d.key != nil || err != nil {
		return d, err
	}
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return dataKey{}, errors.Public(ctx.Err())
	}
	if d, err := try(); d.key != nil || err != nil { // whoever had the turn knows
		return d, err
	}
	d, err := r.own.fresh(ctx)
	if errors.HasCode(err, errors.Unavailable) {
		r.mu.Lock()
		r.refused, r.rests = err, r.limits.Now().Add(restFor)
		r.mu.Unlock()
		return r.instead()
	}
	if err != nil {
		return dataKey{}, err
	}
	r.mu.Lock()
	r.sealing, r.made, r.used, r.refused = d, r.limits.Now(), 1, nil
	r.mu.Unlock()
	r.remember(d.id, d.wrapped, d.key) // what was just written is often read
	return d, nil
}

func memoKey(keyID string, wrapped []byte) [32]byte {
	return sha256.Sum256(append([]byte(keyID+"\x00"), wrapped...))
}

func (r *reusing) open(ctx context.Context, keyID string, wrapped []byte) ([]byte, error) {
	at := memoKey(keyID, wrapped)
	r.mu.Lock()
	r.expire()
	o, ok := r.opened[at]
	r.mu.Unlock()
	if ok {
		return o.key, nil
	}
	key, err := r.own.open(ctx, keyID, wrapped)
	if err == nil {
		r.remember(keyID, wrapped, key)
	}
	return key, err
}

func (r *reusing) remember(keyID string, wrapped, key []byte) {
	at := memoKey(keyID, wrapped)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire()
	if _, there := r.opened[at]; there {
		return
	}
	for len(r.order) >= r.limits.Opened {
		r.drop()
	}
	r.opened[at] = opened{key, r.limits.Now().Add(r.limits.For)}
	r.order = append(r.order, at)
}

// expire forgets what has had its time. The caller holds mu.
func (r *reusing) expire() {
	now := r.limits.Now()
	for len(r.order) > 0 && !now.Before(r.opened[r.order[0]].until) {
		r.drop()
	}
}

func (r *reusing) drop() {
	delete(r.opened, r.order[0])
	r.order = r.order[1:]
}
