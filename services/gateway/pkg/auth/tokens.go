package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	// TokenType is the type of our access tokens (RFC 8725 §3.11), so that no
	// other JWT passes for one, nor one of ours for another.
	TokenType = "aetherium+jwt"
	// DefaultTokenTTL is how long an access token is valid.
	DefaultTokenTTL = 15 * time.Minute
	// MinSecretBytes is how long a secret for HS256 is at least (RFC 7518 §3.2).
	MinSecretBytes = 32

	audience      = "aetherium"
	maxTokenBytes = 2 << 10
)

// SigningKeys keeps the keys of the installation's own tokens.
type SigningKeys interface {
	// Signer gives the key that signs now.
	Signer(ctx context.Context) (access.SigningKey, error)
	// Verifier gives the key with an ID. Returns NotFound.
	Verifier(ctx context.Context, id string) (access.SigningKey, error)
	// Rotate makes another key sign, for administrators.
	Rotate(ctx context.Context, by vmm.Caller, forget bool) error
}

// Holders knows whom tokens stand for. It is on the path of every request.
type Holders interface {
	// LookupKeyID finds a key by its ID. Returns NotFound.
	LookupKeyID(ctx context.Context, id domain.ID) (Key, error)
	// LookupUser gives a user as a caller in a project; "": the user's usual
	// one. Returns NotFound, PermissionDenied for users of no project.
	LookupUser(ctx context.Context, user, project domain.ID) (vmm.Caller, error)
	// EnterProject gives a caller in another project. Returns NotFound.
	EnterProject(ctx context.Context, by vmm.Caller, nameOrID string) (vmm.Caller, error)
}

