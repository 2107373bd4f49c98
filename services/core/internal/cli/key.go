package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// keyActive is the state of a key that is in force.
const keyActive = "active"

func (a *app) keyCommand() *cobra.Command {
	return group("key", "Make, rotate and revoke API keys",
		a.keyListCommand(), a.keyCreateCommand(), a.keyShowCommand(), a.keyRotateCommand(), a.keyRevokeCommand())
}

func keyID(k api.Key) string { return k.ID }

func (a *app) keyListCommand() *cobra.Command {
	var page client.Page
	var ended bool
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the API keys of the project",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkLimit(cmd, page.Limit); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			items := []api.Key{}
			for k, err := range c.Keys(cmd.Context(), client.Page{}) {
				if err != nil {
					return err
				}
				if !ended && k.State != keyActive {
					continue
				}
				if items = append(items, k); page.Limit > 0 && len(items) == page.Limit {
					break
				}
			}
			now := a.Now()
			return showAll(a, items, listing[api.Key]{
				titles: []string{"ID", "NAME", "PREFIX", "SCOPES", "STATE", "AGE", "EXPIRES", "LAST USED"},
				name:   keyID,
				row: func(k api.Key) []render.Cell {
					used := render.Text("never")
					if k.LastUsedAt != nil {
						used = render.Since(*k.LastUsedAt, now)
					}
					return []render.Cell{
						render.Text(k.ID), render.Text(k.Name), render.Text(k.Prefix), render.Text(strings.Join(k.Scopes, ",")), render.Text(k.State),
						render.Since(k.CreatedAt, now), render.Until(k.ExpiresAt, now), used,
					}
				},
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&ended, "all", "a", false, "show those that have expired or were revoked as well")
	f.IntVar(&page.Limit, "limit", 0, "so many at most")
	return cmd
}

// What the API allows.
const (
	maxKeyOverlap = 7 * 24 * time.Hour
	maxTokenTTL   = time.Hour
)

func (a *app) keyCreateCommand() *cobra.Command {
	var scopes []string
	var ttl time.Duration
	var e2b bool
	var user string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make an API key and print it, this once",
		Long: `Makes a key in the project and prints it. It is told this once: the server
keeps nothing that it could be found out from.

What a key gives is its scope: read sees, run makes VMs and works in them,
manage changes templates, secrets, members and keys, admin is for the whole
installation. Each includes those before it, and none is wider than what the
caller has.`,
		Example: `  aetherium key create ci --scope run --ttl 90d
  aetherium key create sdk --e2b
  export AETHERIUM_API_KEY=$(aetherium key create mine)
  aetherium --project web key create web-admin --scope manage`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := domain.ValidateName("name", args[0]); err != nil {
				return secretUsage(cmd, "NAME", err)
			}
			if err := checkFirst(
				checkChoices(cmd, "scope", scopes, scopeWords()),
				checkSpan(cmd, "ttl", ttl, time.Second, domain.MaxDuration), // none would be a key without an end
			); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			req := api.CreateKey{Name: args[0], Scopes: scopes, TTLMS: ttl.Milliseconds(), User: user}
			if e2b {
				req.Format = "e2b"
			}
			k, err := c.CreateKey(cmd.Context(), req)
			if err != nil {
				return err
			}
			return a.showSecret(k)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringSliceVar(&scopes, "scope", nil, "what it gives: read, run, manage or admin (default: run)")
	f.Var((*durationFlag)(&ttl), "ttl", "end it after so long, as 12h or 90d (default: as the key in use, or never)")
	f.BoolVar(&e2b, "e2b", false, "make it look as E2B's clients want keys to look")
	f.StringVar(&user, "user", "", "name or ID of the user whose it shall be, for administrators")
	must(cmd.RegisterFlagCompletionFunc("scope", fixed(scopeWords()...)))
	must(cmd.RegisterFlagCompletionFunc("user", a.flagValues(a.completeUsers)))
	return cmd
}

func scopeWords() []string {
	return []string{string(domain.ScopeRead), string(domain.ScopeRun), string(domain.ScopeManage), string(domain.ScopeAdmin)}
}

// showSecret prints a key's text: alone, so that it can be taken as it is.
func (a *app) showSecret(k api.NewKey) error {
	if a.asJSON() {
		return render.JSON(a.Stdout, k)
	}
	if !a.flags.quiet {
		a.say("key %s (%s), with %s; it is not shown again", k.ID, k.Name, strings.Join(k.Scopes, ", "))
	}
	return a.showNames([]string{k.Secret})
}

func (a *app) keyShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show KEY",
		Short: "Show an API key, but for its text",
		Args:  exactly("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			k, err := findKey(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return showOne(a, k, k.ID, [][2]string{
				{"ID", k.ID}, {"Name", k.Name}, {"Prefix", k.Prefix}, {"State", k.State}, {"Scopes", strings.Join(k.Scopes, ", ")}, {"User", k.UserID},
				{"Made by", k.CreatedBy}, {"Made", at(&k.CreatedAt)}, {"Rotated", at(k.RotatedAt)}, {"Old secret until", at(k.OldSecretUntil)},
				{"Expires", at(k.ExpiresAt)}, {"Last used", at(k.LastUsedAt)}, {"Revoked", at(k.RevokedAt)},
			})
		},
		ValidArgsFunction: a.firstArg(a.completeKeys),
	}
}

