package oidc

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
)

const (
	maxTokenBytes = 16 << 10
	maxRoles      = 1000
	// skew is how far the provider's clock may be ahead of ours.
	skew = time.Minute
)

// RoleAdmin is the role of administrators of the installation.
const RoleAdmin = "admin"

// Config is one identity provider.
type Config struct {
	// Issuer is the provider's address, exactly as its tokens name it.
	Issuer string
	// Audiences are those whose tokens are let in: our client ID there.
	Audiences []string
	// Domains, if there are any, are those that users' verified email addresses
	// must be in. A user whom an administrator has made by such an address
	// becomes the one who has it.
	Domains []string
	// Create makes users at first sight.
	Create bool
	// NameClaim names users who are made; default email, which must be verified.
	// With Domains it is always that.
	NameClaim string
	// RoleClaim holds what Roles are told by: a text or a list, inside of
	// objects by dots.
	RoleClaim string
	Roles     []Role
	// Algorithms are those of signatures; default RS256, ES256, EdDSA.
	Algorithms []string
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Role is what a value of the role claim gives.
type Role struct {
	Value   string
	Role    string // viewer, developer, maintainer or admin
	Project string // name; empty: the first
}

// Users knows who somebody is here.
type Users interface {
	// Identify finds or makes the user of an identity. Returns NotFound.
	Identify(ctx context.Context, id access.Identity) (domain.ID, error)
	// LookupUser gives a user as a caller. Returns NotFound, PermissionDenied
	// for users of no project.
	LookupUser(ctx context.Context, user, project domain.ID) (vmm.Caller, error)
}

// Provider authenticates by the tokens of an identity provider.
type Provider struct {
	config Config
	users  Users
	keys   *keys
}

var _ auth.Authenticator = (*Provider)(nil)

// New makes a provider; nothing is asked of it yet. Returns InvalidArgument.
func New(c Config, users Users) (*Provider, error) {
	if err := checkURL(c.Issuer); err != nil {
		return nil, errors.Public(err).WithField("issuer")
	}
	if len(c.Audiences) == 0 || slices.Contains(c.Audiences, "") {
		return nil, errors.New(errors.InvalidArgument, "the identity provider %s has no audience", c.Issuer).WithField("audiences").
			WithHint("the client ID that it has for this installation: tokens for others are not let in")
	}
	if len(c.Algorithms) == 0 {
		c.Algorithms = []string{string(jose.RS256), string(jose.ES256), string(jose.EdDSA)}
	}
	var algorithms []jose.SignatureAlgorithm
	for _, a := range c.Algorithms {
		if !slices.Contains(asymmetric(), jose.SignatureAlgorithm(a)) {
			return nil, errors.New(errors.InvalidArgument, "%q is not an algorithm of an identity provider's signatures", a).WithField("algorithms").
				WithHint("RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 or EdDSA")
		}
		algorithms = append(algorithms, jose.SignatureAlgorithm(a))
	}
	for _, r := range c.Roles {
		if r.Value == "" || r.Role != RoleAdmin && domain.Role(r.Role).Validate("roles") != nil {
			return nil, errors.New(errors.InvalidArgument, "%q gives no role %q", r.Value, r.Role).WithField("roles").
				WithHint("value, and viewer, developer, maintainer or admin")
		}
	}
	if len(c.Roles) > 0 && c.RoleClaim == "" {
		return nil, errors.New(errors.InvalidArgument, "roles are told by a claim, which is not named").WithField("role_claim")
	}
	if c.NameClaim == "" {
		c.NameClaim = "email"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Provider{config: c, users: users, keys: newKeys(c.Issuer, algorithms, c.Now)}, nil
}

// asymmetric are the algorithms whose keys may be known to all.
func asymmetric() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	}
}

// Issuer is whose tokens these are.
func (p *Provider) Issuer() string { return p.config.Issuer }

