package access

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// MaxTokenTTL is the longest time that an access token is valid.
const MaxTokenTTL = time.Hour

const (
	// keepRetired is how long a retired key verifies what it has signed.
	keepRetired = MaxTokenTTL + time.Minute
	// reloadEvery is how often the store is looked at by who was not told of a change,
	// and for keys that somebody asks for who may have made them up.
	reloadEvery = 10 * time.Second
	maxSigning  = 16
	saveTries   = 3
)

// SigningKey signs access tokens.
type SigningKey struct {
	ID        string
	Private   ed25519.PrivateKey
	CreatedAt time.Time
	RetiredAt *time.Time // nil: it signs; else it verifies only, for a while
}

// storedKey is a signing key as it is kept, in what is sealed as a whole.
type storedKey struct {
	ID        string     `json:"id"`
	Seed      []byte     `json:"seed"`
	CreatedAt time.Time  `json:"created_at"`
	RetiredAt *time.Time `json:"retired_at,omitempty"`
}

// Signing keeps the keys that sign access tokens, sealed at rest. It is safe
// for concurrent use.
type Signing struct {
	deps   Deps
	rotate time.Duration

	lock    chan struct{} // held by who reads or writes the fields below
	keys    []SigningKey
	stored  string // as they were read last
	read    time.Time
	changed <-chan struct{} // closed when they may be others since
}

// NewSigning makes the keeper. A key older than rotateEvery is replaced when
// it is to sign; 0: never by itself.
func NewSigning(d Deps, rotateEvery time.Duration) *Signing {
	if d.Now == nil {
		d.Now = time.Now
	}
	return &Signing{deps: d, rotate: rotateEvery, lock: make(chan struct{}, 1)}
}

// Signer gives the key that signs now; the first is made when it is asked for.
func (s *Signing) Signer(ctx context.Context) (SigningKey, error) {
	if err := s.enter(ctx); err != nil {
		return SigningKey{}, err
	}
	defer s.leave()
	if err := s.reload(ctx, s.deps.Now().Add(-reloadEvery)); err != nil {
		return SigningKey{}, err
	}
	if k, ok := current(s.keys); ok && s.young(k.CreatedAt) {
		return k, nil
	}
	return s.mint(ctx, false)
}

func (s *Signing) young(made time.Time) bool {
	return s.rotate <= 0 || s.deps.Now().Sub(made) < s.rotate
}

// Verifier gives the key with an ID, unless it has been retired for longer
// than what it signed can be valid. Returns NotFound.
func (s *Signing) Verifier(ctx context.Context, id string) (SigningKey, error) {
	if err := s.enter(ctx); err != nil {
		return SigningKey{}, err
	}
	defer s.leave()
	for _, since := range []time.Duration{time.Minute, reloadEvery} { // what is known, then what is new
		if err := s.reload(ctx, s.deps.Now().Add(-since)); err != nil {
			return SigningKey{}, err
		}
		for _, k := range s.keys {
			if k.ID == id && !s.past(k.RetiredAt) {
				return k, nil
			}
		}
	}
	return SigningKey{}, errors.New(errors.NotFound, "there is no such signing key")
}

// Rotate makes another key sign from now on. The old ones verify until what
// they have signed has expired; with forget, no longer: every token ends.
func (s *Signing) Rotate(ctx context.Context, by vmm.Caller, forget bool) error {
	if err := by.AdminsOnly(); err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	if forget {
		if err := s.save(ctx, func([]storedKey) []storedKey { return nil }); err != nil {
			return err
		}
	}
	_, err := s.mint(ctx, true)
	return err
}

func (s *Signing) enter(ctx context.Context) error {
	select {
	case s.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errors.Public(ctx.Err())
	}
}

func (s *Signing) leave() { <-s.lock }

// past reports whether a key that was retired at a time has nothing left to verify.
func (s *Signing) past(retired *time.Time) bool {
	return retired != nil && s.deps.Now().Sub(*retired) > keepRetired
}

func current(keys []SigningKey) (SigningKey, bool) {
	for _, k := range keys {
		if k.RetiredAt == nil {
			return k, true
		}
	}
	return SigningKey{}, false
}

