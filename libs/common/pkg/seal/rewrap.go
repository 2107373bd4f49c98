package seal

import (
	"context"
	"crypto/rand"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// NewestKey names the key that a keyring wraps with now.
func NewestKey(ctx context.Context, ring Keyring) (string, error) {
	var probe [keyBytes]byte
	_, _ = rand.Read(probe[:])
	id, _, err := ring.Wrap(ctx, probe[:])
	return id, err
}

// maxRewrapped bounds what a Rewrapper remembers.
const maxRewrapped = 4096

// Rewrapper changes the key that records are under: the data key is wrapped
// anew, the record itself stays as it is. It is used by one goroutine.
type Rewrapper struct {
	ring   Keyring
	newest string
	done   map[string]dataKey // by ID and wrapped key: records may share one
}

// NewRewrapper makes a Rewrapper to the newest key of a keyring.
// Returns Unavailable while the keyring cannot be reached.
func NewRewrapper(ctx context.Context, ring Keyring) (*Rewrapper, error) {
	newest, err := NewestKey(ctx, ring)
	return &Rewrapper{ring: ring, newest: newest, done: map[string]dataKey{}}, err
}

// Newest names the key that records are brought under.
func (r *Rewrapper) Newest() string { return r.newest }

// Rewrap gives a record under the newest key; one that is already comes back
// as it is. Returns Internal for what is no record, was changed, or has a key
// that is not at hand, and Unavailable.
func (r *Rewrapper) Rewrap(ctx context.Context, sealed []byte) ([]byte, error) {
	id, wrapped, rest, ok := split(sealed)
	if !ok {
		return nil, damaged(nil)
	}
	if id == r.newest {
		return sealed, nil
	}
	memo := id + "\x00" + string(wrapped)
	d, known := r.done[memo]
	if !known {
		key, err := r.ring.Unwrap(ctx, id, wrapped)
		if err != nil {
			return nil, err
		}
		if d.id, d.wrapped, err = r.ring.Wrap(ctx, key); err != nil {
			return nil, err
		}
		if d.id != r.newest || len(d.wrapped) > maxWrapped {
			return nil, errors.New(errors.Conflict, "the newest key was changed meanwhile").WithHint("run it again")
		}
		if len(r.done) >= maxRewrapped {
			clear(r.done)
		}
		r.done[memo] = d
	}
	return append(head(d.id, d.wrapped, len(rest)), rest...), nil
}
