package settings

import (
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Auth is who is let in beside the holders of API keys.
type Auth struct {
	Tokens Tokens `yaml:"tokens"`
	OIDC   []OIDC `yaml:"oidc" doc:"Identity providers (OpenID Connect) whose ID and access tokens are let in."`
}

// The algorithms of access tokens.
const (
	TokensEdDSA = "eddsa"
	TokensHS256 = "hs256"
)

// Tokens are the installation's own short-lived access tokens.
type Tokens struct {
	Algorithm  string          `yaml:"algorithm" doc:"eddsa: signed with a key that is made at the first start and replaced by itself; hs256: with a secret that is given."`
	SecretFile string          `yaml:"secret_file" doc:"For hs256: a file of mode 0600 with one secret a line, each of 32 bytes or more, the one that signs first. Or the variable AETHERIUM_TOKEN_SECRETS."`
	TTL        config.Duration `yaml:"ttl" doc:"How long a token is valid that is not asked for otherwise; an hour at most."`
	Rotate     config.Duration `yaml:"rotate" doc:"For eddsa: after how long another key signs; 0: never by itself."`
}

// OIDC is one identity provider.
type OIDC struct {
	Issuer     string     `yaml:"issuer" doc:"Its address, exactly as its tokens have it in iss. https, but on this host itself."`
	Audiences  []string   `yaml:"audiences" doc:"What aud must hold one of: the client ID that it has for this installation."`
	Domains    []string   `yaml:"domains" doc:"Domains that users' verified email addresses must be in. A user made by an administrator under such an address becomes the one who has it."`
	Create     bool       `yaml:"create" doc:"Make users at first sight; else only those that an administrator has made are let in."`
	NameClaim  string     `yaml:"name_claim" doc:"Claim that names users who are made; default email, where that is verified."`
	RoleClaim  string     `yaml:"role_claim" doc:"Claim that roles are told by: a text or a list, inside of objects by dots, such as realm_access.roles."`
	Roles      []OIDCRole `yaml:"roles" doc:"What its values give. A user's roles follow them; those that somebody gave stay."`
	Algorithms []string   `yaml:"algorithms" doc:"Algorithms of signatures; default RS256, ES256, EdDSA."`
}

// OIDCRole is what a value of the role claim gives.
type OIDCRole struct {
	Value   string `yaml:"value" doc:"Value of the claim."`
	Role    string `yaml:"role" doc:"viewer, developer, maintainer or admin."`
	Project string `yaml:"project" doc:"Name of the project; default: the first. admin is for all."`
}

func defaultAuth() Auth {
	return Auth{Tokens: Tokens{Algorithm: TokensEdDSA, TTL: config.Duration(15 * time.Minute), Rotate: config.Duration(30 * 24 * time.Hour)}}
}

// check finds what the parts that use the settings would find only at a start.
func (a Auth) check() error {
	switch a.Tokens.Algorithm {
	case TokensEdDSA, TokensHS256:
	default:
		return errors.New(errors.InvalidArgument, "%q is not an algorithm of access tokens", a.Tokens.Algorithm).
			WithField("auth.tokens.algorithm").WithHint("%s or %s", TokensEdDSA, TokensHS256)
	}
	if t := time.Duration(a.Tokens.TTL); t < time.Second || t > time.Hour {
		return errors.New(errors.InvalidArgument, "access tokens valid for %s are out of range", t).WithField("auth.tokens.ttl").WithHint("from 1s to 1h")
	}
	if a.Tokens.Rotate < 0 {
		return errors.New(errors.InvalidArgument, "keys cannot be replaced before they are made").WithField("auth.tokens.rotate")
	}
	seen := map[string]bool{}
	for _, p := range a.OIDC {
		if u, err := url.Parse(p.Issuer); err != nil || u.Host == "" {
			return errors.New(errors.InvalidArgument, "%q is not an identity provider's address", p.Issuer).WithField("auth.oidc.issuer")
		}
		if seen[p.Issuer] {
			return errors.New(errors.InvalidArgument, "the identity provider %s is there twice", p.Issuer).WithField("auth.oidc.issuer")
		}
		seen[p.Issuer] = true
	}
	return nil
}

// maxSecretFile bounds the file of secrets.
const maxSecretFile = 64 << 10

// SecretVariable holds the secrets of access tokens where they shall not be in
// a file.
const SecretVariable = "AETHERIUM_TOKEN_SECRETS"

// Secrets reads the secrets that sign access tokens, newest first; none for
// eddsa. Returns InvalidArgument, PermissionDenied for a file that others can read.
func (t Tokens) Secrets() ([][]byte, error) {
	if t.Algorithm != TokensHS256 {
		return nil, nil
	}
	text := os.Getenv(SecretVariable)
	if text == "" {
		if t.SecretFile == "" {
			return nil, errors.New(errors.InvalidArgument, "access tokens by %s need a secret", TokensHS256).WithField("auth.tokens.secret_file").
				WithHint("name a file that holds it, or set %s", SecretVariable)
		}
		info, err := os.Stat(t.SecretFile)
		switch {
		case err != nil:
			return nil, errors.Wrap(err, errors.InvalidArgument, "the file %s cannot be read", t.SecretFile).WithField("auth.tokens.secret_file")
		case info.Mode().Perm()&0o077 != 0:
			return nil, errors.New(errors.PermissionDenied, "the file %s can be read by others", t.SecretFile).WithField("auth.tokens.secret_file").
				WithHint("chmod 600 %s", t.SecretFile)
		case info.Size() > maxSecretFile:
			return nil, errors.New(errors.InvalidArgument, "the file %s is no file of secrets: it has %d bytes", t.SecretFile, info.Size()).WithField("auth.tokens.secret_file")
		}
		raw, err := os.ReadFile(t.SecretFile)
		if err != nil {
			return nil, errors.Wrap(err, errors.InvalidArgument, "the file %s cannot be read", t.SecretFile).WithField("auth.tokens.secret_file")
		}
		text = string(raw)
	}
	var secrets [][]byte
	for line := range strings.FieldsSeq(text) {
		secrets = append(secrets, []byte(line))
	}
	if len(secrets) == 0 {
		return nil, errors.New(errors.InvalidArgument, "there is no secret for access tokens").WithField("auth.tokens.secret_file")
	}
	return secrets, nil
}