// mint makes another key the one that signs; unless it is forced, not where
// another process has just made one.
func (s *Signing) mint(ctx context.Context, force bool) (SigningKey, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return SigningKey{}, errors.Wrap(err, errors.Internal, "a signing key cannot be made")
	}
	now := s.deps.Now().UTC()
	fresh := storedKey{ID: string(domain.NewID()), Seed: private.Seed(), CreatedAt: now}
	err = s.save(ctx, func(keys []storedKey) []storedKey {
		if !force && slices.ContainsFunc(keys, func(k storedKey) bool { return k.RetiredAt == nil && s.young(k.CreatedAt) }) {
			return keys
		}
		kept := []storedKey{fresh}
		for _, k := range keys {
			if k.RetiredAt == nil {
				k.RetiredAt = &now
			}
			if !s.past(k.RetiredAt) && len(kept) < maxSigning {
				kept = append(kept, k)
			}
		}
		return kept
	})
	if err != nil {
		return SigningKey{}, err
	}
	k, ok := current(s.keys)
	if !ok {
		return k, errors.New(errors.Internal, "no key signs access tokens")
	}
	return k, nil
}

// save changes the stored keys, and remembers them as they are then. Sealing
// may be a call to a service, which no transaction waits for.
func (s *Signing) save(ctx context.Context, change func([]storedKey) []storedKey) error {
	for range saveTries {
		was, err := s.look(ctx)
		if err != nil {
			return err
		}
		keys, err := s.open(ctx, was)
		if err != nil {
			return err
		}
		keys = change(keys)
		is, err := s.seal(ctx, keys)
		if err != nil {
			return err
		}
		swapped := false
		err = s.deps.Store.Update(ctx, func(tx storage.Tx) error {
			now, err := readSetting(ctx, tx)
			if err != nil || now != was {
				return err
			}
			swapped = true
			return tx.Settings().Set(ctx, storage.SettingTokenKeys, is)
		})
		if err != nil {
			s.read = time.Time{} // what is stored now is not known
			return err
		}
		if swapped {
			return s.keep(is, keys)
		}
	}
	return errors.New(errors.Conflict, "the signing keys are being changed by others").WithRetryAfter(time.Second)
}

// reload reads the stored keys unless that was done after a time, and nobody is
// known to have changed them since.
func (s *Signing) reload(ctx context.Context, after time.Time) error {
	select {
	case <-s.changed:
	default:
		if s.read.After(after) {
			return nil
		}
	}
	changed := s.deps.Store.KeysChanged() // before they are read, so that no change is missed
	stored, err := s.look(ctx)
	if err != nil {
		return err
	}
	if stored == s.stored && !s.read.IsZero() {
		s.read = s.deps.Now()
	} else if keys, err := s.open(ctx, stored); err != nil {
		return err
	} else if err := s.keep(stored, keys); err != nil {
		return err
	}
	s.changed = changed
	return nil
}

// keep remembers keys as they are stored.
func (s *Signing) keep(stored string, opened []storedKey) error {
	keys := make([]SigningKey, 0, len(opened))
	for _, k := range opened {
		if len(k.Seed) != ed25519.SeedSize {
			return errors.New(errors.Internal, "a signing key is damaged")
		}
		keys = append(keys, SigningKey{ID: k.ID, Private: ed25519.NewKeyFromSeed(k.Seed), CreatedAt: k.CreatedAt, RetiredAt: k.RetiredAt})
	}
	s.keys, s.stored, s.read = keys, stored, s.deps.Now()
	return nil
}

func (s *Signing) seal(ctx context.Context, keys []storedKey) (string, error) {
	text, err := json.Marshal(keys)
	if err != nil {
		return "", errors.Wrap(err, errors.Internal, "the signing keys cannot be written")
	}
	sealed, err := s.deps.Sealer.Seal(ctx, storage.SealedSetting(storage.SettingTokenKeys), text)
	return base64.StdEncoding.EncodeToString(sealed), err
}

// look gives the keys as they are stored; empty: there are none.
func (s *Signing) look(ctx context.Context) (stored string, err error) {
	err = s.deps.Store.View(ctx, func(tx storage.Tx) (err error) {
		stored, err = readSetting(ctx, tx)
		return err
	})
	return stored, err
}

// open gives the keys that are stored so.
func (s *Signing) open(ctx context.Context, stored string) (keys []storedKey, err error) {
	if stored == "" {
		return nil, nil
	}
	sealed, err := base64.StdEncoding.DecodeString(stored)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the stored signing keys are damaged")
	}
	text, err := s.deps.Sealer.Open(ctx, storage.SealedSetting(storage.SettingTokenKeys), sealed)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &keys); err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the stored signing keys are damaged")
	}
	return keys, nil
}

// readSetting gives what is stored; empty when nothing is.
func readSetting(ctx context.Context, tx storage.Tx) (string, error) {
	text, err := tx.Settings().Get(ctx, storage.SettingTokenKeys)
	if errors.HasCode(err, errors.NotFound) {
		return "", nil
	}
	return text, err
}
