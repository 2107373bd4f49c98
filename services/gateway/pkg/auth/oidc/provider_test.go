package oidc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth/oidc"
)

const audience = "aetherium-here"

// idp is a little identity provider on loopback.
type idp struct {
	t      *testing.T
	server *httptest.Server

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	fetches int // of keys
	answer  http.HandlerFunc
	issuer  string // that it says it is; "": its address
	jwks    string
}

func newIDP(t *testing.T) *idp {
	p := &idp{t: t}
	p.server = httptest.NewServer(p)
	t.Cleanup(p.server.Close)
	return p
}

func (p *idp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answer != nil {
		p.answer(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		issuer, jwks := p.issuer, p.jwks
		if issuer == "" {
			issuer = p.server.URL
		}
		if jwks == "" {
			jwks = p.server.URL + "/keys"
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": issuer, "jwks_uri": jwks, "authorization_endpoint": issuer, "token_endpoint": issuer})
	case "/keys":
		p.fetches++
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: p.keys})
	default:
		http.NotFound(w, r)
	}
}

func (p *idp) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// mint makes a signing key and, unless it shall be unknown, publishes it.
func (p *idp) mint(kid string, publish bool) *rsa.PrivateKey {
	p.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		p.t.Fatal(err)
	}
	if publish {
		p.set(func() {
			p.keys = append(p.keys, jose.JSONWebKey{Key: &key.PublicKey, KeyID: kid, Algorithm: "RS256", Use: "sig"})
		})
	}
	return key
}

// bench is a provider of ours over that one and a real store.
type bench struct {
	*testing.T
	idp     *idp
	key     *rsa.PrivateKey
	lookup  *access.Lookup
	service *access.Service
	admin   vmm.Caller

	mu  sync.Mutex
	now time.Time
}

func (b *bench) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

