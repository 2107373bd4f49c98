package gateway_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

func (l *lab) token(by string, body wire.CreateToken) wire.Token {
	l.t.Helper()
	return get[wire.Token](l, http.StatusCreated, req{method: "POST", path: "/auth/token", key: by, body: body})
}

func TestTokens(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	k := l.key(l.user, wire.CreateKey{Name: "k", Scopes: []string{"manage"}})
	whole, narrow := l.token(k.Secret, wire.CreateToken{}), l.token(k.Secret, wire.CreateToken{Scopes: []string{"read"}, TTLMS: 60_000})
	if whole.ID == narrow.ID || strings.Join(whole.Scopes, " ") != "manage" || whole.ProjectID != l.project.String() {
		t.Errorf("%+v", whole)
	}
	bearer := func(token string) map[string]string { return map[string]string{"Authorization": "Bearer " + token} }
	l.want(200, req{method: "GET", path: "/keys", key: "none", header: bearer(whole.Token)})
	l.want(200, req{method: "GET", path: "/vms", key: "none", header: bearer(narrow.Token)})
	l.want(200, req{method: "GET", path: "/vms", key: narrow.Token}) // by whatever header
	l.problem(403, errors.PermissionDenied, req{method: "POST", path: "/vms", key: "none", header: bearer(narrow.Token), body: "{}"})
	me := get[wire.Me](l, 200, req{method: "GET", path: "/me", key: narrow.Token})
	if me.TokenID != narrow.ID || me.KeyID != k.ID || me.Name != "k" || me.ExpiresAt == nil || !me.ExpiresAt.Equal(narrow.ExpiresAt) {
		t.Errorf("%+v", me)
	}
	l.problem(403, errors.PermissionDenied, req{method: "POST", path: "/auth/token", key: whole.Token})
	l.problem(403, errors.PermissionDenied, req{method: "POST", path: "/auth/token", key: k.Secret, body: wire.CreateToken{Scopes: []string{"admin"}}})
	for _, ttl := range []int64{999, 3_600_001} {
		l.problem(400, errors.InvalidArgument, req{method: "POST", path: "/auth/token", key: k.Secret, body: wire.CreateToken{TTLMS: ttl}})
	}
	// A key of a token's is nobody's shortcut either.
	l.problem(403, errors.PermissionDenied, req{method: "POST", path: "/keys", key: whole.Token, body: wire.CreateKey{Name: "x", Scopes: []string{"admin"}}})

	// A browser shows it on a WebSocket.
	s, _, err := l.dial("/events/stream", nil, http.Header{}, wire.Subprotocol, wire.BearerProtocolPrefix+whole.Token)
	if err != nil {
		t.Fatal(err)
	}
	// An administrator's token is for the project it was got in, or for all.
	there := get[wire.Token](l, 201, req{method: "POST", path: "/auth/token", header: map[string]string{wire.HeaderProject: "theirs"}, body: wire.CreateToken{Scopes: []string{"run"}}})
	if me := get[wire.Me](l, 200, req{method: "GET", path: "/me", key: there.Token}); me.Project != "theirs" || strings.Join(me.Scopes, " ") != "run" {
		t.Errorf("%+v", me)
	}
	l.problem(404, errors.NotFound, req{method: "GET", path: "/me", key: there.Token, header: map[string]string{wire.HeaderProject: "ours"}})
	everywhere := l.token(l.admin, wire.CreateToken{})
	l.want(200, req{method: "GET", path: "/me", key: everywhere.Token, header: map[string]string{wire.HeaderProject: "theirs"}})

	// The secret that a token was got by ends it.
	rotated := get[wire.NewKey](l, 200, req{method: "POST", path: "/keys/" + k.ID + "/rotate", key: l.user, body: wire.RotateKey{OverlapMS: 3_600_000}})
	l.want(200, req{method: "GET", path: "/vms", key: whole.Token})
	fresh := l.token(rotated.Secret, wire.CreateToken{})
	rotated = get[wire.NewKey](l, 200, req{method: "POST", path: "/keys/" + k.ID + "/rotate", key: l.user})
	if code := s.closeCode(); code != wire.CloseRefused {
		t.Errorf("the stream of a token whose secret ended ends with %d", code)
	}
	for _, token := range []wire.Token{whole, narrow, fresh} {
		l.problem(401, errors.Unauthenticated, req{method: "GET", path: "/vms", key: token.Token})
	}
	last := l.token(rotated.Secret, wire.CreateToken{})
	l.want(200, req{method: "GET", path: "/vms", key: last.Token})
	l.want(204, req{method: "DELETE", path: "/keys/" + k.ID, key: l.user})
	l.problem(401, errors.Unauthenticated, req{method: "GET", path: "/vms", key: last.Token})

	// Other keys sign from now on; what the old ones have signed stays, until
	// they are forgotten.
	l.problem(403, errors.PermissionDenied, req{method: "POST", path: "/auth/token-keys/rotate", key: l.user})
	before := l.token(l.user, wire.CreateToken{})
	l.want(204, req{method: "POST", path: "/auth/token-keys/rotate"})
	after := l.token(l.user, wire.CreateToken{})
	l.want(200, req{method: "GET", path: "/vms", key: before.Token})
	l.want(204, req{method: "POST", path: "/auth/token-keys/rotate", body: wire.RotateTokenKey{Forget: true}})
	for _, token := range []wire.Token{before, after} {
		l.problem(401, errors.Unauthenticated, req{method: "GET", path: "/vms", key: token.Token})
	}
	l.want(200, req{method: "GET", path: "/vms", key: l.token(l.user, wire.CreateToken{}).Token})
	for _, token := range []wire.Token{before, after, last} {
		if strings.Contains(l.log.String(), token.Token) {
			t.Error("the log tells a token")
		}
	}
}

