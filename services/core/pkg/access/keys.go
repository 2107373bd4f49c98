package access

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	// MaxOverlap is how long a rotated key's old secret may go on counting.
	MaxOverlap = 7 * 24 * time.Hour
	// MaxKeyTTL is the longest time for which a key can be made that ends at all.
	MaxKeyTTL = 10 * 365 * 24 * time.Hour
	// MaxKeys bounds the keys of a project that are in force.
	MaxKeys = 1000
)

// CreateKey is what a new key shall be.
type CreateKey struct {
	Name   string
	Scopes domain.Scopes // none: run
	// ExpiresAt is when it ends; nil: when its maker's does, else never.
	ExpiresAt *time.Time
	// E2B makes a key of the form that E2B's clients want.
	E2B bool
	// User is whose it shall be, by ID or name; empty: the maker's, or nobody's
	// where a key makes it that is nobody's.
	User string
}

// NewKey is a key with its text, which is told this once.
type NewKey struct {
	Key  *domain.APIKey
	Text string
}

// CreateKey makes a key in the caller's project. Returns InvalidArgument,
// PermissionDenied for what the caller lacks, Conflict when there are too many.
func (s *Service) CreateKey(ctx context.Context, by vmm.Caller, req CreateKey) (NewKey, error) {
	k, err := s.plan(by, req)
	if err != nil {
		return NewKey{}, err
	}
	prefix := KeyPrefix
	if req.E2B {
		prefix = KeyPrefixE2B
	}
	text, hash := MintKey(prefix)
	k.Prefix, k.Hash = Shown(text), hash
	err = s.Store.Update(ctx, func(tx storage.Tx) error {
		if n, err := tx.Keys().Count(ctx, by.ProjectID, k.CreatedAt); err != nil {
			return err
		} else if n >= MaxKeys {
			return errors.New(errors.Conflict, "the project has %d keys, and no more are allowed", n).WithHint("revoke those that are not used")
		}
		if err := lastNoLonger(ctx, tx, by, k); err != nil {
			return err
		}
		if err := ownedBy(ctx, tx, by, req.User, k); err != nil {
			return err
		}
		return tx.Keys().Insert(ctx, k)
	})
	if err != nil {
		return NewKey{}, err
	}
	return NewKey{Key: k, Text: text}, nil
}

// plan checks what can be checked without looking.
func (s *Service) plan(by vmm.Caller, req CreateKey) (*domain.APIKey, error) {
	now := s.time()
	if req.Name == "" {
		return nil, errors.New(errors.InvalidArgument, "a key needs a name").WithField("name").WithHint("such as who or what will use it")
	}
	if err := domain.ValidateName("name", req.Name); err != nil {
		return nil, err
	}
	if err := req.Scopes.Validate("scopes"); err != nil {
		return nil, err
	}
	if len(req.Scopes) == 0 {
		req.Scopes = domain.Scopes{domain.ScopeRun}
	}
	if err := noWider(by, req.Scopes.Widest(), "the key"); err != nil {
		return nil, errors.Public(err).WithField("scopes")
	}
	k := &domain.APIKey{
		ID: domain.NewID(), ProjectID: by.ProjectID, Name: req.Name, Scopes: domain.Scopes{req.Scopes.Widest()}, CreatedBy: by.Name, CreatedAt: now,
	}
	if req.ExpiresAt != nil {
		at := req.ExpiresAt.UTC().Truncate(time.Microsecond)
		if !at.After(now) || at.Sub(now) > MaxKeyTTL {
			return nil, errors.New(errors.InvalidArgument, "the key would end at %s", at.Format(time.RFC3339)).WithField("expires_at").
				WithHint("a time to come, in ten years at most")
		}
		k.ExpiresAt = &at
	}
	return k, nil
}

// lastNoLonger keeps a key from outliving the one that makes it.
func lastNoLonger(ctx context.Context, tx storage.Tx, by vmm.Caller, k *domain.APIKey) error {
	if by.KeyID == "" {
		return nil
	}
	maker, err := tx.Keys().Get(ctx, storage.System, by.KeyID)
	if errors.HasCode(err, errors.NotFound) || err == nil && maker.RevokedAt != nil {
		return errors.New(errors.PermissionDenied, "the key that makes it is no longer valid")
	}
	if err != nil || maker.ExpiresAt == nil {
		return err
	}
	switch {
	case k.ExpiresAt == nil:
		k.ExpiresAt = maker.ExpiresAt
	case k.ExpiresAt.After(*maker.ExpiresAt):
		return errors.New(errors.PermissionDenied, "the key would outlive the one that makes it").WithField("expires_at").
			WithHint("at %s at the latest", maker.ExpiresAt.Format(time.RFC3339))
	}
	return nil
}