// TokenConfig is what the installation's own tokens are made with.
type TokenConfig struct {
	// Issuer names the installation.
	Issuer string
	// Keys sign with EdDSA, unless there are secrets.
	Keys SigningKeys
	// Secrets, newest first, sign with HS256 instead, each of 32 bytes or more.
	Secrets [][]byte
	Holders Holders
	// TTL is how long a token is valid that is not asked for otherwise; 0: 15 min.
	TTL time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Tokens makes short-lived access tokens and authenticates by them. What a
// token gives is what its key or user gives at the time it is shown, and never
// more than was written into it.
type Tokens struct {
	TokenConfig
	method  jwt.SigningMethod
	parser  *jwt.Parser
	secrets map[string][]byte
}

// NewTokens makes Tokens. Returns InvalidArgument for a secret that is too short.
func NewTokens(c TokenConfig) (*Tokens, error) {
	if c.TTL == 0 {
		c.TTL = DefaultTokenTTL
	}
	if c.TTL < time.Second || c.TTL > access.MaxTokenTTL {
		return nil, errors.New(errors.InvalidArgument, "access tokens valid for %s are out of range", c.TTL).WithHint("from a second to an hour")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	t := &Tokens{TokenConfig: c, method: jwt.SigningMethodEdDSA, secrets: map[string][]byte{}}
	for _, secret := range c.Secrets {
		if len(secret) < MinSecretBytes {
			return nil, errors.New(errors.InvalidArgument, "a secret for HS256 has %d bytes", len(secret)).WithHint("%d or more", MinSecretBytes)
		}
		t.method = jwt.SigningMethodHS256
		t.secrets[secretID(secret)] = secret
	}
	t.parser = jwt.NewParser(
		jwt.WithValidMethods([]string{t.method.Alg()}), jwt.WithIssuer(c.Issuer), jwt.WithAudience(audience), jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(), jwt.WithTimeFunc(c.Now), jwt.WithStrictDecoding(),
	)
	return t, nil
}

// secretID names a secret without telling anything of it.
func secretID(secret []byte) string {
	sum := sha256.Sum256(append([]byte("aetherium hs256 key id\x00"), secret...))
	return hex.EncodeToString(sum[:8])
}

// claims are what a token says.
type claims struct {
	jwt.RegisteredClaims
	Project domain.ID    `json:"prj"`
	Scope   domain.Scope `json:"scope"`
	// Secret tells which of its key's secrets it was got by: one that ends ends
	// its tokens.
	Secret string `json:"sec,omitempty"`
}

const (
	subjectKey  = "key:"
	subjectUser = "user:"
)

// IssueToken is what a token shall be.
type IssueToken struct {
	Scopes domain.Scopes // none: the caller's
	TTL    time.Duration // 0: the usual
}

// Issued is an access token as its holder gets it.
type Issued struct {
	Text      string
	ID        string
	ProjectID domain.ID
	Scopes    domain.Scopes
	ExpiresAt time.Time
}

// Issue makes a token for the holder of a key, or a user. Returns
// InvalidArgument, PermissionDenied for what the caller lacks and for who
// shows a token: one must not beget another, or it would never end.
func (t *Tokens) Issue(ctx context.Context, by vmm.Caller, req IssueToken) (Issued, error) {
	if by.TokenID != "" {
		return Issued{}, errors.New(errors.PermissionDenied, "a token cannot be got by a token").WithHint("show a key, or your identity provider's token")
	}
	if err := req.Scopes.Validate("scopes"); err != nil {
		return Issued{}, err
	}
	if len(req.Scopes) == 0 {
		req.Scopes = by.Scopes
	}
	scope := req.Scopes.Widest()
	if !by.Scopes.Allows(scope) {
		return Issued{}, errors.Public(lacks(scope, by.Scopes.Widest())).WithField("scopes")
	}
	if req.TTL == 0 {
		req.TTL = t.TTL
	}
	if req.TTL < time.Second || req.TTL > access.MaxTokenTTL {
		return Issued{}, errors.New(errors.InvalidArgument, "a token valid for %s is out of range", req.TTL).WithField("ttl_ms").WithHint("from a second to an hour")
	}
	now := t.Now()
	until := earlier(now.Add(req.TTL), by.Until).Truncate(time.Second)
	c := claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: t.Issuer, Audience: jwt.ClaimStrings{audience}, ID: string(domain.NewID()),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(until),
		},
		Project: by.ProjectID, Scope: scope,
	}
	switch {
	case by.KeyID != "":
		key, err := t.Holders.LookupKeyID(ctx, by.KeyID)
		if err != nil {
			return Issued{}, err
		}
		c.Subject, c.Secret = subjectKey+string(by.KeyID), generation(key.Hash)
	case by.UserID != "":
		c.Subject = subjectUser + string(by.UserID)
	default:
		return Issued{}, errors.New(errors.PermissionDenied, "the caller is neither a key's holder nor a user")
	}
	text, err := t.sign(ctx, c)
	return Issued{Text: text, ID: c.ID, ProjectID: c.Project, Scopes: domain.Scopes{scope}, ExpiresAt: until.UTC()}, err
}

// Rotate makes another key sign, for administrators. Returns Unsupported where
// secrets do, which the configuration gives.
func (t *Tokens) Rotate(ctx context.Context, by vmm.Caller, forget bool) error {
	if len(t.Secrets) > 0 {
		return errors.New(errors.Unsupported, "tokens are signed with a secret of the configuration").WithHint("put another secret first there, and restart")
	}
	return t.Keys.Rotate(ctx, by, forget)
}

// generation tells a key's secrets apart. It is of a hash of 160 random bits,
// and tells nothing of them.
func generation(hash [32]byte) string { return base64.RawURLEncoding.EncodeToString(hash[:9]) }

func (t *Tokens) sign(ctx context.Context, c claims) (string, error) {
	token := jwt.NewWithClaims(t.method, c)
	token.Header["typ"] = TokenType
	var with any
	if len(t.Secrets) > 0 {
		token.Header["kid"], with = secretID(t.Secrets[0]), t.Secrets[0]
	} else {
		key, err := t.Keys.Signer(ctx)
		if err != nil {
			return "", err
		}
		token.Header["kid"], with = key.ID, key.Private
	}
	text, err := token.SignedString(with)
	if err != nil {
		return "", errors.Wrap(err, errors.Internal, "the token cannot be signed")
	}
	return text, nil
}