// forge makes tokens as an attacker would who knows everything but the key.
type forge struct {
	t      *testing.T
	method jwt.SigningMethod
	header map[string]any
	claims jwt.MapClaims
	with   any
}

func (f forge) text() string {
	f.t.Helper()
	token := jwt.NewWithClaims(f.method, f.claims)
	for k, v := range f.header {
		if v == nil {
			delete(token.Header, k)
		} else {
			token.Header[k] = v
		}
	}
	text, err := token.SignedString(f.with)
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

func TestForgedTokens(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	genuine := l.token(l.user, wire.CreateToken{})
	key, err := l.ring.signing.Signer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var says jwt.MapClaims
	if _, _, err := jwt.NewParser().ParseUnverified(genuine.Token, &says); err != nil {
		t.Fatal(err)
	}
	public, _ := key.Private.Public().(ed25519.PublicKey)
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	_, mine, _ := ed25519.GenerateKey(rand.Reader)
	now := time.Now()
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	with := func(changes ...func(*forge)) string {
		f := forge{t: t, method: jwt.SigningMethodEdDSA, header: map[string]any{"typ": auth.TokenType, "kid": key.ID}, claims: jwt.MapClaims{}, with: key.Private}
		for k, v := range says {
			f.claims[k] = v
		}
		for _, c := range changes {
			c(&f)
		}
		return f.text()
	}
	claim := func(name string, v any) func(*forge) {
		return func(f *forge) {
			if f.claims[name] = v; v == nil {
				delete(f.claims, name)
			}
		}
	}
	head := func(name string, v any) func(*forge) { return func(f *forge) { f.header[name] = v } }
	sign := func(m jwt.SigningMethod, key any) func(*forge) { return func(f *forge) { f.method, f.with = m, key } }
	if resp, _ := l.do(req{method: "GET", path: "/vms", key: with()}); resp.StatusCode != http.StatusOK {
		t.Fatalf("one made with the key itself: %s", resp.Status)
	}
	parts := strings.Split(genuine.Token, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	jwk := map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64(mine.Public().(ed25519.PublicKey))}
	for name, token := range map[string]string{
		"no algorithm":                    with(sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType)),
		"no signature":                    parts[0] + "." + parts[1] + ".",
		"another's signature":             parts[0] + "." + parts[1] + "." + strings.Split(with(claim("jti", "x")), ".")[2],
		"another key":                     with(sign(jwt.SigningMethodEdDSA, mine)),
		"the public key as a secret":      with(sign(jwt.SigningMethodHS256, []byte(public))),
		"its PEM as a secret":             with(sign(jwt.SigningMethodHS256, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))),
		"a key in its header":             with(head("jwk", jwk), sign(jwt.SigningMethodEdDSA, mine)),
		"a key in its header beside ours": with(head("jwk", jwk)),
		"a key elsewhere":                 with(head("jku", "http://127.0.0.1:1/jwks.json")),
		"a certificate elsewhere":         with(head("x5u", "http://127.0.0.1:1/x.pem")),
		"a critical extension":            with(head("crit", []string{"exp"})),
		"an unknown key":                  with(head("kid", "aaaaaaaaaaaaaaaaaaaa")),
		"a key by path":                   with(head("kid", "../../dev/null")),
		"no key's name":                   with(head("kid", nil)),
		"the type of any JWT":             with(head("typ", "JWT")),
		"no type":                         with(head("typ", nil)),
		"another issuer":                  with(claim("iss", "https://aetherium.test/")),
		"no issuer":                       with(claim("iss", nil)),
		"another audience":                with(claim("aud", "somebody")),
		"no audience":                     with(claim("aud", nil)),
		"expired":                         with(claim("iat", at(-2*time.Minute)), claim("nbf", at(-2*time.Minute)), claim("exp", at(-time.Minute))),
		"no expiry":                       with(claim("exp", nil)),
		"valid for years":                 with(claim("exp", at(24*365*time.Hour))),
		"not valid yet":                   with(claim("nbf", at(time.Minute)), claim("exp", at(2*time.Minute))),
		"from the future":                 with(claim("iat", at(time.Minute)), claim("exp", at(2*time.Minute))),
		"no beginning":                    with(claim("nbf", nil)),
		"no session":                      with(claim("jti", nil)),
		"another's key":                   with(claim("sub", "key:aaaaaaaaaaaaaaaaaaaa")),
		"no user":                         with(claim("sub", "user:aaaaaaaaaaaaaaaaaaaa")),
		"nobody":                          with(claim("sub", "")),
		"somewhere else":                  with(claim("prj", "aaaaaaaaaaaaaaaaaaaa")),
		"by a secret of another time":     with(claim("sec", "AAAAAAAAAAAA")),
		"by no secret":                    with(claim("sec", nil)),
		"huge":                            with(claim("x", strings.Repeat("x", 30<<10))),
		"larger than any of ours":         with(claim("x", strings.Repeat("x", 3<<10))),
		"four parts":                      genuine.Token + ".x",
		"a newline in it":                 parts[0] + "." + parts[1] + "." + parts[2][:4] + "%0A" + parts[2][4:],
		"a claim of another kind":         with(claim("exp", "tomorrow")),
		"a padded signature":              genuine.Token + "==",
	} {
		p := l.problem(401, errors.Unauthenticated, req{method: "GET", path: "/vms", key: "none", header: map[string]string{"Authorization": "Bearer " + token}})
		if p.Detail != "the key or token is not valid" {
			t.Errorf("%s: %s", name, p.Detail)
		}
	}
	// More than its key has is not to be had by saying so.
	wide := with(claim("scope", "admin"))
	if me := get[wire.Me](l, 200, req{method: "GET", path: "/me", key: wide}); strings.Join(me.Scopes, " ") != "manage" {
		t.Errorf("%+v", me)
	}
	for _, scope := range []any{"root", "", nil} {
		l.problem(403, errors.PermissionDenied, req{method: "GET", path: "/me", key: with(claim("scope", scope))})
	}
}

