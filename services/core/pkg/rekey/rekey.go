// Package rekey changes the key that a store's sealed values are under, and
// tells which keys are in use. The values themselves are neither opened nor
// changed: their data keys are wrapped anew.
//
// Whoever calls Rewrap sees to it that nobody else uses the store meanwhile: a
// server keeps rows in memory, and would write one back as it was.
package rekey

import (
	"context"
	"maps"
	"slices"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// batch is how many values are in one transaction. A value has a few KiB at
// most times, and is bounded at a few MiB.
const batch = 64

// Usage is which keys a store's sealed values are under.
type Usage struct {
	byKey   map[string]map[string]int // and column
	Damaged map[string]int            // values that are no sealed records, by column
}

// Keys lists the keys in use, sorted.
func (u *Usage) Keys() []string { return slices.Sorted(maps.Keys(u.byKey)) }

// Columns tells how many values of each column are under a key.
func (u *Usage) Columns(key string) map[string]int { return maps.Clone(u.byKey[key]) }

// Count tells how many values are under a key.
func (u *Usage) Count(key string) (n int) {
	for _, c := range u.byKey[key] {
		n += c
	}
	return n
}

// Survey looks at every sealed value of a store.
func Survey(ctx context.Context, store storage.Store) (*Usage, error) {
	u := &Usage{byKey: map[string]map[string]int{}, Damaged: map[string]int{}}
	err := walk(ctx, store, func(column string, values []storage.SealedValue) error {
		for _, v := range values {
			id, ok := seal.KeyID(v.Sealed)
			if !ok {
				u.Damaged[column]++
				continue
			}
			if u.byKey[id] == nil {
				u.byKey[id] = map[string]int{}
			}
			u.byKey[id][column]++
		}
		return nil
	})
	return u, err
}

// walk hands over every sealed value, batch by batch.
func walk(ctx context.Context, store storage.Store, each func(column string, values []storage.SealedValue) error) error {
	var columns []string
	if err := store.View(ctx, func(tx storage.Tx) error {
		columns = tx.Sealed().Columns()
		return nil
	}); err != nil {
		return err
	}
	for _, column := range columns {
		for after := ""; ; {
			var values []storage.SealedValue
			if err := store.View(ctx, func(tx storage.Tx) (err error) {
				values, err = tx.Sealed().Page(ctx, column, after, batch)
				return err
			}); err != nil {
				return err
			}
			if len(values) == 0 {
				break
			}
			if err := each(column, values); err != nil {
				return err
			}
			after = values[len(values)-1].Row
		}
	}
	return nil
}

// Result is what Rewrap did.
type Result struct {
	Newest string // the key that values are under now
	Done   int    // values that were brought under it
	Failed int    // values that could not be: damaged, or their key is not at hand
}

// Rewrap brings every sealed value under the keyring's newest key, some at a
// time, each time durably: what was done by one that was killed is found done
// by the next. progress, if set, is called after each step. Values that cannot
// be rewrapped are left as they are and counted.
// Returns Unavailable while the keyring cannot be reached.
func Rewrap(ctx context.Context, store storage.Store, ring seal.Keyring, progress func(Result)) (Result, error) {
	r, err := seal.NewRewrapper(ctx, ring)
	if err != nil {
		return Result{}, err
	}
	res := Result{Newest: r.Newest()}
	err = walk(ctx, store, func(column string, values []storage.SealedValue) error {
		type change struct {
			storage.SealedValue
			is []byte
		}
		var changes []change
		for _, v := range values {
			if id, _ := seal.KeyID(v.Sealed); id == res.Newest {
				continue
			}
			is, err := r.Rewrap(ctx, v.Sealed)
			switch {
			case errors.HasCode(err, errors.Internal):
				res.Failed++
			case err != nil:
				return err
			default:
				changes = append(changes, change{v, is})
			}
		}
		if len(changes) == 0 {
			return nil
		}
		err := store.Update(ctx, func(tx storage.Tx) error {
			for _, c := range changes {
				ok, err := tx.Sealed().Replace(ctx, column, c.Row, c.Sealed, c.is)
				if err != nil {
					return err
				}
				if !ok {
					return errors.New(errors.Conflict, "somebody else writes to the store").WithHint("stop the server first")
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		res.Done += len(changes)
		if progress != nil {
			progress(res)
		}
		return nil
	})
	return res, err
}
