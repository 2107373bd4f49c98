package seal

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Keys is a keyring in memory: the newest key wraps, all unwrap.
type Keys struct {
	ids  []string // newest first
	byID map[string][]byte
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
		id := idOf(key)
		if k.byID[id] == nil {
			k.ids = append(k.ids, id)
		}
		k.byID[id] = append([]byte(nil), key...)
	}
	return k, nil
}

// idOf tells keys apart without telling anything of the key.
func idOf(key []byte) string {
	sum := sha256.Sum256(append([]byte("aetherium key id\x00"), key...))
	return hex.EncodeToString(sum[:8])
}

// IDs lists the keys, newest first.
func (k *Keys) IDs() []string { return slices.Clone(k.ids) }

// Owns implements Source.
func (k *Keys) Owns(keyID string) bool { return k.byID[keyID] != nil }

// Wrap implements Keyring.
func (k *Keys) Wrap(_ context.Context, dataKey []byte) (string, []byte, error) {
	newest := k.ids[0]
	wrapped, err := appendSealed(nil, k.byID[newest], []byte(newest), dataKey)
	return newest, wrapped, err
}

// Unwrap implements Keyring.
func (k *Keys) Unwrap(_ context.Context, keyID string, wrapped []byte) ([]byte, error) {
	key, ok := k.byID[keyID]
	if !ok {
		return nil, notAtHand(keyID)
	}
	return openSealed(key, []byte(keyID), wrapped)
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

// NewKey makes a key as Parse reads it.
func NewKey() string {
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key)
	return hex.EncodeToString(key)
}