func TestTokensBySecret(t *testing.T) {
	t.Parallel()
	secret, old := []byte(strings.Repeat("s", 32)), []byte(strings.Repeat("o", 32))
	by := func(secrets ...[]byte) func(*gateway.Config, *gateway.Deps) {
		return func(_ *gateway.Config, d *gateway.Deps) {
			lookup, ok := d.Projects.(auth.Holders)
			if !ok {
				t.Fatal("no lookup")
			}
			tokens, err := auth.NewTokens(auth.TokenConfig{Issuer: "https://aetherium.test", Secrets: secrets, Holders: lookup})
			if err != nil {
				t.Fatal(err)
			}
			d.Tokens = tokens
			d.Authenticator = auth.NewAny(d.Authenticator, map[string]auth.Authenticator{tokens.Issuer: tokens})
		}
	}
	l := newLab(t, by(secret, old))
	token := l.token(l.user, wire.CreateToken{})
	l.want(200, req{method: "GET", path: "/vms", key: token.Token})
	l.problem(422, errors.Unsupported, req{method: "POST", path: "/auth/token-keys/rotate"})
	parsed, _, err := jwt.NewParser().ParseUnverified(token.Token, jwt.MapClaims{})
	if err != nil || parsed.Method.Alg() != "HS256" {
		t.Fatalf("%v, %v", parsed, err)
	}
	says := parsed.Claims
	for name, tc := range map[string]struct {
		secret []byte
		kid    any
		status int
	}{
		"the secret": {secret, parsed.Header["kid"], 200}, "another": {[]byte(strings.Repeat("x", 32)), parsed.Header["kid"], 401},
		"the older by the newer's name": {old, parsed.Header["kid"], 401}, "no name": {secret, "", 401}, "an empty one": {[]byte{}, parsed.Header["kid"], 401},
	} {
		forged := jwt.NewWithClaims(jwt.SigningMethodHS256, says)
		forged.Header["typ"], forged.Header["kid"] = auth.TokenType, tc.kid
		text, err := forged.SignedString(tc.secret)
		if err != nil {
			t.Fatal(err)
		}
		if resp, body := l.do(req{method: "GET", path: "/vms", key: text}); resp.StatusCode != tc.status {
			t.Errorf("%s: %s %s", name, resp.Status, body)
		}
	}
	// Where secrets sign, keys do not.
	key, err := l.ring.signing.Signer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	forged := jwt.NewWithClaims(jwt.SigningMethodEdDSA, says)
	forged.Header["typ"], forged.Header["kid"] = auth.TokenType, key.ID
	text, err := forged.SignedString(key.Private)
	if err != nil {
		t.Fatal(err)
	}
	l.problem(401, errors.Unauthenticated, req{method: "GET", path: "/vms", key: text})
	if _, err := auth.NewTokens(auth.TokenConfig{Secrets: [][]byte{secret[:31]}}); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("a short secret: %v", err)
	}
}

