package installation

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/services/core/pkg/settings"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
)

// starting does what a starting server does about its keys.
func starting(t *testing.T, store storage.Store, s settings.Common) error {
	t.Helper()
	check, err := storedCheck(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := OpenKeyring(s, check == "")
	if err == nil {
		err = checkKeys(t.Context(), store, ring.sealer(), check)
	}
	return err
}

// A server starts with the keys that its data is under, or not at all.
func TestTheRightKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store, err := sqlitetest.Open(t.Context(), filepath.Join(dir, "db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	s := settings.DefaultCommon()
	s.DataDir = dir
	for range 2 { // the first start, and another
		if err := starting(t, store, s); err != nil {
			t.Fatal(err)
		}
	}
	kept := s.SealKeyFile() + ".kept"
	if err := os.Rename(s.SealKeyFile(), kept); err != nil {
		t.Fatal(err)
	}
	if err := starting(t, store, s); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("without its key file: %v", err)
	}
	if _, err := os.Stat(s.SealKeyFile()); !os.IsNotExist(err) {
		t.Error("another key was made in its place")
	}
	other := s
	other.Seal.Keys = logging.Secret(seal.NewKey())
	if err := starting(t, store, other); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("with other keys: %v", err)
	}
	away := s
	away.Seal.KMS.URL = "unix://" + filepath.Join(dir, "absent")
	if err := starting(t, store, away); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("with a service that never had the key: %v", err)
	}
	if err := os.Rename(kept, s.SealKeyFile()); err != nil {
		t.Fatal(err)
	}
	// Old keys beside new ones are at hand.
	for _, s := range []settings.Common{s, other, away} {
		if err := starting(t, store, s); err != nil {
			t.Error(err)
		}
	}
}

// A key management service that is away is waited for, and no key is made in
// its place.
func TestTheServiceIsAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store, err := sqlitetest.Open(t.Context(), filepath.Join(dir, "db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	s := settings.DefaultCommon()
	s.DataDir = dir
	s.Seal.KMS.URL = "unix://" + filepath.Join(dir, "absent")
	if err := starting(t, store, s); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(s.SealKeyFile()); !os.IsNotExist(err) {
		t.Error("a key file was made beside the service")
	}
}

func TestKMSSettings(t *testing.T) {
	t.Parallel()
	for env, field := range map[string]string{
		"AETHERIUM_SEAL_KMS_URL=http://192.0.2.1/":  "seal.kms.url",
		"AETHERIUM_SEAL_KMS_COMMAND=relative,wrap":  "seal.kms.command",
		"AETHERIUM_SEAL_KMS_URL=ftp://192.0.2.1/pw": "seal.kms.url",
	} {
		s := settings.DefaultCommon()
		if err := config.Load(&s, "", settings.Prefix, []string{env, "AETHERIUM_DATA_DIR=" + t.TempDir()}); err != nil {
			t.Fatal(err)
		}
		_, err := OpenKeyring(s, true)
		var e *errors.Error
		if !errors.As(err, &e) || e.Code != errors.InvalidArgument || e.Field != field {
			t.Errorf("%s: %v", env, err)
		}
	}
	kept := othersEnviron([]string{"PATH=/bin", "AETHERIUM_SEAL_KEYS=k", "AETHERIUM_API_KEY=a", "HOME=/"})
	if strings.Join(kept, " ") != "PATH=/bin HOME=/" {
		t.Errorf("a service's program gets %v", kept)
	}
}
