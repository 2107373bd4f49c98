package installation

import (
	"context"
	"encoding/base64"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/common/pkg/seal/kms"
	"github.com/aetherium/aetherium/services/core/pkg/settings"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// Keyring is the installation's keys, from where they are. The first of key
// management service, given keys and key file wraps; those behind it open what
// they have wrapped, so that an installation can move from one to another.
type Keyring struct {
	seal.Source
	Remote *kms.Ring  // nil: there is none
	Given  *seal.Keys // by the settings or the environment; nil: none
	Filed  *seal.Keys // in the key file; nil: there is none
}

// OpenKeyring makes a key file where there is none and none is elsewhere, if
// fresh says that nothing was ever sealed. Returns NotFound, InvalidArgument.
func OpenKeyring(s settings.Common, fresh bool) (*Keyring, error) {
	k := new(Keyring)
	var sources []seal.Source
	if c := s.Seal.KMS; c.URL != "" || len(c.Command) > 0 {
		var err error
		if k.Remote, err = kms.Open(kms.Config{
			URL: c.URL, Command: c.Command, Env: othersEnviron(os.Environ()), TokenFile: c.TokenFile, CAFile: c.CAFile, Timeout: time.Duration(c.Timeout),
		}); err != nil {
			return nil, kmsField(err)
		}
		sources = append(sources, k.Remote)
	}
	if text := s.Seal.Keys.Reveal(); text != "" {
		var err error
		if k.Given, err = seal.Parse(text); err != nil {
			return nil, err
		}
		sources = append(sources, k.Given)
	}
	_, err := os.Stat(s.SealKeyFile())
	switch {
	case os.IsNotExist(err) && len(sources) > 0: // where keys are elsewhere, none is made here
	case os.IsNotExist(err) && !fresh:
		return nil, errors.Wrap(err, errors.NotFound, "the key file %s is not there", s.SealKeyFile()).
			WithHint("bring it back: without it, nothing that is sealed opens")
	default:
		if k.Filed, err = seal.LoadFile(s.SealKeyFile()); err != nil {
			return nil, err
		}
		sources = append(sources, k.Filed)
	}
	k.Source = seal.Join(sources[0], sources[1:]...)
	return k, nil
}

// kmsField names the setting that is wrong.
func kmsField(err error) error {
	var e *errors.Error
	if errors.As(err, &e) && e.Field != "" {
		return e.WithField("seal.kms." + e.Field)
	}
	return err
}

// othersEnviron is an environment without our own settings, some of which are
// secrets.
func othersEnviron(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool { return strings.HasPrefix(kv, settings.Prefix+"_") })
}

func (k *Keyring) sealer() seal.Sealer {
	if k.Remote != nil {
		return seal.NewReusing(k.Source, seal.Reuse{})
	}
	return seal.New(k.Source)
}

// keyCheck is what the check value says.
const keyCheck = "these are the right keys"

// storedCheck gives the value by which keys are checked; empty: there is none yet.
func storedCheck(ctx context.Context, store storage.Store) (stored string, err error) {
	err = store.View(ctx, func(tx storage.Tx) (err error) {
		stored, err = tx.Settings().Get(ctx, storage.SettingKeyCheck)
		return err
	})
	if errors.HasCode(err, errors.NotFound) {
		err = nil
	}
	return stored, err
}

// Waiting for a key management service at the start: a host that boots may
// start it later than this server.
const (
	keysPatience = time.Minute
	keysPause    = time.Second
)

// openKeys makes the sealer, with the keys that the data is under.
// Returns Conflict, NotFound, InvalidArgument, and Unavailable when what holds
// the keys did not answer for a while: what is running then goes on as it is.
func (in *Installation) openKeys(ctx context.Context, s settings.Common, serves bool) error {
	err := in.findKeys(ctx, s, serves)
	if err != nil && !serves {
		in.log.Warn("the keys are not at hand; going on without", "error", err)
		in.Sealer, err = keyless{err}, nil
	}
	return err
}

// keyless is what a process has that can do without keys.
type keyless struct{ why error }

func (k keyless) Seal(context.Context, string, []byte) ([]byte, error) { return nil, k.why }
func (k keyless) Open(context.Context, string, []byte) ([]byte, error) { return nil, k.why }

func (in *Installation) findKeys(ctx context.Context, s settings.Common, waits bool) error {
	check, err := storedCheck(ctx, in.Store)
	if err != nil {
		return err
	}
	ring, err := OpenKeyring(s, check == "")
	if err != nil {
		return err
	}
	in.Sealer = ring.sealer()
	patience, cancel := context.WithTimeout(ctx, keysPatience)
	defer cancel()
	for told := false; ; told = true {
		err := checkKeys(ctx, in.Store, in.Sealer, check)
		if !errors.HasCode(err, errors.Unavailable) || !waits {
			return err
		}
		if !told {
			in.log.Warn("what holds the keys does not answer; waiting for it", "error", err)
		}
		select {
		case <-time.After(keysPause):
		case <-patience.Done():
			return err
		}
	}
}

// checkKeys opens a value that was sealed at the first start. So a server with
// other keys than its data is under does not start, rather than to find out
// value by value, and to seal more under a key that nobody has kept.
// Returns Conflict, Unavailable.
func checkKeys(ctx context.Context, store storage.Store, sealer seal.Sealer, stored string) error {
	place := storage.SealedSetting(storage.SettingKeyCheck)
	var err error
	if stored == "" {
		var sealed []byte
		if sealed, err = sealer.Seal(ctx, place, []byte(keyCheck)); err == nil {
			err = store.Update(ctx, func(tx storage.Tx) error {
				_, err := tx.Settings().Init(ctx, storage.SettingKeyCheck, base64.StdEncoding.EncodeToString(sealed))
				return err
			})
		}
	} else {
		sealed, _ := base64.StdEncoding.DecodeString(stored) // what is none does not open
		_, err = sealer.Open(ctx, place, sealed)
		if errors.HasCode(err, errors.Internal) {
			return errors.Wrap(err, errors.Conflict, "the data is sealed with other keys than are at hand").
				WithHint("bring back the key file, or give the keys or the key management service that this installation was made with")
		}
	}
	return err
}
