package seal

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Source is a keyring that knows its own keys by their IDs.
type Source interface {
	Keyring
	// Owns reports whether a key can only be this source's.
	Owns(keyID string) bool
}

type joined []Source

// Join makes one keyring of several: the newest wraps, each unwraps what its
// own keys have wrapped. So an installation moves from one source to another.
func Join(newest Source, older ...Source) Source {
	if len(older) == 0 {
		return newest
	}
	return append(joined{newest}, older...)
}

// Wrap implements Keyring.
func (j joined) Wrap(ctx context.Context, dataKey []byte) (string, []byte, error) {
	return j[0].Wrap(ctx, dataKey)
}

// Unwrap implements Keyring.
func (j joined) Unwrap(ctx context.Context, keyID string, wrapped []byte) ([]byte, error) {
	for _, s := range j {
		if s.Owns(keyID) {
			return s.Unwrap(ctx, keyID, wrapped)
		}
	}
	return nil, notAtHand(keyID)
}

// Owns implements Source.
func (j joined) Owns(keyID string) bool {
	for _, s := range j {
		if s.Owns(keyID) {
			return true
		}
	}
	return false
}

func notAtHand(keyID string) error {
	return errors.New(errors.Internal, "a record is sealed with the key %q, which is not at hand", keyID).
		WithHint("give the installation the key it was made with")
}
