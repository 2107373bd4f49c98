package worker

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
)

// keysAway is why something cannot be opened for now: what holds the keys does
// not answer. Neither machine nor agent are to blame, so a VM that needs it
// waits, and is not given up.
type keysAway struct{ error }

func (k *keysAway) Unwrap() error { return k.error }

func isKeysAway(err error) bool {
	var away *keysAway
	return errors.As(err, &away)
}

// sealer marks as such the errors of keys that are away.
type sealer struct{ seal.Sealer }

// Open implements seal.Sealer.
func (s sealer) Open(ctx context.Context, place string, sealed []byte) ([]byte, error) {
	plain, err := s.Sealer.Open(ctx, place, sealed)
	if errors.HasCode(err, errors.Unavailable) {
		err = &keysAway{err}
	}
	return plain, err
}
