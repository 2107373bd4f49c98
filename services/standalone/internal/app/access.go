package app

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
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
func (n *node) openAccess(_ context.Context) (*credentials, error) {
	d := access.Deps{Store: n.store, Sealer: n.sealer, Log: n.log, Emptier: n.service}
	c := &credentials{service: access.New(d), lookup: access.NewLookup(n.store, nil)}
	c.keys = auth.NewKeys(c.lookup, n.log, nil)
	var err error
	c.tokens, err = auth.NewTokens(auth.TokenConfig{
		Issuer: "aetherium:" + n.instance, Keys: access.NewSigning(d, 30*24*time.Hour), Holders: c.lookup,
	})
	if err != nil {
		return nil, err
	}
	c.authenticator = auth.NewAny(c.keys, map[string]auth.Authenticator{c.tokens.Issuer: c.tokens})
	return c, nil
}
