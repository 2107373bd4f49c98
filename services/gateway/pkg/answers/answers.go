// Package answers remembers what requests with an idempotency key were answered,
// in the store that gateways share: whichever of them is asked again, and after a
// restart, gives the same answer.
package answers

import (
	"context"
	"encoding/json"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/gateway/pkg/api"
)

// A claim is a lease: after its gateway was killed the key is free again.
const (
	leaseTime  = 30 * time.Second // with room for clocks that differ
	renewEvery = 10 * time.Second
)

// Store is an [api.IdempotencyStore]. Answers are sealed: a link to a port, for
// one, is a secret.
type Store struct {
	store  storage.Store
	sealer seal.Sealer
	now    func() time.Time
}

// New makes a Store. now is the clock; nil is time.Now.
func New(store storage.Store, sealer seal.Sealer, now func() time.Time) *Store {
	if now == nil {
		now = time.Now
	}
	return &Store{store: store, sealer: sealer, now: now}
}

// Forget ends the claims of all processes: for one that is the only one, and was
// started anew.
func (s *Store) Forget(ctx context.Context) error {
	return s.store.Update(ctx, func(tx storage.Tx) error { return tx.Answers().ReleaseAll(ctx) })
}

// Begin implements [api.IdempotencyStore].
func (s *Store) Begin(ctx context.Context, project domain.ID, key, digest string) (*api.StoredResponse, api.Claim, error) {
	now := s.now().UTC().Truncate(time.Microsecond)
	mine := &storage.Answer{
		ID: storage.AnswerID(key), ProjectID: project, RequestDigest: digest,
		CreatedAt: now, ExpiresAt: now.Add(leaseTime),
	}
	var known *storage.Answer
	err := s.store.Update(ctx, func(tx storage.Tx) (err error) {
		known, err = tx.Answers().Get(ctx, project, mine.ID, now)
		if errors.HasCode(err, errors.NotFound) {
			known = nil
			return tx.Answers().Insert(ctx, mine)
		}
		return err
	})
	switch {
	case err != nil:
		return nil, nil, err
	case known == nil:
		return nil, s.hold(mine), nil
	case known.RequestDigest != digest:
		return nil, nil, errors.New(errors.IdempotencyMismatch, "this Idempotency-Key was used for another request").
			WithHint("use a new key for a new request")
	case known.AnswerSealed == nil:
		return nil, nil, nil
	}
	text, err := s.sealer.Open(ctx, storage.SealedAnswer(project, known.ID), known.AnswerSealed)
	if err != nil {
		return nil, nil, err
	}
	stored := new(api.StoredResponse)
	if err := json.Unmarshal(text, stored); err != nil {
		return nil, nil, errors.Wrap(err, errors.Internal, "a kept answer is not readable")
	}
	return stored, nil, nil
}

// claim is a key while its request is answered.
type claim struct {
	store *Store
	row   *storage.Answer
	end   context.CancelFunc
	ended chan struct{} // it is not renewed any longer
}

// hold renews a claim until it is finished.
func (s *Store) hold(row *storage.Answer) *claim {
	ctx, end := context.WithCancel(context.Background())
	c := &claim{store: s, row: row, end: end, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		tick := time.NewTicker(renewEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			_ = s.store.Update(ctx, func(tx storage.Tx) error { // there is another chance
				return tx.Answers().Renew(ctx, row.ProjectID, row.ID, row.CreatedAt, s.now().Add(leaseTime))
			})
		}
	}()
	return c
}

// Finish implements [api.Claim].
func (c *claim) Finish(ctx context.Context, response *api.StoredResponse) error {
	s, row := c.store, c.row
	c.end()
	<-c.ended
	if response == nil {
		return s.store.Update(ctx, func(tx storage.Tx) error {
			return tx.Answers().Release(ctx, row.ProjectID, row.ID, row.CreatedAt)
		})
	}
	text, err := json.Marshal(response)
	if err != nil {
		return err
	}
	sealed, err := s.sealer.Seal(ctx, storage.SealedAnswer(row.ProjectID, row.ID), text)
	if err != nil {
		return err
	}
	return s.store.Update(ctx, func(tx storage.Tx) error {
		return tx.Answers().Complete(ctx, row.ProjectID, row.ID, row.CreatedAt, sealed, s.now().Add(api.IdempotencyTTL))
	})
}