func newBench(t *testing.T) *bench {
	t.Helper()
	store, err := sqlitetest.Open(t.Context(), filepath.Join(t.TempDir(), "a.db"), sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	b := &bench{T: t, idp: newIDP(t), lookup: access.NewLookup(store, nil), service: access.New(access.Deps{Store: store}), now: time.Now()}
	b.key = b.idp.mint("one", true)
	p := &domain.Project{ID: domain.NewID(), Name: "first", CreatedAt: b.now}
	if err := store.Update(t.Context(), func(tx storage.Tx) error { return tx.Projects().Insert(t.Context(), p) }); err != nil {
		t.Fatal(err)
	}
	b.admin = vmm.Caller{ProjectID: p.ID, Name: "root", Scopes: domain.Scopes{domain.ScopeAdmin}, Admin: true}
	return b
}

func (b *bench) provider(change func(*oidc.Config)) *oidc.Provider {
	b.Helper()
	c := oidc.Config{Issuer: b.idp.server.URL, Audiences: []string{"other", audience}, Create: true, Now: b.clock}
	if change != nil {
		change(&c)
	}
	p, err := oidc.New(c, b.lookup)
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// token makes one of the provider's tokens, after changes.
type token struct {
	method jwt.SigningMethod
	key    any
	header map[string]any
	claims jwt.MapClaims
}

func (b *bench) token(changes ...func(*token)) string {
	b.Helper()
	now := b.clock()
	t := token{
		method: jwt.SigningMethodRS256, key: b.key, header: map[string]any{"kid": "one"},
		claims: jwt.MapClaims{
			"iss": b.idp.server.URL, "aud": audience, "sub": "42", "exp": now.Add(time.Hour).Unix(), "iat": now.Unix(),
			"email": "alice@example.com", "email_verified": true, "groups": []string{"staff", "ops"},
		},
	}
	for _, f := range changes {
		f(&t)
	}
	j := jwt.NewWithClaims(t.method, t.claims)
	for k, v := range t.header {
		j.Header[k] = v
	}
	text, err := j.SignedString(t.key)
	if err != nil {
		b.Fatal(err)
	}
	return text
}

func claim(name string, v any) func(*token) {
	return func(t *token) {
		if t.claims[name] = v; v == nil {
			delete(t.claims, name)
		}
	}
}

func head(name string, v any) func(*token) { return func(t *token) { t.header[name] = v } }

func sign(m jwt.SigningMethod, key any) func(*token) {
	return func(t *token) { t.method, t.key = m, key }
}

func TestUsersComeIn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.provider(func(c *oidc.Config) {
		c.RoleClaim, c.Roles = "groups", []oidc.Role{{Value: "staff", Role: "viewer"}, {Value: "ops", Role: "maintainer"}, {Value: "root", Role: "admin"}}
	})
	by, err := p.Authenticate(t.Context(), b.token())
	if err != nil || by.Name != "alice@example.com" || by.UserID == "" || by.KeyID != "" || by.ProjectID != b.admin.ProjectID || by.Scopes.Widest() != domain.ScopeManage || by.Admin {
		t.Fatalf("%+v, %v", by, err)
	}
	if want := b.clock().Add(time.Hour).Unix(); by.Until.Unix() != want {
		t.Errorf("until %s", by.Until)
	}
	// Roles follow the claim; a token without the claim changes none.
	for _, tc := range []struct {
		groups any
		want   domain.Scope
	}{
		{[]string{"staff"}, domain.ScopeRead}, {nil, domain.ScopeRead}, {"root", domain.ScopeAdmin}, {nil, domain.ScopeAdmin},
		{[]any{"staff", 7, nil}, domain.ScopeRead}, {[]string{}, ""}, {nil, ""}, {map[string]any{"staff": true}, ""}, {[]string{"ops"}, domain.ScopeManage},
	} {
		by, err := p.Authenticate(t.Context(), b.token(claim("groups", tc.groups)))
		if by.Scopes.Widest() != tc.want || (tc.want == "") != errors.HasCode(err, errors.PermissionDenied) {
			t.Errorf("%v: %s, %v", tc.groups, by.Scopes, err)
		}
	}
	// Somebody who is disabled is nobody.
	yes := true
	if _, err := b.service.PatchUser(t.Context(), b.admin, "alice@example.com", access.PatchUser{Disabled: &yes}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Authenticate(t.Context(), b.token()); !errors.HasCode(err, errors.Unauthenticated) {
		t.Errorf("a disabled user: %v", err)
	}
	nested := b.provider(func(c *oidc.Config) {
		c.RoleClaim, c.Roles = "realm_access.roles", []oidc.Role{{Value: "dev", Role: "developer"}}
	})
	by, err = nested.Authenticate(t.Context(), b.token(claim("sub", "43"), claim("email_verified", false), claim("realm_access", map[string]any{"roles": []string{"dev"}})))
	if err != nil || by.Scopes.Widest() != domain.ScopeRun || !strings.HasPrefix(by.Name, "user-") {
		t.Errorf("%+v, %v", by, err)
	}
	closed := b.provider(func(c *oidc.Config) { c.Create = false })
	if _, err := closed.Authenticate(t.Context(), b.token(claim("sub", "44"))); !errors.HasCode(err, errors.Unauthenticated) {
		t.Errorf("a stranger: %v", err)
	}
}

func TestDomains(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	bob, err := b.service.CreateUser(t.Context(), b.admin, access.CreateUser{Name: "bob@example.com", Admin: true})
	if err != nil {
		t.Fatal(err)
	}
	p := b.provider(func(c *oidc.Config) { c.Domains, c.NameClaim = []string{"example.com"}, "preferred_username" })
	for name, tc := range map[string]struct {
		changes []func(*token)
		code    errors.Code
	}{
		"another domain":   {[]func(*token){claim("email", "eve@evil.example")}, errors.PermissionDenied},
		"a domain above":   {[]func(*token){claim("email", "eve@sub.example.com")}, errors.PermissionDenied},
		"two signs":        {[]func(*token){claim("email", "eve@example.com@evil.example")}, errors.PermissionDenied},
		"not verified":     {[]func(*token){claim("email", "bob@example.com"), claim("email_verified", false)}, errors.PermissionDenied},
		"verified in jest": {[]func(*token){claim("email", "bob@example.com"), claim("email_verified", "yes")}, errors.PermissionDenied},
		"no address":       {[]func(*token){claim("email", nil), claim("preferred_username", "bob@example.com")}, errors.PermissionDenied},
	} {
		if _, err := p.Authenticate(t.Context(), b.token(tc.changes...)); errors.CodeOf(err) != tc.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	by, err := p.Authenticate(t.Context(), b.token(claim("email", "Bob@EXAMPLE.com")))
	if err != nil || by.UserID != bob.ID || !by.Admin {
		t.Errorf("%+v, %v", by, err)
	}
	// Once taken the address is taken, also for who can say it again.
	by, err = p.Authenticate(t.Context(), b.token(claim("email", "bob@example.com"), claim("sub", "other")))
	if !errors.HasCode(err, errors.PermissionDenied) || by.UserID == bob.ID {
		t.Errorf("%+v, %v", by, err)
	}
}

func TestForgeries(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.provider(func(c *oidc.Config) { c.RoleClaim, c.Roles = "groups", []oidc.Role{{Value: "staff", Role: "viewer"}} })
	mine := b.idp.mint("one", false)
	elliptic256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b.idp.set(func() {
		b.idp.keys = append(b.idp.keys, jose.JSONWebKey{Key: []byte(strings.Repeat("k", 32)), KeyID: "secret", Algorithm: "HS256"})
	})
	public, _ := json.Marshal(jose.JSONWebKey{Key: &mine.PublicKey, KeyID: "one"})
	now := b.clock()
	good := b.token()
	parts := strings.Split(good, ".")
	if _, err := p.Authenticate(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"no algorithm":               b.token(sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType)),
		"no signature":               parts[0] + "." + parts[1] + ".",
		"another's signature":        parts[0] + "." + parts[1] + "." + strings.Split(b.token(claim("sub", "1")), ".")[2],
		"another key":                b.token(sign(jwt.SigningMethodRS256, mine)),
		"the public key as a secret": b.token(sign(jwt.SigningMethodHS256, b.key.N.Bytes())),
		"a published secret":         b.token(sign(jwt.SigningMethodHS256, []byte(strings.Repeat("k", 32))), head("kid", "secret")),
		"another kind of key":        b.token(sign(jwt.SigningMethodES256, elliptic256)),
		"an algorithm not allowed":   b.token(sign(jwt.SigningMethodPS256, b.key)),
		"a key in the header":        b.token(sign(jwt.SigningMethodRS256, mine), head("jwk", json.RawMessage(public))),
		"a key beside the right one": b.token(head("jwk", json.RawMessage(public))),
		"a key elsewhere":            b.token(sign(jwt.SigningMethodRS256, mine), head("jku", b.idp.server.URL+"/keys")),
		"a certificate":              b.token(head("x5c", []string{"AAAA"})),
		"a critical extension":       b.token(head("crit", []string{"x"}), head("x", 1)),
		"another audience":           b.token(claim("aud", "somebody-else")),
		"no audience":                b.token(claim("aud", nil)),
		"other audiences":            b.token(claim("aud", []string{"a", "b"})),
		"another issuer":             b.token(claim("iss", b.idp.server.URL+"/")),
		"no subject":                 b.token(claim("sub", nil)),
		"an endless subject":         b.token(claim("sub", strings.Repeat("s", 300))),
		"expired":                    b.token(claim("exp", now.Add(-time.Second).Unix())),
		"no expiry":                  b.token(claim("exp", nil)),
		"an expiry in words":         b.token(claim("exp", "never")),
		"not valid yet":              b.token(claim("nbf", now.Add(2*time.Minute).Unix())),
		"from the future":            b.token(claim("iat", now.Add(2*time.Minute).Unix())),
		"huge":                       b.token(claim("x", strings.Repeat("x", 20<<10))),
		"nonsense":                   "a.b.c",
		"JSON serialisation":         `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
	} {
		if by, err := p.Authenticate(t.Context(), text); !errors.HasCode(err, errors.Unauthenticated) || by.UserID != "" {
			t.Errorf("%s: %+v, %v", name, by, err)
		}
	}
	if _, err := p.Authenticate(t.Context(), b.token(claim("aud", []string{"x", audience}), claim("nbf", now.Unix()))); err != nil {
		t.Errorf("one of several audiences: %v", err)
	}
}

// Keys are asked for when they are needed, and no more often.
func TestKeysAreKept(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.provider(func(c *oidc.Config) { c.RoleClaim, c.Roles = "groups", []oidc.Role{{Value: "staff", Role: "viewer"}} })
	check := func(what, text string, code errors.Code, fetches int) {
		t.Helper()
		_, err := p.Authenticate(t.Context(), text)
		b.idp.set(func() {
			if errors.CodeOf(err) != code || b.idp.fetches != fetches {
				t.Errorf("%s: %v after %d fetches, want %s after %d", what, err, b.idp.fetches, code, fetches)
			}
		})
	}
	check("the first", b.token(), "", 1)
	check("the second", b.token(), "", 1)
	for i := range 20 {
		check("a key that there is not", b.token(head("kid", fmt.Sprint(i))), errors.Unauthenticated, 1)
	}
	b.pass(time.Minute)
	next := b.idp.mint("two", true)
	check("a key that is new", b.token(head("kid", "two"), sign(jwt.SigningMethodRS256, next)), "", 2)
	check("the one before", b.token(), "", 2)
	check("no key's name", b.token(func(t *token) { delete(t.header, "kid") }), "", 2)
	// One that is withdrawn counts for an hour at most.
	b.idp.set(func() { b.idp.keys = b.idp.keys[1:] })
	check("a withdrawn key, soon", b.token(), "", 2)
	b.pass(time.Hour)
	check("a withdrawn key, later", b.token(), errors.Unauthenticated, 3)
	// A provider that is away is nobody's fault; keys that are known count on.
	b.pass(time.Minute)
	b.idp.set(func() {
		b.idp.answer = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "away", http.StatusBadGateway) }
	})
	check("a known key while it is away", b.token(head("kid", "two"), sign(jwt.SigningMethodRS256, next)), "", 3)
	check("an unknown key while it is away", b.token(head("kid", "three")), errors.Unavailable, 3)
	b.pass(time.Hour)
	check("an old key while it is away", b.token(head("kid", "two"), sign(jwt.SigningMethodRS256, next)), errors.Unavailable, 3)
}

func TestProvidersThatMisbehave(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was followed") }))
	t.Cleanup(elsewhere.Close)
	for name, f := range map[string]func(*idp){
		"says it is another": func(p *idp) { p.issuer = "https://somebody.example" },
		"keys in clear text": func(p *idp) { p.jwks = "http://keys.example/" },
		"keys in a file":     func(p *idp) { p.jwks = "file:///etc/passwd" },
		"keys behind a name": func(p *idp) { p.jwks = strings.Replace(p.server.URL, "http://", "http://me@", 1) + "/keys" },
		"endless": func(p *idp) {
			p.answer = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte(`{"issuer":"`))
				chunk := []byte(strings.Repeat("x", 64<<10))
				for {
					if _, err := w.Write(chunk); err != nil || r.Context().Err() != nil {
						return
					}
				}
			}
		},
		"sends one away": func(p *idp) {
			p.answer = func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }
		},
		"no JSON": func(p *idp) {
			p.answer = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.idp.set(func() { f(b.idp) })
			p := b.provider(nil)
			if _, err := p.Authenticate(t.Context(), b.token()); !errors.HasCode(err, errors.Unavailable) {
				t.Errorf("%v", err)
			}
		})
	}
}

