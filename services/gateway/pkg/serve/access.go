package serve

import (
	"log/slog"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/installation"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth/oidc"
	"github.com/aetherium/aetherium/services/gateway/pkg/settings"
)

// Access is who may do what: the use cases, and what every request asks.
type Access struct {
	Service       *access.Service
	Lookup        *access.Lookup
	Keys          *auth.Keys
	Tokens        *auth.Tokens
	Authenticator auth.Authenticator
}

// OpenAccess puts it on an installation. Returns InvalidArgument for what the
// settings cannot mean.
func OpenAccess(s settings.Auth, in *installation.Installation, emptier access.Emptier, log *slog.Logger) (*Access, error) {
	d := access.Deps{Store: in.Store, Sealer: in.Sealer, Log: log, Emptier: emptier, Now: in.Now}
	c := &Access{Service: access.New(d), Lookup: access.NewLookup(in.Store, in.Now)}
	c.Keys = auth.NewKeys(c.Lookup, log, in.Now)
	secrets, err := s.Tokens.Secrets()
	if err != nil {
		return nil, err
	}
	c.Tokens, err = auth.NewTokens(auth.TokenConfig{
		Issuer: "aetherium:" + in.ID, Keys: access.NewSigning(d, time.Duration(s.Tokens.Rotate)), Secrets: secrets,
		Holders: c.Lookup, TTL: time.Duration(s.Tokens.TTL), Now: in.Now,
	})
	if err != nil {
		return nil, err
	}
	issuers := map[string]auth.Authenticator{c.Tokens.Issuer: c.Tokens}
	for _, p := range s.OIDC {
		roles := make([]oidc.Role, len(p.Roles))
		for i, r := range p.Roles {
			roles[i] = oidc.Role(r)
		}
		provider, err := oidc.New(oidc.Config{
			Issuer: p.Issuer, Audiences: p.Audiences, Domains: p.Domains, Create: p.Create, NameClaim: p.NameClaim,
			RoleClaim: p.RoleClaim, Roles: roles, Algorithms: p.Algorithms, Now: in.Now,
		}, c.Lookup)
		if err != nil {
			return nil, err
		}
		issuers[p.Issuer] = provider
	}
	c.Authenticator = auth.NewAny(c.Keys, issuers)
	return c, nil
}