// Authenticate implements [auth.Authenticator]. PermissionDenied is for users
// who are known to be who they say, and may nothing here.
func (p *Provider) Authenticate(ctx context.Context, token string) (vmm.Caller, error) {
	if len(token) > maxTokenBytes {
		return vmm.Caller{}, auth.Refused()
	}
	set := &looked{keys: p.keys}
	verifier := oidc.NewVerifier(p.config.Issuer, set, &oidc.Config{
		SkipClientIDCheck:    true, // there may be several; see below
		SupportedSigningAlgs: p.config.Algorithms, Now: p.config.Now,
	})
	t, err := verifier.Verify(ctx, token)
	if errors.HasCode(set.err, errors.Unavailable) {
		return vmm.Caller{}, set.err
	}
	if err != nil || !slices.ContainsFunc(t.Audience, func(a string) bool { return slices.Contains(p.config.Audiences, a) }) {
		return vmm.Caller{}, auth.Refused()
	}
	var says map[string]any
	if err := t.Claims(&says); err != nil || t.Subject == "" || !p.timely(t, says) {
		return vmm.Caller{}, auth.Refused()
	}
	id, err := p.identity(t, says)
	if err != nil {
		return vmm.Caller{}, err
	}
	user, err := p.users.Identify(ctx, id)
	if err == nil {
		var by vmm.Caller
		if by, err = p.users.LookupUser(ctx, user, ""); err == nil {
			by.Until = t.Expiry
			return by, nil
		}
	}
	switch errors.CodeOf(err) {
	case errors.NotFound:
		return vmm.Caller{}, auth.Refused()
	case errors.PermissionDenied:
		return vmm.Caller{}, err
	}
	return vmm.Caller{}, errors.Wrap(err, errors.Unavailable, "credentials cannot be checked at the moment").WithRetryAfter(time.Second)
}

// timely refuses what the library lets pass: no expiry in so many words, and
// tokens from a future that clocks do not explain.
func (p *Provider) timely(t *oidc.IDToken, says map[string]any) bool {
	latest := p.config.Now().Add(skew)
	if _, has := says["exp"].(float64); !has || t.IssuedAt.After(latest) {
		return false
	}
	notBefore, has := says["nbf"]
	if !has {
		return true
	}
	seconds, ok := notBefore.(float64)
	return ok && !time.Unix(int64(seconds), 0).After(latest)
}

// identity is what the provider says of the token's subject. Returns
// PermissionDenied for who is not of the domains.
func (p *Provider) identity(t *oidc.IDToken, says map[string]any) (access.Identity, error) {
	id := access.Identity{Issuer: p.config.Issuer, Subject: t.Subject, Create: p.config.Create}
	email, _ := says["email"].(string)
	verified := says["email_verified"] == true || says["email_verified"] == "true"
	switch {
	case len(p.config.Domains) > 0:
		if !verified || !p.lets(email) {
			return id, errors.New(errors.PermissionDenied, "the user is of no domain that is let in").
				WithHint("the identity provider must say that the email address is verified")
		}
		id.Name, id.Adopt = email, true // the operator trusts it to say whose these addresses are
	case p.config.NameClaim != "email":
		id.Name, _ = says[p.config.NameClaim].(string)
	case verified:
		id.Name = email
	}
	values, told := p.roleValues(says)
	id.Sync = told
	for _, r := range p.config.Roles {
		switch {
		case !slices.Contains(values, r.Value):
		case r.Role == RoleAdmin:
			id.Admin = true
		default:
			id.Roles = append(id.Roles, access.ProjectRole{Project: r.Project, Role: domain.Role(r.Role)})
		}
	}
	return id, nil
}

// lets reports whether an address is in one of the domains.
func (p *Provider) lets(email string) bool {
	at := strings.LastIndexByte(email, '@')
	return at > 0 && slices.ContainsFunc(p.config.Domains, func(d string) bool { return strings.EqualFold(d, email[at+1:]) })
}

// roleValues reads the role claim. A token that does not have it, as an access
// token beside an ID token may, says nothing of roles.
func (p *Provider) roleValues(says map[string]any) (values []string, told bool) {
	if len(p.config.Roles) == 0 {
		return nil, false
	}
	var at any = says
	if v, whole := says[p.config.RoleClaim]; whole { // a name with dots, such as an address
		at = v
	} else {
		for word := range strings.SplitSeq(p.config.RoleClaim, ".") {
			m, ok := at.(map[string]any)
			if !ok {
				return nil, false
			}
			if at, ok = m[word]; !ok {
				return nil, false
			}
		}
	}
	switch v := at.(type) {
	case string:
		return []string{v}, true
	case []any:
		for _, item := range v[:min(len(v), maxRoles)] {
			if s, ok := item.(string); ok {
				values = append(values, s)
			}
		}
		return values, true
	}
	return nil, false
}

// looked is the provider's keys for one token. The library drops what an error
// is made of, and that keys cannot be had is not the token's fault.
type looked struct {
	keys *keys
	err  error
}

// VerifySignature implements oidc.KeySet.
func (l *looked) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := l.keys.verify(ctx, token)
	l.err = err
	return payload, err
}
