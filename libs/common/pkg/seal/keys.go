package seal

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Keys is a keyring in memory: the newest key wraps, all unwrap.
type Keys struct {
	newest string
	byID   map[string][]byte
}

// NewKeys makes a keyring of 32-byte keys, newest first.
func NewKeys(keys ...[]byte) (*Keys, error) {
	if len(keys) == 0 {
		return nil, errors.New(errors.InvalidArgument, "a keyring needs a key")
	}
	k := &Keys{byID: make(map[string][]byte, len(keys))}
	for i, key := range keys {
		if len(key) != keyBytes {
			return nil, errors.New(errors.InvalidArgument, "key %d has %d bytes, it must have %d", i+1, len(key), keyBytes)
		}
		// The ID tells keys apart without telling anything of the key.
		sum := sha256.Sum256(append([]byte("aetherium key id\x00"), key...))
		id := hex.EncodeToString(sum[:8])
		if i == 0 {
			k.newest = id
		}
		k.byID[id] = append([]byte(nil), key...)
	}
	return k, nil
}

// Wrap implements Keyring.
func (k *Keys) Wrap(_ context.Context, dataKey []byte) (string, []byte, error) {
	wrapped, err := appendSealed(nil, k.byID[k.newest], []byte(k.newest), dataKey)
	return k.newest, wrapped, err
}

// Unwrap implements Keyring.
func (k *Keys) Unwrap(_ context.Context, keyID string, wrapped []byte) ([]byte, error) {
	key, ok := k.byID[keyID]
	if !ok {
		return nil, errors.New(errors.Internal, "a record is sealed with a key that is not at hand").
			WithHint("give the installation the key it was made with")
	}
	return openSealed(key, []byte(keyID), wrapped)
}

// LoadFile reads keys from a file: one key a line, 64 hexadecimal digits,
// newest first. A file that is absent is made with a new key and mode 0600.
// A file that others can read is refused.
func LoadFile(path string) (*Keys, error) {
	if err := makeFile(path); err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the key file cannot be read")
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, errors.New(errors.InvalidArgument, "the key file %s can be read by others (mode %o)", path, info.Mode().Perm()).
			WithHint("chmod 0600 %s", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the key file cannot be read")
	}
	return Parse(string(text))
}

// Parse reads keys as LoadFile has them, for keys from the environment.
func Parse(text string) (*Keys, error) {
	var keys [][]byte
	for i, line := range strings.Fields(text) {
		key, err := hex.DecodeString(line)
		if err != nil || len(key) != keyBytes {
			return nil, errors.New(errors.InvalidArgument, "line %d of the keys is not %d hexadecimal digits", i+1, 2*keyBytes)
		}
		keys = append(keys, key)
	}
	return NewKeys(keys...)
}

// makeFile makes a key file unless there is one. It is complete or absent,
// also after a crash: written aside, synced, then linked to its name.
func makeFile(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key)
	fail := func(err error) error { return errors.Wrap(err, errors.Internal, "the key file cannot be made") }
	tmp, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, werr := tmp.WriteString(hex.EncodeToString(key) + "\n")
	if err := errors.Join(werr, tmp.Sync(), tmp.Close()); err != nil {
		return fail(err)
	}
	// A link never replaces: of two starts at once, one key wins.
	if err := os.Link(tmp.Name(), path); err != nil && !os.IsExist(err) {
		return fail(err)
	}
	return nil
}
