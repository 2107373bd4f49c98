package app

import (
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth/oidc"
)

// credentials is who may do what: the use cases, and what every request asks.
type credentials struct {
	service       *access.Service
	lookup        *access.Lookup
	keys          *auth.Keys
	tokens        *auth.Tokens
	authenticator auth.Authenticator
}

// openAccess puts it on the open store.
func (n *node) openAccess() (*credentials, error) {
	d := access.Deps{Store: n.store, Sealer: n.sealer, Log: n.log, Emptier: n.service}
	c := &credentials{service: access.New(d), lookup: access.NewLookup(n.store, nil)}
	c.keys = auth.NewKeys(c.lookup, n.log, nil)
	s := n.settings.Auth
	secrets, err := s.Tokens.Secrets()
	if err != nil {
		return nil, err
	}
	c.tokens, err = auth.NewTokens(auth.TokenConfig{
		Issuer: "aetherium:" + n.instance, Keys: access.NewSigning(d, time.Duration(s.Tokens.Rotate)), Secrets: secrets,
		Holders: c.lookup, TTL: time.Duration(s.Tokens.TTL),
	})
	if err != nil {
		return nil, err
	}
	issuers := map[string]auth.Authenticator{c.tokens.Issuer: c.tokens}
	for _, p := range s.OIDC {
		roles := make([]oidc.Role, len(p.Roles))
		for i, r := range p.Roles {
			roles[i] = oidc.Role(r)
		}
		provider, err := oidc.New(oidc.Config{
			Issuer: p.Issuer, Audiences: p.Audiences, Domains: p.Domains, Create: p.Create, NameClaim: p.NameClaim,
			RoleClaim: p.RoleClaim, Roles: roles, Algorithms: p.Algorithms,
		}, c.lookup)
		if err != nil {
			return nil, err
		}
		issuers[p.Issuer] = provider
	}
	c.authenticator = auth.NewAny(c.keys, issuers)
	return c, nil
}
