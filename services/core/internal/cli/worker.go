package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// A join token counts for this long; the server says the same.
const (
	minJoinTTL = time.Minute
	maxJoinTTL = 24 * time.Hour
)

func (a *app) workerCommand() *cobra.Command {
	return group("worker", "See and change the installation's workers, for administrators", a.workerTokenCommand())
}

func (a *app) workerTokenCommand() *cobra.Command {
	return group("token", "Make, list and revoke tokens by which workers join",
		a.joinTokenCreateCommand(), a.joinTokenListCommand(), a.joinTokenRemoveCommand())
}

func (a *app) joinTokenCreateCommand() *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token by which one worker can join, and print it, this once",
		Long: `Makes a token and prints it. One worker can join by it, within an hour where
nothing else is said. It is told this once: the server keeps nothing that it could
be found out from.`,
		Example: `  aetherium worker token create
  aetherium worker token create --ttl 24h`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("ttl") && ttl < minJoinTTL {
				return usagef(cmd, "--ttl: a join token counts for a minute at least")
			}
			if err := checkAtMost(cmd, "ttl", ttl, maxJoinTTL); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			t, err := c.CreateJoinToken(cmd.Context(), ttl)
			if err != nil {
				return err
			}
			if a.asJSON() {
				return render.JSON(a.Stdout, t)
			}
			if !a.flags.quiet {
				a.say("join token %s, for one worker until %s; it is not shown again", t.ID, at(&t.ExpiresAt))
			}
			return a.showNames([]string{t.Token})
		},
	}
	cmd.Flags().Var((*durationFlag)(&ttl), "ttl", "let it count for so long, 1m to 24h (default 1h)")
	return cmd
}

func joinTokenID(t api.JoinToken) string { return t.ID }

func (a *app) joinTokenListCommand() *cobra.Command {
	return listCommand(a, "List join tokens, and who joined by them", (*client.Client).JoinTokens, func(now time.Time) listing[api.JoinToken] {
		return listing[api.JoinToken]{
			titles: []string{"ID", "STATE", "MADE BY", "AGE", "EXPIRES", "WORKER"},
			name:   joinTokenID,
			row: func(t api.JoinToken) []render.Cell {
				return []render.Cell{
					render.Text(t.ID), render.Text(t.State), render.Text(t.CreatedBy), render.Since(t.CreatedAt, now), render.Until(&t.ExpiresAt, now), render.Text(t.WorkerID),
				}
			},
		}
	})
}

func (a *app) joinTokenRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm TOKEN…",
		Aliases: []string{"delete", "remove", "revoke"},
		Short:   "Revoke join tokens; workers that have joined by them stay",
		Args:    atLeastOne("TOKEN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.removeEach(args, func(id string) (removed, error) {
				return removed{ID: id}, c.RevokeJoinToken(cmd.Context(), id)
			})
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
				var ids []string
				for t, err := range c.JoinTokens(ctx, client.Page{Limit: maxOffers}) {
					if err != nil {
						return nil, err
					}
					ids = append(ids, t.ID+"\t"+t.State)
				}
				return ids, nil
			})
		},
	}
}
