package fleet

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// TokenPrefix begins the text of every join token, so that scanners for leaked
// secrets find it.
const TokenPrefix = "aethjoin_"

// Token is what a worker needs to join: a key that signs what it asks for, and
// the hash of the authority that has to answer.
type Token struct {
	key       ed25519.PrivateKey
	Authority [sha256.Size]byte
}

// newToken makes a token for workers of an authority.
func newToken(authority [sha256.Size]byte) (Token, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Token{}, errors.Wrap(err, errors.Internal, "a join token cannot be made")
	}
	return Token{key: key, Authority: authority}, nil
}

// text is the token as it is told, this once.
func (t Token) text() string {
	return TokenPrefix + base64.RawURLEncoding.EncodeToString(append(t.key.Seed(), t.Authority[:]...))
}

// ParseToken reads a token's text. Returns InvalidArgument, which repeats nothing of it.
func ParseToken(text string) (Token, error) {
	coded, ok := strings.CutPrefix(text, TokenPrefix)
	raw, err := base64.RawURLEncoding.Strict().DecodeString(coded)
	if !ok || err != nil || len(raw) != ed25519.SeedSize+sha256.Size {
		return Token{}, errors.New(errors.InvalidArgument, "it is not a join token").WithField("token").
			WithHint("it begins with %s; `aetherium worker token create` makes one", TokenPrefix)
	}
	t := Token{key: ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize])}
	copy(t.Authority[:], raw[ed25519.SeedSize:])
	return t, nil
}

// Sign makes a request of a worker that has a token, for a certificate signing
// request (PKCS #10, DER).
func (t Token) Sign(csr []byte, name, address string) JoinRequest {
	public, _ := t.key.Public().(ed25519.PublicKey)
	r := JoinRequest{Token: public, CSR: csr, Name: name, Address: address}
	r.Signature = ed25519.Sign(t.key, r.signed())
	return r
}

// signed is what a request to join is signed over: all of it.
func (r JoinRequest) signed() []byte {
	return message("aetherium: a worker joins", r.CSR, []byte(r.Name), []byte(r.Address))
}

// message puts parts together so that no others give the same.
func message(purpose string, parts ...[]byte) []byte {
	out := []byte(purpose)
	for _, p := range parts {
		out = append(binary.AppendUvarint(out, uint64(len(p))), p...)
	}
	return out
}
