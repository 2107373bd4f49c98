package settings_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/gateway/pkg/settings"
)

func load(file string, environ []string) (settings.Front, error) {
	s := settings.DefaultFront()
	if err := config.Load(&s, file, "AETHERIUM", environ); err != nil {
		return s, err
	}
	return s, s.Check()
}

func TestAuth(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "c.yaml")
	text := `
auth:
  tokens:
    ttl: 5m
  oidc:
    - issuer: https://id.example/realms/a
      audiences: [aetherium]
      create: true
      role_claim: realm_access.roles
      roles:
        - {value: ops, role: admin}
        - {value: dev, role: developer, project: web}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Auth.Tokens.Algorithm != settings.TokensEdDSA || len(s.Auth.OIDC) != 1 || s.Auth.OIDC[0].Roles[1].Project != "web" || !s.Auth.OIDC[0].Create {
		t.Errorf("%+v", s.Auth)
	}
	for _, bad := range []string{"AETHERIUM_AUTH_TOKENS_ALGORITHM=none", "AETHERIUM_AUTH_TOKENS_TTL=2h", "AETHERIUM_AUTH_TOKENS_TTL=0", "AETHERIUM_AUTH_TOKENS_ROTATE=-1h", "AETHERIUM_AUTH_OIDC=https://id.example"} {
		if _, err := load("", []string{bad}); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for name, bad := range map[string]string{
		"twice":     text + "    - {issuer: 'https://id.example/realms/a', audiences: [x]}\n",
		"no issuer": "auth: {oidc: [{audiences: [x]}]}",
		"a typo":    strings.Replace(text, "audiences", "audience", 1),
	} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := load(file, nil); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d := settings.DefaultFront()
	ref := config.Reference(&d, "AETHERIUM")
	for _, want := range []string{"| `auth.tokens.ttl` | `AETHERIUM_AUTH_TOKENS_TTL` | `15m0s` |", "| `auth.oidc` | |", "| `auth.oidc[].issuer` | |", "| `auth.oidc[].roles[].role` | |"} {
		if !strings.Contains(ref, want) {
			t.Errorf("no %q in\n%s", want, ref)
		}
	}
}

func TestTokenSecrets(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	tokens := settings.Tokens{Algorithm: settings.TokensHS256, SecretFile: file}
	if secrets, err := (settings.Tokens{Algorithm: settings.TokensEdDSA, SecretFile: file}).Secrets(); err != nil || secrets != nil {
		t.Errorf("%q, %v", secrets, err)
	}
	for _, tc := range []struct {
		text string
		mode os.FileMode
		want string
		code errors.Code
	}{
		{"new\nold\n", 0o600, "new old", ""},
		{"new", 0o640, "", errors.PermissionDenied},
		{" \n", 0o600, "", errors.InvalidArgument},
		{strings.Repeat("x", 65<<10), 0o600, "", errors.InvalidArgument},
	} {
		if err := errors.Join(os.WriteFile(file, []byte(tc.text), 0o600), os.Chmod(file, tc.mode)); err != nil {
			t.Fatal(err)
		}
		secrets, err := tokens.Secrets()
		var got []string
		for _, s := range secrets {
			got = append(got, string(s))
		}
		if strings.Join(got, " ") != tc.want || errors.CodeOf(err) != tc.code {
			t.Errorf("%.10q: %q, %v", tc.text, got, err)
		}
	}
	for _, bad := range []string{"", file + ".none"} {
		tokens.SecretFile = bad
		if _, err := tokens.Secrets(); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
