package proxy

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

const (
	stampBytes = 8
	nonceBytes = 16
)

// Uses is where it is noted that a link was used, for all gateways.
type Uses interface {
	// Once notes something that happens once, by a name, with a VM, until a time
	// after which it cannot happen anyhow. Returns AlreadyExists for what is noted,
	// NotFound for the VM.
	Once(ctx context.Context, vm domain.ID, name string, until time.Time) error
}

// SignedLinks are links that any gateway makes and opens: a link says itself until
// when it is good, signed with its VM's token, which all gateways find and which
// ends with the VM. Only its use is kept.
type SignedLinks struct {
	uses Uses
	now  func() time.Time
}

// NewSignedLinks makes links whose use is noted in uses. now is the clock, the same
// for all gateways; nil is time.Now.
func NewSignedLinks(uses Uses, now func() time.Time) *SignedLinks {
	if now == nil {
		now = time.Now
	}
	return &SignedLinks{uses, now}
}

// New implements Links.
func (s *SignedLinks) New(_ context.Context, t Target, token string, expires time.Time) (string, error) {
	said := make([]byte, stampBytes+nonceBytes, stampBytes+nonceBytes+sha256.Size)
	binary.BigEndian.PutUint64(said, uint64(expires.UnixMicro())) //nolint:gosec // after 1970
	_, _ = rand.Read(said[stampBytes:])                           // never fails: crypto/rand aborts the process instead
	return base64.RawURLEncoding.EncodeToString(append(said, linkSum(t, token, said)...)), nil
}

// Take implements Links.
func (s *SignedLinks) Take(ctx context.Context, t Target, token, secret string) error {
	invalid := errors.New(errors.NotFound, "the link is not valid")
	text, err := base64.RawURLEncoding.Strict().DecodeString(secret)
	if err != nil || len(text) != stampBytes+nonceBytes+sha256.Size {
		return invalid
	}
	said, sum := text[:stampBytes+nonceBytes], text[stampBytes+nonceBytes:]
	if !hmac.Equal(sum, linkSum(t, token, said)) {
		return invalid
	}
	expires := time.UnixMicro(int64(binary.BigEndian.Uint64(said))) //nolint:gosec // it is signed
	if !s.now().Before(expires) {
		return invalid
	}
	err = s.uses.Once(ctx, t.VM, "preview link\n"+base64.RawURLEncoding.EncodeToString(said[stampBytes:]), expires)
	if errors.HasCode(err, errors.AlreadyExists) {
		return invalid
	}
	return err
}

// linkSum signs what a link says. Nothing else that is signed with the token begins
// so (see cookieValue).
func linkSum(t Target, token string, said []byte) []byte {
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write([]byte("preview link\n" + t.VM.String() + "\n" + strconv.Itoa(int(t.Port)) + "\n"))
	mac.Write(said)
	return mac.Sum(nil)
}
