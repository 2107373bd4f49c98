// Package access decides who may do what with the agent's envd services: the
// machine's access token, signatures of single files, and the OS user that a
// request acts as.
package access

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
	"github.com/aetherium/aetherium/services/core/internal/agent/settings"
	"github.com/aetherium/aetherium/services/core/pkg/guest/signature"
)

// TokenHeader carries the machine's access token.
const TokenHeader = "X-Access-Token"

// Guard checks requests.
type Guard struct {
	Settings *settings.Store
	Users    *osuser.DB
}

// Token checks the request's access token. Without a token set, all may.
// Returns Unauthenticated.
func (g *Guard) Token(h http.Header) error {
	if g.Settings.Get().TokenFits(h.Get(TokenHeader)) {
		return nil
	}
	return errors.New(errors.Unauthenticated, "the access token is missing or wrong")
}

// User finds the OS user of a request: the name in its Basic credentials
// (RFC 7617; the password counts for nothing: the token is what authenticates),
// else the default user. Returns Unauthenticated for an unknown one.
func (g *Guard) User(h http.Header) (*osuser.User, error) {
	name, err := basicUser(h.Get("Authorization"))
	if err != nil {
		return nil, err
	}
	return g.Named(name)
}

// Named finds an OS user by name, "" being the default one.
func (g *Guard) Named(name string) (*osuser.User, error) {
	return g.Settings.Get().User(g.Users, name)
}

func basicUser(header string) (string, error) {
	scheme, encoded, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", nil // none, or credentials for someone on the way
	}
	decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return "", errors.New(errors.Unauthenticated, "the Basic credentials cannot be read")
	}
	name, _, _ := strings.Cut(string(decoded), ":")
	return name, nil
}

// File checks a request for one file: the access token, or a signature of the
// path for one operation by one user, valid until an optional time.
// Returns Unauthenticated.
func (g *Guard) File(h http.Header, query url.Values, op signature.Operation, now time.Time) error {
	token := g.Settings.Get().AccessToken
	if token == "" || h.Get(TokenHeader) != "" {
		return g.Token(h)
	}
	return signature.Check(query, op, token, now)
}
