package app

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/installation"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/serve"
	gateway "github.com/aetherium/aetherium/services/gateway/pkg/settings"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

// What the settings say of who is let in is so: an identity provider's users
// with their roles, who get tokens of the installation's own for it.
func TestAccessAsConfigured(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var idp *httptest.Server
	idp = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/keys" {
			_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
				"kty": "OKP", "crv": "Ed25519", "kid": "k", "use": "sig", "x": base64.RawURLEncoding.EncodeToString(public),
			}}})
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": idp.URL, "jwks_uri": idp.URL + "/keys"})
	}))
	t.Cleanup(idp.Close)
	dir := t.TempDir()
	file := filepath.Join(dir, "aetherium.yaml")
	if err := os.WriteFile(file, []byte(`
data_dir: `+dir+`
auth:
  tokens:
    ttl: 5m
  oidc:
    - issuer: `+idp.URL+`
      audiences: [aetherium]
      domains: [example.com]
      create: true
      role_claim: groups
      roles:
        - {value: ops, role: admin}
        - {value: dev, role: developer, project: default}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := settings.Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlitetest.Open(t.Context(), dir+"/db", sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	ring, err := seal.NewKeys(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	in := &installation.Installation{Store: store, Sealer: seal.New(ring), ID: "here"}
	project, err := in.FirstProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.FirstKey(t.Context(), store, project, s.KeyFile(), log); err != nil {
		t.Fatal(err)
	}
	who, err := serve.OpenAccess(s.Auth, in, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	show := func(group string) (string, domain.Scope, error) {
		j := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
			"iss": idp.URL, "aud": "aetherium", "sub": "42", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(),
			"email": "alice@example.com", "email_verified": true, "groups": []string{group},
		})
		j.Header["kid"] = "k"
		text, err := j.SignedString(private)
		if err != nil {
			t.Fatal(err)
		}
		by, err := who.Authenticator.Authenticate(t.Context(), text)
		return by.Name, by.Scopes.Widest(), err
	}
	for group, want := range map[string]domain.Scope{"dev": domain.ScopeRun, "ops": domain.ScopeAdmin} {
		if name, scope, err := show(group); err != nil || name != "alice@example.com" || scope != want {
			t.Errorf("%s: %s has %s, %v", group, name, scope, err)
		}
	}
	if _, _, err := show("nobody"); !errors.HasCode(err, errors.PermissionDenied) {
		t.Errorf("no group: %v", err)
	}
	text, err := os.ReadFile(s.KeyFile())
	if err != nil {
		t.Fatal(err)
	}
	by, err := who.Authenticator.Authenticate(t.Context(), strings.TrimSpace(string(text)))
	if err != nil || by.ProjectID != project || !by.Admin {
		t.Fatalf("%+v, %v", by, err)
	}
	token, err := who.Tokens.Issue(t.Context(), by, auth.IssueToken{})
	if err != nil || time.Until(token.ExpiresAt) > 5*time.Minute {
		t.Fatalf("%+v, %v", token, err)
	}
	if again, err := who.Authenticator.Authenticate(t.Context(), token.Text); err != nil || again.KeyID != by.KeyID || again.TokenID != token.ID {
		t.Errorf("%+v, %v", again, err)
	}
	// What cannot be is said before anything is served.
	s.Auth.OIDC[0].Audiences = nil
	if _, err := serve.OpenAccess(s.Auth, in, nil, log); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("without an audience: %v", err)
	}
	s.Auth.OIDC, s.Auth.Tokens.Algorithm = nil, gateway.TokensHS256
	if _, err := serve.OpenAccess(s.Auth, in, nil, log); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("without a secret: %v", err)
	}
}
