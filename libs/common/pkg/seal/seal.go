// Package seal is envelope encryption at rest: a record is encrypted with a
// data key (AES-256-GCM), and the data key with a key-encryption key that a
// [Keyring] holds. The key-encryption key never touches the data,
// so it can live in a key management service and can be changed without
// rewriting records.
//
// The place of a record (its table, ID and column) is authenticated with it:
// a sealed value does not open anywhere else.
package seal

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Sealer seals and opens small records.
type Sealer interface {
	// Seal encrypts plaintext for a place.
	Seal(ctx context.Context, place string, plaintext []byte) ([]byte, error)
	// Open undoes Seal. Returns Internal when the value was not sealed for the
	// place, was changed, or its key is not at hand, and Unavailable while the
	// keyring cannot be reached.
	Open(ctx context.Context, place string, sealed []byte) ([]byte, error)
}

// Keyring wraps data keys: the seam for a key management service. One that
// cannot be reached returns Unavailable.
type Keyring interface {
	// Wrap encrypts a data key with the newest key, and names that key in at
	// most 255 bytes; wrapped has at most 1024.
	Wrap(ctx context.Context, dataKey []byte) (keyID string, wrapped []byte, err error)
	// Unwrap decrypts a data key that was wrapped with the named key.
	Unwrap(ctx context.Context, keyID string, wrapped []byte) ([]byte, error)
}

const (
	version    = 1
	keyBytes   = 32
	maxKeyID   = 255
	maxWrapped = 1024
	// MaxPlaintext bounds a record.
	MaxPlaintext = 16 << 20
)

type envelope struct{ keys dataKeys }

// dataKeys makes the keys that records are encrypted with, and finds them again.
type dataKeys interface {
	// fresh gives a data key that is wrapped already, for one more record.
	fresh(ctx context.Context) (dataKey, error)
	open(ctx context.Context, keyID string, wrapped []byte) ([]byte, error)
}

type dataKey struct {
	id           string // of the key that it is wrapped with
	wrapped, key []byte
}

// New makes a sealer on a keyring that is at hand: every record has a data key
// of its own. For a keyring that is a service see [NewReusing].
func New(ring Keyring) Sealer { return &envelope{ownKeys{ring}} }

// ownKeys makes a data key for every record.
type ownKeys struct{ ring Keyring }

func (o ownKeys) fresh(ctx context.Context) (dataKey, error) {
	d := dataKey{key: make([]byte, keyBytes)}
	_, _ = rand.Read(d.key)
	var err error
	if d.id, d.wrapped, err = o.ring.Wrap(ctx, d.key); err != nil {
		return d, err
	}
	if d.id == "" || len(d.id) > maxKeyID || len(d.wrapped) > maxWrapped {
		return d, errors.New(errors.Internal, "the keyring's answer is out of bounds")
	}
	return d, nil
}

func (o ownKeys) open(ctx context.Context, keyID string, wrapped []byte) ([]byte, error) {
	return o.ring.Unwrap(ctx, keyID, wrapped)
}

// A sealed record is: version, length and bytes of the key ID, length (2
// bytes, big endian) and bytes of the wrapped data key, nonce, ciphertext with tag.

func (e *envelope) Seal(ctx context.Context, place string, plaintext []byte) ([]byte, error) {
	if len(plaintext) > MaxPlaintext {
		return nil, errors.New(errors.TooLarge, "a record of %d bytes is too large to be sealed", len(plaintext))
	}
	d, err := e.keys.fresh(ctx)
	if err != nil {
		return nil, err
	}
	return appendSealed(head(d.id, d.wrapped, 12+len(plaintext)+16), d.key, []byte(place), plaintext)
}

// head begins a record, with room for so many more bytes.
func head(id string, wrapped []byte, room int) []byte {
	out := make([]byte, 0, 4+len(id)+len(wrapped)+room)
	out = append(out, version, byte(len(id)))
	out = append(out, id...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(wrapped)))
	return append(out, wrapped...)
}

func (e *envelope) Open(ctx context.Context, place string, sealed []byte) ([]byte, error) {
	id, wrapped, rest, ok := split(sealed)
	if !ok {
		return nil, damaged(nil)
	}
	key, err := e.keys.open(ctx, id, wrapped)
	if err != nil {
		return nil, err
	}
	return openSealed(key, []byte(place), rest)
}

// KeyID tells with which key a record is sealed, for rotation. ok is false for what is no record.
func KeyID(sealed []byte) (id string, ok bool) {
	id, _, _, ok = split(sealed)
	return id, ok
}

func split(b []byte) (id string, wrapped, rest []byte, ok bool) {
	if len(b) < 2 || b[0] != version {
		return "", nil, nil, false
	}
	n := int(b[1])
	b = b[2:]
	if n > maxKeyID || len(b) < n+2 {
		return "", nil, nil, false
	}
	id, b = string(b[:n]), b[n:]
	n = int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if n > maxWrapped || len(b) < n {
		return "", nil, nil, false
	}
	return id, b[:n], b[n:], true
}

func damaged(err error) error {
	return errors.Wrap(err, errors.Internal, "a sealed record is damaged or was moved")
}

// appendSealed appends nonce and ciphertext.
func appendSealed(out, key, aad, plaintext []byte) ([]byte, error) {
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, gcm.NonceSize())
	_, _ = rand.Read(nonce)
	out = append(out, nonce...)
	return gcm.Seal(out, nonce, plaintext, aad), nil
}

func openSealed(key, aad, b []byte) ([]byte, error) {
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	if len(b) < gcm.NonceSize() {
		return nil, damaged(nil)
	}
	plain, err := gcm.Open(nil, b[:gcm.NonceSize()], b[gcm.NonceSize():], aad)
	if err != nil {
		return nil, damaged(err)
	}
	return plain, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "a data key is unusable")
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "a data key is unusable")
	}
	return gcm, nil
}