// Authenticate implements [Authenticator].
func (t *Tokens) Authenticate(ctx context.Context, token string) (vmm.Caller, error) {
	if len(token) > maxTokenBytes {
		return vmm.Caller{}, errRefused
	}
	var c claims
	var unknown error
	_, err := t.parser.ParseWithClaims(token, &c, func(j *jwt.Token) (any, error) {
		key, err := t.verifier(ctx, j)
		if err != nil && !errors.HasCode(err, errors.NotFound) {
			unknown = err
		}
		return key, err
	})
	switch {
	case unknown != nil:
		return vmm.Caller{}, unchecked(unknown)
	case err != nil, c.ID == "", c.NotBefore == nil, c.IssuedAt == nil, c.ExpiresAt.Sub(c.IssuedAt.Time) > access.MaxTokenTTL+time.Second:
		return vmm.Caller{}, errRefused
	}
	by, err := t.holder(ctx, &c)
	if errors.HasCode(err, errors.NotFound) || errors.HasCode(err, errors.PermissionDenied) {
		return vmm.Caller{}, errRefused
	}
	if err != nil {
		return vmm.Caller{}, unchecked(err)
	}
	by.Scopes = by.Scopes.Within(c.Scope)
	by.Admin = by.Scopes.Allows(domain.ScopeAdmin)
	by.TokenID, by.Until = c.ID, earlier(c.ExpiresAt.Time, by.Until)
	return by, nil
}

// verifier finds what a token was signed with. Its header may name a key of
// ours, and nothing else: no key in the header itself, none elsewhere.
func (t *Tokens) verifier(ctx context.Context, j *jwt.Token) (any, error) {
	bad := errors.New(errors.NotFound, "the token was signed by nobody here")
	for name := range j.Header {
		if !slices.Contains([]string{"alg", "typ", "kid"}, name) {
			return nil, bad
		}
	}
	kid, _ := j.Header["kid"].(string)
	if typ, _ := j.Header["typ"].(string); typ != TokenType || kid == "" {
		return nil, bad
	}
	if len(t.Secrets) > 0 {
		if secret, ok := t.secrets[kid]; ok {
			return secret, nil
		}
		return nil, bad
	}
	if !domain.IsID(kid) {
		return nil, bad
	}
	key, err := t.Keys.Verifier(ctx, kid)
	if err != nil {
		return nil, err
	}
	public, ok := key.Private.Public().(ed25519.PublicKey)
	if !ok {
		return nil, bad
	}
	return public, nil
}

// holder gives whom a token stands for, with what that one has now. Returns
// NotFound for who has ended.
func (t *Tokens) holder(ctx context.Context, c *claims) (vmm.Caller, error) {
	if user, ok := strings.CutPrefix(c.Subject, subjectUser); ok && domain.IsID(user) && c.Project != "" {
		return t.Holders.LookupUser(ctx, domain.ID(user), c.Project)
	}
	gone := errors.New(errors.NotFound, "the token's key is no longer valid")
	id, ok := strings.CutPrefix(c.Subject, subjectKey)
	if !ok || !domain.IsID(id) || !domain.IsID(string(c.Project)) {
		return vmm.Caller{}, gone
	}
	key, err := t.Holders.LookupKeyID(ctx, domain.ID(id))
	if err != nil {
		return vmm.Caller{}, err
	}
	hash := Hash(key.Hash)
	if c.Secret != generation(key.Hash) {
		hash = key.OldHash
	}
	if c.Secret != generation(hash) || !key.Opens(hash, t.Now()) {
		return vmm.Caller{}, gone
	}
	return t.Holders.EnterProject(ctx, callerOf(&key, hash), string(c.Project))
}