// userToken lets a user in by a word, in the place of an identity provider.
type userToken struct {
	auth.Authenticator
	lookup auth.Holders
	user   domain.ID
}

func (u userToken) Authenticate(ctx context.Context, token string) (vmm.Caller, error) {
	if token == "user" {
		return u.lookup.LookupUser(ctx, u.user, "")
	}
	return u.Authenticator.Authenticate(ctx, token)
}

// Who is let in as a user works in all projects of theirs, and what they made
// ends with them.
func TestUsersWithoutAKey(t *testing.T) {
	t.Parallel()
	user := &domain.User{ID: domain.NewID(), Name: "carol", CreatedAt: time.Now(), UpdatedAt: time.Now()}
	l := newLab(t, func(_ *gateway.Config, d *gateway.Deps) {
		lookup, ok := d.Projects.(auth.Holders)
		if !ok {
			t.Fatal("no lookup")
		}
		d.Authenticator = userToken{d.Authenticator, lookup, user.ID}
	})
	l.ring.update(func(ctx context.Context, tx storage.Tx) error { return tx.Users().Insert(ctx, user) })
	in := func(project string) map[string]string { return map[string]string{wire.HeaderProject: project} }
	if p := l.problem(403, errors.PermissionDenied, req{method: "GET", path: "/me", key: "user"}); !strings.Contains(p.Detail, "member of no project") {
		t.Errorf("%+v", p)
	}
	l.want(200, req{method: "PUT", path: "/members/carol", body: wire.SetMember{Role: "viewer"}})
	l.want(200, req{method: "PUT", path: "/members/carol", header: in("theirs"), body: wire.SetMember{Role: "maintainer"}})
	for project, scope := range map[string]string{"ours": "read", "theirs": "manage"} {
		if me := get[wire.Me](l, 200, req{method: "GET", path: "/me", key: "user", header: in(project)}); me.Project != project || strings.Join(me.Scopes, " ") != scope || me.UserID != user.ID.String() {
			t.Errorf("%+v", me)
		}
	}
	if me := get[wire.Me](l, 200, req{method: "GET", path: "/me", key: "user"}); me.Project != "ours" {
		t.Errorf("at home: %+v", me)
	}
	there := get[wire.Token](l, 201, req{method: "POST", path: "/auth/token", key: "user", header: in("theirs")})
	k := get[wire.NewKey](l, 201, req{method: "POST", path: "/keys", key: there.Token, body: wire.CreateKey{Name: "mine", Scopes: []string{"manage"}}})
	if me := get[wire.Me](l, 200, req{method: "GET", path: "/me", key: k.Secret}); me.Project != "theirs" || me.UserID != user.ID.String() {
		t.Errorf("%+v", me)
	}
	l.problem(404, errors.NotFound, req{method: "GET", path: "/me", key: there.Token, header: in("ours")})
	s, _, err := l.dial("/events/stream", nil, http.Header{"Authorization": {"Bearer " + there.Token}})
	if err != nil {
		t.Fatal(err)
	}
	l.want(204, req{method: "DELETE", path: "/members/carol", header: in("theirs")})
	if code := s.closeCode(); code != wire.CloseRefused {
		t.Errorf("a former member's stream ends with %d", code)
	}
	for _, secret := range []string{there.Token, k.Secret} {
		l.problem(401, errors.Unauthenticated, req{method: "GET", path: "/me", key: secret})
	}
	l.problem(404, errors.NotFound, req{method: "GET", path: "/me", key: "user", header: in("theirs")})
	home := l.token("user", wire.CreateToken{})
	l.want(200, req{method: "GET", path: "/vms", key: home.Token})
	l.want(204, req{method: "DELETE", path: "/users/carol"})
	l.problem(401, errors.Unauthenticated, req{method: "GET", path: "/vms", key: home.Token})
}