// at shows a time; empty where there is none.
func at(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}

// findKey finds a key by its ID, or by its name where one in force has it.
func findKey(ctx context.Context, c *client.Client, ref string) (api.Key, error) {
	if domain.IsID(ref) {
		return c.Key(ctx, ref)
	}
	var found []api.Key
	for k, err := range c.Keys(ctx, client.Page{}) {
		if err != nil {
			return api.Key{}, err
		}
		if k.Name == ref && k.State == keyActive {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 0:
		return api.Key{}, errors.New(errors.NotFound, "no key in force is named %q", ref).WithHint("`aetherium key ls --all` lists keys")
	case 1:
		return found[0], nil
	}
	return api.Key{}, errors.New(errors.Conflict, "%d keys are named %q", len(found), ref).WithHint("give the ID; `aetherium key ls` shows it")
}

func (a *app) keyRotateCommand() *cobra.Command {
	var overlap time.Duration
	cmd := &cobra.Command{
		Use:   "rotate KEY",
		Short: "Give an API key another secret and print it, this once",
		Long: `Gives a key another secret and prints that. The old one ends at once, with the
streams it has opened, unless it shall count on for an overlap.`,
		Example: `  aetherium key rotate ci
  aetherium key rotate ci --overlap 24h`,
		Args: exactly("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkAtMost(cmd, "overlap", overlap, maxKeyOverlap); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			k, err := findKey(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			fresh, err := c.RotateKey(cmd.Context(), k.ID, overlap)
			if err != nil {
				return err
			}
			return a.showSecret(fresh)
		},
		ValidArgsFunction: a.firstArg(a.completeKeys),
	}
	cmd.Flags().Var((*durationFlag)(&overlap), "overlap", "let the old secret count for so long still, 7d at most")
	return cmd
}

func (a *app) keyRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke KEY…",
		Aliases: []string{"rm"},
		Short:   "End API keys at once, with the streams they have opened",
		Args:    atLeastOne("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.removeEach(args, func(ref string) (removed, error) {
				k, err := findKey(cmd.Context(), c, ref)
				if err != nil {
					return removed{}, err
				}
				return removed{ID: k.ID, Name: k.Name}, c.RevokeKey(cmd.Context(), k.ID)
			})
		},
		ValidArgsFunction: a.completeKeys,
	}
}

func (a *app) tokenCommand() *cobra.Command {
	var scopes []string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Print a short-lived access token",
		Long: `Gets a token that gives what the key gives, or less, for a quarter of an hour
unless asked for otherwise: for a script or a browser that shall not have the
key itself. It ends with the key.`,
		Example: `  curl -H "Authorization: Bearer $(aetherium token --scope read)" http://127.0.0.1:7300/api/v1/vms`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkFirst(
				checkChoices(cmd, "scope", scopes, scopeWords()),
				checkSpan(cmd, "ttl", ttl, time.Second, maxTokenTTL),
			); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			t, err := c.Token(cmd.Context(), api.CreateToken{Scopes: scopes, TTLMS: ttl.Milliseconds()})
			if err != nil {
				return err
			}
			return showDone(a, []api.Token{t}, func(t api.Token) string { return t.Token })
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&scopes, "scope", nil, "what it gives: read, run, manage or admin (default: all that the key gives)")
	f.Var((*durationFlag)(&ttl), "ttl", "how long it is valid, an hour at most (default: 15m)")
	must(cmd.RegisterFlagCompletionFunc("scope", fixed(scopeWords()...)))
	return cmd
}

func (a *app) whoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "whoami",
		Short: "Show who the key stands for, and what it gives",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			me, err := c.Me(cmd.Context())
			if err != nil {
				return err
			}
			return showOne(a, me, me.Name, [][2]string{
				{"Name", me.Name}, {"Project", me.Project + " (" + me.ProjectID + ")"}, {"Scopes", strings.Join(me.Scopes, ", ")},
				{"Key", me.KeyID}, {"User", me.UserID}, {"Token", me.TokenID}, {"Expires", at(me.ExpiresAt)},
			})
		},
	}
}
