package fleet

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	// DefaultTokenTTL is how long a join token counts that names no time.
	DefaultTokenTTL = time.Hour
	// MinTokenTTL and MaxTokenTTL bound how long one may count.
	MinTokenTTL = time.Minute
	MaxTokenTTL = 24 * time.Hour

	// keepTokens is how long one is listed after its end, for who asks who joined by it.
	keepTokens = 30 * 24 * time.Hour
)

// Deps is what the service is made over. All are needed unless said otherwise.
type Deps struct {
	Store     storage.Store
	Authority *Authority
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Service is the use cases.
type Service struct{ Deps }

// New makes the service.
func New(d Deps) *Service {
	if d.Now == nil {
		d.Now = time.Now
	}
	return &Service{d}
}

// time is now as the store keeps it.
func (s *Service) time() time.Time { return s.Now().UTC().Truncate(time.Microsecond) }

// NewToken is a join token with its text, which is told this once.
type NewToken struct {
	Token *domain.JoinToken
	Text  string
}

// CreateToken makes a token by which one worker can join, for administrators.
// ttl is how long it counts; 0: DefaultTokenTTL. Returns InvalidArgument.
func (s *Service) CreateToken(ctx context.Context, by vmm.Caller, ttl time.Duration) (NewToken, error) {
	if err := by.AdminsOnly(); err != nil {
		return NewToken{}, err
	}
	if ttl == 0 {
		ttl = DefaultTokenTTL
	}
	if ttl < MinTokenTTL || ttl > MaxTokenTTL {
		return NewToken{}, errors.New(errors.InvalidArgument, "a join token counts for %s to %s", MinTokenTTL, MaxTokenTTL).WithField("ttl_ms")
	}
	t, err := newToken(s.Authority.Hash())
	if err != nil {
		return NewToken{}, err
	}
	now := s.time()
	row := &domain.JoinToken{ID: domain.NewID(), Hash: hashOf(t), CreatedBy: by.Name, CreatedAt: now, ExpiresAt: now.Add(ttl)}
	err = s.Store.Update(ctx, func(tx storage.Tx) error {
		if _, err := tx.JoinTokens().DeleteExpired(ctx, now.Add(-keepTokens), storage.MaxPage); err != nil {
			return err
		}
		return tx.JoinTokens().Insert(ctx, row)
	})
	if err != nil {
		return NewToken{}, err
	}
	return NewToken{Token: row, Text: t.text()}, nil
}

// ListTokens lists join tokens, those that were used or have expired as well, for
// administrators. Returns InvalidArgument for a bad cursor.
func (s *Service) ListTokens(ctx context.Context, by vmm.Caller, p vmm.Page) (vmm.List[*domain.JoinToken], error) {
	var list vmm.List[*domain.JoinToken]
	if err := by.AdminsOnly(); err != nil {
		return list, err
	}
	err := s.Store.View(ctx, func(tx storage.Tx) (err error) {
		list, err = tx.JoinTokens().List(ctx, p)
		return err
	})
	return list, err
}

// RevokeToken makes a join token count no longer, and forgets it; a worker that
// has joined by it stays. For administrators. Returns NotFound.
func (s *Service) RevokeToken(ctx context.Context, by vmm.Caller, id domain.ID) error {
	if err := by.AdminsOnly(); err != nil {
		return err
	}
	return s.Store.Update(ctx, func(tx storage.Tx) error { return tx.JoinTokens().Delete(ctx, id) })
}
