package worker

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// away is why something cannot be done for now: what holds the keys does not
// answer, or the database does not. Neither machine nor agent are to blame, so
// a VM that needs it waits, and is not given up. What the database was asked
// for last may have been done all the same: whoever was not answered looks at
// the row again before anything is undone.
type away struct{ error }

func (a *away) Unwrap() error { return a.error }

func isAway(err error) bool {
	var a *away
	return errors.As(err, &a)
}

// marked marks the errors of what is away as such.
func marked(err error) error {
	if errors.HasCode(err, errors.Unavailable) && !isAway(err) {
		return &away{err}
	}
	return err
}

// sealer marks as such the errors of keys that are away.
type sealer struct{ seal.Sealer }

// Open implements seal.Sealer.
func (s sealer) Open(ctx context.Context, place string, sealed []byte) ([]byte, error) {
	plain, err := s.Sealer.Open(ctx, place, sealed)
	return plain, marked(err)
}

// store marks as such the errors of a database that is away.
type store struct{ storage.Store }

// View implements storage.Store.
func (s store) View(ctx context.Context, f func(storage.Tx) error) error {
	return marked(s.Store.View(ctx, f))
}

// Read implements storage.Store.
func (s store) Read(ctx context.Context, f func(storage.Tx) error) error {
	return marked(s.Store.Read(ctx, f))
}

// Update implements storage.Store.
func (s store) Update(ctx context.Context, f func(storage.Tx) error) error {
	return marked(s.Store.Update(ctx, f))
}

// Aside implements storage.Store.
func (s store) Aside(ctx context.Context, f func(storage.Tx) error) error {
	return marked(s.Store.Aside(ctx, f))
}
