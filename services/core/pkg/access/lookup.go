package access

import (
	"context"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// maxKnown bounds what is remembered.
const maxKnown = 4096

// Lookup finds what credentials give. Every request asks, so what was found is
// remembered until anything about keys, users, memberships or projects changes.
type Lookup struct {
	store storage.Store
	now   func() time.Time

	mu      sync.Mutex
	version uint64 // of the store's keys, of which known are
	known   map[any]any
}

// NewLookup makes a Lookup over a store. now is the clock; nil is time.Now.
func NewLookup(s storage.Store, now func() time.Time) *Lookup {
	if now == nil {
		now = time.Now
	}
	return &Lookup{store: s, now: now}
}

// What is remembered, by what it is asked for.
type (
	byHash    Hash
	byKey     domain.ID
	byUser    struct{ user, project domain.ID }
	byProject string
)

// LookupKey finds a key by the hash of its secret, or of the one before. Its
// scopes are those it gives now. Returns NotFound also for the keys of users
// who are disabled or have left its project. Where it is not remembered, what the
// request is about ([vmm.Ahead]) is read along with it.
func (l *Lookup) LookupKey(ctx context.Context, hash Hash) (domain.APIKey, error) {
	return remembered(l, byHash(hash), func() (domain.APIKey, error) {
		ahead := vmm.AheadOf(ctx)
		if vm, execution, ok := ahead.Begin(); ok {
			key, err := l.key(ctx, func(tx storage.Tx) (storage.HeldKey, error) {
				held, row, used, err := tx.Keys().HeldWithVM(ctx, hash, vm, execution)
				if err == nil {
					ahead.Found(row, used)
				}
				return held, err
			})
			// What keeps the VM from being read is told by who needs it.
			if err == nil || ctx.Err() != nil || errors.HasCode(err, errors.Unavailable) {
				return key, err
			}
		}
		return l.key(ctx, func(tx storage.Tx) (storage.HeldKey, error) { return tx.Keys().HeldByHash(ctx, hash) })
	})
}

// LookupKeyID is LookupKey by the key's ID.
func (l *Lookup) LookupKeyID(ctx context.Context, id domain.ID) (domain.APIKey, error) {
	return remembered(l, byKey(id), func() (domain.APIKey, error) {
		return l.key(ctx, func(tx storage.Tx) (storage.HeldKey, error) { return tx.Keys().Held(ctx, id) })
	})
}

func (l *Lookup) key(ctx context.Context, find func(storage.Tx) (storage.HeldKey, error)) (out domain.APIKey, err error) {
	err = l.store.Read(ctx, func(tx storage.Tx) error {
		k, err := find(tx)
		if err != nil {
			return err
		}
		out = *k.APIKey
		out.Scopes = k.Allowed()
		if k.UserID == "" {
			return nil
		}
		if k.User == nil {
			return errors.New(errors.NotFound, "the user %s does not exist", k.UserID)
		}
		widest, err := within(k.User, func() (domain.Role, error) {
			if k.Role == "" {
				return "", errors.New(errors.NotFound, "the user has left the project")
			}
			return k.Role, nil
		})
		if err != nil {
			return err
		}
		out.Scopes = out.Scopes.Within(widest)
		return nil
	})
	return out, err
}

// reach is the widest scope that a user has in a project. Returns NotFound for
// users who are disabled or no members.
func reach(ctx context.Context, tx storage.Tx, u *domain.User, project domain.ID) (domain.Scope, error) {
	return within(u, func() (domain.Role, error) {
		m, err := tx.Members().Get(ctx, project, u.ID)
		if err != nil {
			return "", err
		}
		return m.Role, nil
	})
}

// within is the widest scope of a user whose role in a project is to be had.
func within(u *domain.User, role func() (domain.Role, error)) (domain.Scope, error) {
	if u.DisabledAt != nil {
		return "", errors.New(errors.NotFound, "the user is disabled")
	}
	if u.Admin {
		return domain.ScopeAdmin, nil
	}
	r, err := role()
	return r.Scope(), err
}

// LookupUser gives a user as a caller in a project; without one, in the
// project that the user has been in for longest, for administrators the first.
// Returns NotFound for users who are absent or disabled, or not in the
// project, PermissionDenied for those who are in none.
func (l *Lookup) LookupUser(ctx context.Context, user, project domain.ID) (vmm.Caller, error) {
	return remembered(l, byUser{user, project}, func() (by vmm.Caller, err error) {
		err = l.store.View(ctx, func(tx storage.Tx) error {
			u, err := tx.Users().Get(ctx, user)
			if err != nil {
				return err
			}
			if project == "" && u.DisabledAt == nil {
				if project, err = home(ctx, tx, u); err != nil {
					return err
				}
			}
			if _, err := tx.Projects().Get(ctx, project); err != nil {
				return err
			}
			widest, err := reach(ctx, tx, u, project)
			if err != nil {
				return err
			}
			by = vmm.Caller{ProjectID: project, Name: u.Name, UserID: u.ID}
			by.Scopes = domain.Scopes{widest}
			by.Admin = by.Scopes.Allows(domain.ScopeAdmin)
			return nil
		})
		return by, err
	})
}

// home is the project that a user works in without naming one.
func home(ctx context.Context, tx storage.Tx, u *domain.User) (domain.ID, error) {
	list, err := tx.Members().OfUser(ctx, u.ID)
	switch {
	case err != nil:
		return "", err
	case len(list) > 0:
		return list[0].ProjectID, nil
	case !u.Admin:
		return "", errors.New(errors.PermissionDenied, "the user %s is a member of no project", u.Name).WithHint("an administrator or a project's maintainer adds members")
	}
	p, err := tx.Projects().First(ctx)
	if err != nil {
		return "", err
	}
	return p.ID, nil
}

// EnterProject gives a caller in another project, by its ID or name:
// administrators in every one, users in theirs, with what they have there. For
// everybody else a project that is not theirs is NotFound, exactly as one that
// does not exist.
func (l *Lookup) EnterProject(ctx context.Context, by vmm.Caller, nameOrID string) (vmm.Caller, error) {
	if nameOrID == by.ProjectID.String() {
		return by, nil
	}
	absent := errors.New(errors.NotFound, "there is no project %q", clip(nameOrID)).WithField("header.X-Aetherium-Project")
	id, err := remembered(l, byProject(nameOrID), func() (id domain.ID, err error) {
		err = l.store.View(ctx, func(tx storage.Tx) error {
			p, err := findProject(ctx, tx, nameOrID)
			if err == nil {
				id = p.ID
			}
			return err
		})
		return id, err
	})
	switch {
	case errors.HasCode(err, errors.NotFound), errors.HasCode(err, errors.InvalidArgument):
		return vmm.Caller{}, absent
	case err != nil:
		return vmm.Caller{}, err
	case id == by.ProjectID:
		return by, nil
	case by.Admin:
		by.ProjectID = id
		return by, nil
	case by.UserID == "" || by.KeyID != "" || by.TokenID != "": // keys and tokens are for one project
		return vmm.Caller{}, absent
	}
	there, err := l.LookupUser(ctx, by.UserID, id)
	if errors.HasCode(err, errors.NotFound) {
		return vmm.Caller{}, absent
	}
	there.Until = by.Until
	return there, err
}

// TouchKeys records when keys were last used.
func (l *Lookup) TouchKeys(ctx context.Context, lastUsed map[domain.ID]time.Time) error {
	return l.store.Update(ctx, func(tx storage.Tx) error {
		for id, at := range lastUsed {
			if err := tx.Keys().Used(ctx, id, at.UTC().Truncate(time.Microsecond)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Changed gives a channel that is closed when what credentials give may have
// changed after the call, by whichever process.
func (l *Lookup) Changed() <-chan struct{} { return l.store.KeysChanged() }

// remembered gives what is known of a thing, or finds it out.
func remembered[K comparable, V any](l *Lookup, key K, find func() (V, error)) (V, error) {
	version := l.store.KeysVersion()
	if v, ok := l.recall(version, key); ok {
		return v.(V), nil
	}
	v, err := find()
	if err == nil {
		l.remember(version, key, v)
	}
	return v, err
}

func (l *Lookup) recall(version uint64, key any) (any, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if version == 0 || l.version != version {
		return nil, false
	}
	v, ok := l.known[key]
	return v, ok
}

// remember keeps what was read when the keys had a version or a later one. An
// older one's is of no use to anybody.
func (l *Lookup) remember(version uint64, key, v any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case version == 0 || version < l.version:
		return
	case version > l.version, len(l.known) >= maxKnown:
		l.version, l.known = version, map[any]any{}
	}
	l.known[key] = v
}

func clip(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
