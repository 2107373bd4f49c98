package auth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// maxForeignBytes bounds a token of an identity provider.
const maxForeignBytes = 16 << 10

// Any authenticates by whatever kind of credentials is shown.
type Any struct {
	keys   Authenticator
	issued map[string]Authenticator
}

// NewAny makes an authenticator of one for keys and of others for tokens, by
// their issuer.
func NewAny(keys Authenticator, issued map[string]Authenticator) *Any {
	return &Any{keys: keys, issued: issued}
}

// Authenticate implements [Authenticator].
func (a *Any) Authenticate(ctx context.Context, token string) (vmm.Caller, error) {
	if LooksLikeKey(token) {
		return a.keys.Authenticate(ctx, token)
	}
	// What the token says of itself only chooses who looks at it.
	if by, ok := a.issued[issuerOf(token)]; ok {
		return by.Authenticate(ctx, token)
	}
	return vmm.Caller{}, errRefused
}

// issuerOf is what a JWT says who made it; empty for what is none.
func issuerOf(token string) string {
	if len(token) > maxForeignBytes {
		return ""
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var says struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(raw, &says) != nil {
		return ""
	}
	return says.Issuer
}