// ownedBy gives a key to a user, who must have what it gives.
func ownedBy(ctx context.Context, tx storage.Tx, by vmm.Caller, user string, k *domain.APIKey) error {
	k.UserID = by.UserID
	if user != "" {
		u, err := findUser(ctx, tx, user)
		if err != nil || u.ID != by.UserID {
			// Before anything is told of who is there.
			if denied := by.AdminsOnly(); denied != nil {
				return denied
			}
		}
		if err != nil {
			return err
		}
		k.UserID = u.ID
	}
	if k.UserID == "" {
		return nil
	}
	u, err := tx.Users().Get(ctx, k.UserID)
	if err != nil {
		return err
	}
	widest, err := reach(ctx, tx, u, k.ProjectID)
	if errors.HasCode(err, errors.NotFound) {
		return errors.New(errors.PermissionDenied, "the user %s is disabled or no member of the project", u.Name).WithField("user")
	}
	if err == nil && !widest.Includes(k.Scopes.Widest()) {
		return errors.New(errors.PermissionDenied, "the user %s has the scope %s here, which is less than the key's", u.Name, widest).WithField("scopes")
	}
	return err
}

// GetKey returns NotFound.
func (s *Service) GetKey(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.APIKey, error) {
	var k *domain.APIKey
	err := s.Store.View(ctx, func(tx storage.Tx) (err error) {
		k, err = tx.Keys().Get(ctx, by.ProjectID, id)
		return err
	})
	return k, err
}

// ListKeys lists the keys of the caller's project, those included that are no
// longer in force.
func (s *Service) ListKeys(ctx context.Context, by vmm.Caller, p vmm.Page) (vmm.List[*domain.APIKey], error) {
	var list vmm.List[*domain.APIKey]
	err := s.Store.View(ctx, func(tx storage.Tx) (err error) {
		list, err = tx.Keys().List(ctx, by.ProjectID, p)
		return err
	})
	return list, err
}

// RotateKey gives a key another secret. The old one counts for an overlap
// still; at 0 it ends at once, with whatever it has opened. Returns NotFound,
// Conflict for a key that is no longer in force, InvalidArgument,
// PermissionDenied for a key with more than the caller has, or of another user.
func (s *Service) RotateKey(ctx context.Context, by vmm.Caller, id domain.ID, overlap time.Duration) (NewKey, error) {
	if overlap < 0 || overlap > MaxOverlap {
		return NewKey{}, errors.New(errors.InvalidArgument, "an overlap of %s is out of range", overlap).WithField("overlap_ms").
			WithHint("from 0 to %d hours", int(MaxOverlap.Hours()))
	}
	var out NewKey
	err := s.Store.Update(ctx, func(tx storage.Tx) error {
		k, err := tx.Keys().Get(ctx, by.ProjectID, id)
		if err != nil {
			return err
		}
		now := s.time()
		if !k.Usable(now) {
			return errors.New(errors.Conflict, "the key is expired or revoked").WithHint("make a new one")
		}
		if err := mayReplace(by, k); err != nil {
			return err
		}
		text, hash := MintKey(prefixOr(k.Prefix))
		var until *time.Time
		if overlap > 0 {
			at := now.Add(overlap)
			until = &at
		}
		if err := tx.Keys().Rotate(ctx, by.ProjectID, id, storage.KeySecret{Prefix: Shown(text), Hash: hash, At: now}, until); err != nil {
			return err
		}
		k, err = tx.Keys().Get(ctx, by.ProjectID, id)
		out = NewKey{Key: k, Text: text}
		return err
	})
	return out, err
}

func prefixOr(shown string) string {
	if p := prefixOf(shown); p != "" {
		return p
	}
	return KeyPrefix
}

// mayReplace keeps callers from getting a secret that gives more than they
// have, or speaks for somebody else.
func mayReplace(by vmm.Caller, k *domain.APIKey) error {
	if err := noWider(by, k.Allowed().Widest(), "the key"); err != nil {
		return err
	}
	if k.UserID != "" && k.UserID != by.UserID && !by.Admin {
		return errors.New(errors.PermissionDenied, "the key is another user's").WithHint("revoke it, or let its user rotate it")
	}
	return nil
}

// RevokeKey ends a key at once and for good, with whatever it has opened;
// revoking it again is success. Returns NotFound, PermissionDenied for a key
// with more than the caller has; its own key everybody may end.
func (s *Service) RevokeKey(ctx context.Context, by vmm.Caller, id domain.ID) error {
	return s.Store.Update(ctx, func(tx storage.Tx) error {
		k, err := tx.Keys().Get(ctx, by.ProjectID, id)
		if err != nil {
			return err
		}
		if id != by.KeyID {
			if err := noWider(by, k.Allowed().Widest(), "the key"); err != nil {
				return err
			}
		}
		return tx.Keys().Revoke(ctx, by.ProjectID, id, s.time())
	})
}
