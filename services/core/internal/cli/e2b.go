package cli

import (
	"context"
	"net"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/cli/locate"
	"github.com/aetherium/aetherium/services/core/internal/cli/sdkenv"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// e2bKeyName is the name of keys that are made for SDKs.
const e2bKeyName = "e2b-env"

// The variables of E2B's SDKs.
const (
	e2bKeyVariable     = "E2B_API_KEY"
	e2bDomainVariable  = "E2B_DOMAIN"
	e2bAPIVariable     = "E2B_API_URL"
	e2bSandboxVariable = "E2B_SANDBOX_URL"
	e2bVolumeVariable  = "E2B_VOLUME_API_URL"
)

func (a *app) e2bCommand() *cobra.Command {
	return group("e2b", "Use this server with E2B's SDKs", a.e2bEnvCommand())
}

func (a *app) e2bEnvCommand() *cobra.Command {
	var plain bool
	var shell string
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print the variables by which E2B's SDKs find this server",
		Long: `Prints what a shell sets so that programs written for E2B's SDKs use this
server, as they are. The key among it is made the first time and kept in
~/.config/aetherium, as are the certificates to trust: those of this host with
the server's own authority.

By TLS each sandbox has its name, <port>-<id>.<domain>, which has to resolve:
aetherium doctor tells whether it does. --plain needs neither names nor
certificates, but for servers in sandboxes (getHost).`,
		Example: `  eval "$(aetherium e2b env)"
  aetherium e2b env --shell fish | source
  aetherium e2b env --plain --shell json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkChoices(cmd, "shell", []string{shell}, sdkenv.Shells()); err != nil {
				return err
			}
			if a.asJSON() && !cmd.Flags().Changed("shell") {
				shell = "json"
			}
			e, err := a.e2bEnvironment(cmd.Context(), plain)
			if err != nil {
				return err
			}
			return e.Write(a.Stdout, shell)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&plain, "plain", false, "use plain HTTP, without certificates and names")
	f.StringVar(&shell, "shell", "sh", "what reads it: sh (and bash, zsh), fish or json")
	must(cmd.RegisterFlagCompletionFunc("shell", fixed(sdkenv.Shells()...)))
	return cmd
}

func (a *app) e2bEnvironment(ctx context.Context, plain bool) (sdkenv.Environment, error) {
	var e sdkenv.Environment
	c, err := a.client()
	if err != nil {
		return e, err
	}
	server, err := a.server()
	if err != nil {
		return e, err
	}
	at, err := c.Endpoints(ctx)
	if err != nil {
		return e, err
	}
	me, err := c.Me(ctx)
	if err != nil {
		return e, err
	}
	config := a.env("XDG_CONFIG_HOME")
	if config == "" {
		config = filepath.Join(a.env("HOME"), ".config")
	}
	if !filepath.IsAbs(config) {
		return e, errors.New(errors.InvalidArgument, "there is no home directory to keep the key in").WithHint("set HOME or XDG_CONFIG_HOME")
	}
	dir, err := sdkenv.OpenDir(config, server.URL, me.ProjectID, me.UserID)
	if err != nil {
		return e, err
	}
	set, err := a.e2bAddress(at, server, dir, plain)
	if err != nil {
		return e, err
	}
	if !plain {
		e.Unset = []string{e2bAPIVariable, e2bSandboxVariable, e2bVolumeVariable} // they would go before the domain
	}
	key, err := a.e2bKey(ctx, c, server, me, dir)
	if err != nil {
		return e, err
	}
	e.Set = append([]sdkenv.Variable{{Name: e2bKeyVariable, Value: key}}, set...)
	return e, nil
}

// e2bAddress says where the server is, and what to trust there.
func (a *app) e2bAddress(at api.Endpoints, server locate.Server, dir sdkenv.Dir, plain bool) ([]sdkenv.Variable, error) {
	if plain {
		base := strings.TrimRight(server.URL, "/")
		d, err := withPort(at.PreviewDomain, base)
		if err != nil {
			return nil, err
		}
		return []sdkenv.Variable{
			{Name: e2bAPIVariable, Value: base + api.E2BPath}, {Name: e2bSandboxVariable, Value: base}, {Name: e2bDomainVariable, Value: d},
			{Name: e2bVolumeVariable, Value: base + api.E2BPath},
		}, nil
	}
	by := at.TLSURL
	if strings.HasPrefix(server.URL, "https://") {
		by = server.URL // as it is reached from here, whatever it or a proxy in front of it listens on
	}
	if by == "" {
		return nil, errors.New(errors.Unsupported, "the server does not serve TLS").WithHint("set tls.address in its configuration (AETHERIUM_TLS_ADDRESS), or use --plain")
	}
	if locate.OnThisHost(by) && !locate.OnThisHost(server.URL) {
		return nil, errors.New(errors.Unsupported, "the server serves TLS to its own host only").
			WithHint("set tls.address in its configuration (AETHERIUM_TLS_ADDRESS) to an address that is reached from here, or use --plain")
	}
	d, err := withPort(at.PreviewDomain, by)
	if err != nil {
		return nil, err
	}
	set := []sdkenv.Variable{{Name: e2bDomainVariable, Value: d}}
	if at.Certificates == "" {
		return set, nil // the operator's own, which is trusted or not
	}
	files, alone, err := dir.Trust(at.Certificates, a.env, sdkenv.SystemFiles())
	if err != nil {
		return nil, err
	}
	if alone {
		a.say("this host's own certificates were not found: programs with %s will trust this server alone", sdkenv.CertFile)
	}
	return append(set, files...), nil
}

// withPort adds a URL's port to a domain, unless its scheme implies it.
func withPort(domain, raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", errors.Wrap(err, errors.InvalidArgument, "the server's URL cannot be read")
	}
	if port := u.Port(); port != "" && (u.Scheme != "https" || port != "443") && (u.Scheme != "http" || port != "80") {
		return net.JoinHostPort(domain, port), nil
	}
	return domain, nil
}

// e2bKey gives a key of the form that SDKs want: the one in use, the one made
// before where it still counts, else a new one.
func (a *app) e2bKey(ctx context.Context, c *client.Client, server locate.Server, me api.Me, dir sdkenv.Dir) (string, error) {
	if sdkenv.IsKey(server.Key) {
		return server.Key, nil
	}
	kept, err := dir.Key()
	if err != nil {
		return "", err
	}
	if kept != "" {
		own, err := a.clientWith(server.URL, kept, "")
		if err != nil {
			return "", err
		}
		defer own.Close()
		is, err := own.Me(ctx)
		switch {
		case err == nil && is.ProjectID == me.ProjectID:
			return kept, nil
		case err != nil && !errors.HasCode(err, errors.Unauthenticated):
			return "", err
		}
	}
	var scopes domain.Scopes
	for _, s := range me.Scopes {
		scopes = append(scopes, domain.Scope(s))
	}
	// SDKs make templates, and nothing that is an administrator's.
	widest := string(scopes.Within(domain.ScopeManage).Widest())
	k, err := c.CreateKey(ctx, api.CreateKey{Name: e2bKeyName, Scopes: []string{widest}, Format: "e2b"})
	if err != nil {
		return "", err
	}
	if err := dir.KeepKey(k.Secret); err != nil {
		return "", errors.Join(err, c.RevokeKey(ctx, k.ID))
	}
	a.say("made the key %s (%s), with %s; aetherium key revoke %s ends it", k.ID, k.Name, widest, k.ID)
	return k.Secret, nil
}