// While the provider is asked for a key that is new, who shows a known one is
// let in, and who does not wait is not waited for.
func TestAProviderThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.provider(func(c *oidc.Config) { c.RoleClaim, c.Roles = "groups", []oidc.Role{{Value: "staff", Role: "viewer"}} })
	known, unknown := b.token(), b.token(head("kid", "two"))
	if _, err := p.Authenticate(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	b.pass(time.Minute)
	asked, release := make(chan struct{}), make(chan struct{})
	b.idp.set(func() {
		b.idp.answer = func(w http.ResponseWriter, _ *http.Request) {
			close(asked)
			<-release
			http.Error(w, "away", http.StatusBadGateway)
		}
	})
	waits := make(chan error, 1)
	go func() {
		_, err := p.Authenticate(t.Context(), unknown)
		waits <- err
	}()
	<-asked
	if _, err := p.Authenticate(t.Context(), known); err != nil {
		t.Errorf("a known key: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Authenticate(ctx, unknown); err == nil {
		t.Error("let in without a key")
	}
	close(release)
	if err := <-waits; !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("a key that cannot be had: %v", err)
	}
}

func TestConfigurations(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]oidc.Config{
		"no issuer":         {Audiences: []string{"a"}},
		"clear text":        {Issuer: "http://id.example", Audiences: []string{"a"}},
		"no address":        {Issuer: "id.example", Audiences: []string{"a"}},
		"no audience":       {Issuer: "https://id.example"},
		"an empty audience": {Issuer: "https://id.example", Audiences: []string{""}},
		"a secret's":        {Issuer: "https://id.example", Audiences: []string{"a"}, Algorithms: []string{"HS256"}},
		"none":              {Issuer: "https://id.example", Audiences: []string{"a"}, Algorithms: []string{"none"}},
		"a strange role":    {Issuer: "https://id.example", Audiences: []string{"a"}, RoleClaim: "r", Roles: []oidc.Role{{Value: "x", Role: "owner"}}},
		"an empty value":    {Issuer: "https://id.example", Audiences: []string{"a"}, RoleClaim: "r", Roles: []oidc.Role{{Role: "viewer"}}},
		"roles by no claim": {Issuer: "https://id.example", Audiences: []string{"a"}, Roles: []oidc.Role{{Value: "x", Role: "viewer"}}},
	} {
		if _, err := oidc.New(c, nil); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := oidc.New(oidc.Config{Issuer: "https://id.example/realms/a", Audiences: []string{"a"}, Algorithms: []string{"ES512"}}, nil); err != nil {
		t.Error(err)
	}
}
