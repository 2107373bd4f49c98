package cli

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

func (a *app) webhookCommand() *cobra.Command {
	return group("webhook", "Have events told to URLs, signed", a.webhookListCommand(), a.webhookCreateCommand(), a.webhookGetCommand(),
		a.webhookDeliveriesCommand(), a.webhookRotateCommand(), a.webhookEnableCommand(), a.webhookDisableCommand(), a.webhookRemoveCommand())
}

func webhookID(w api.Webhook) string { return w.ID }

// webhookTypes is what a webhook is told.
func webhookTypes(w api.Webhook) string {
	if len(w.Types) == 0 {
		return "all"
	}
	return strings.Join(w.Types, ",")
}

func (a *app) webhookListCommand() *cobra.Command {
	return listCommand(a, "List webhooks", (*client.Client).Webhooks, func(now time.Time) listing[api.Webhook] {
		return listing[api.Webhook]{
			titles: []string{"ID", "STATE", "AGE", "EVENTS", "URL"},
			name:   webhookID,
			row: func(w api.Webhook) []render.Cell {
				return []render.Cell{render.Text(w.ID), render.Text(w.State), render.Since(w.CreatedAt, now), render.Text(webhookTypes(w)), render.Text(w.URL)}
			},
		}
	})
}

func (a *app) webhookCreateCommand() *cobra.Command {
	var req api.CreateWebhook
	cmd := &cobra.Command{
		Use:   "create URL",
		Short: "Have events told to a URL, and print the secret that they are signed with, this once",
		Long: `Has the project's events told to a URL from now on, each by a POST that is signed
as Standard Webhooks has it. Prints the secret by which the receiver knows that they
are genuine. It is told this once.`,
		Example: `  aetherium webhook create https://example.com/hooks/aetherium
  aetherium webhook create https://example.com/hooks/tasks --event task.succeeded,task.failed`,
		Args: exactly("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.URL = args[0]
			if err := domain.ValidateWebhookURL("url", req.URL); err != nil {
				return secretUsage(cmd, "URL", err)
			}
			if err := checkChoices(cmd, "event", req.Types, events.OfProjects()); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			w, err := c.CreateWebhook(cmd.Context(), req)
			if err != nil {
				return err
			}
			return a.showSigning(w)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringSliceVar(&req.Types, "event", nil, "only events of these types (default: all of the project's)")
	must(cmd.RegisterFlagCompletionFunc("event", fixed(events.OfProjects()...)))
	return cmd
}

// showSigning prints a webhook's secret, which is told this once.
func (a *app) showSigning(w api.NewWebhook) error {
	if a.asJSON() {
		return render.JSON(a.Stdout, w)
	}
	if !a.flags.quiet {
		a.say("webhook %s; its secret is not shown again", w.ID)
	}
	return a.showNames([]string{w.Secret})
}

// defaultOverlap is how long a webhook's secret goes on after it was rotated.
const defaultOverlap = 24 * time.Hour

func (a *app) webhookRotateCommand() *cobra.Command {
	overlap := defaultOverlap
	cmd := &cobra.Command{
		Use:   "rotate WEBHOOK",
		Short: "Make a webhook another secret, and print it, this once",
		Long: `Makes a webhook another secret and prints it. For --overlap its messages are signed
with the one before as well, so that the receiver can be given the new one meanwhile.`,
		Example: `  aetherium webhook rotate l2x0mh5k9q3v7c1n8b4d
  aetherium webhook rotate l2x0mh5k9q3v7c1n8b4d --overlap 0s   # the old one is known to others`,
		Args: exactly("WEBHOOK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if overlap < 0 {
				return usagef(cmd, "--overlap: a time is not negative")
			}
			if err := checkAtMost(cmd, "overlap", overlap, domain.MaxSecretOverlap); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			w, err := c.RotateWebhookSecret(cmd.Context(), args[0], overlap)
			if err != nil {
				return err
			}
			return a.showSigning(w)
		},
		ValidArgsFunction: a.firstArg(a.completeWebhooks),
	}
	cmd.Flags().Var((*durationFlag)(&overlap), "overlap", "sign with the secret before as well for so long, up to 168h")
	return cmd
}

func (a *app) webhookEnableCommand() *cobra.Command {
	return changeEach(a, "enable WEBHOOK…", "Have disabled webhooks told again, what they missed as well", (*client.Client).EnableWebhook, webhookID, a.completeWebhooks)
}

func (a *app) webhookDisableCommand() *cobra.Command {
	return changeEach(a, "disable WEBHOOK…", "Have webhooks told nothing until they are enabled", (*client.Client).DisableWebhook, webhookID, a.completeWebhooks)
}

func (a *app) webhookGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "get WEBHOOK",
		Aliases: []string{"show", "inspect"},
		Short:   "Show a webhook",
		Args:    exactly("WEBHOOK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			w, err := c.Webhook(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			pairs := [][2]string{
				{"ID", w.ID}, {"URL", w.URL}, {"Events", webhookTypes(w)}, {"State", w.State}, {"Failing since", at(w.FailingSince)},
				{"Disabled", at(w.DisabledAt)}, {"Because", w.DisabledReason}, {"Made", at(&w.CreatedAt)},
			}
			return showOne(a, w, w.ID, slices.DeleteFunc(pairs, func(p [2]string) bool { return p[1] == "" }))
		},
		ValidArgsFunction: a.firstArg(a.completeWebhooks),
	}
}

func (a *app) webhookDeliveriesCommand() *cobra.Command {
	var page client.Page
	cmd := &cobra.Command{
		Use:   "deliveries WEBHOOK",
		Short: "List what a webhook is told and was told of late, and what became of it",
		Args:  exactly("WEBHOOK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkLimit(cmd, page.Limit); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			items, err := client.Collect(c.WebhookDeliveries(cmd.Context(), args[0], page))
			if err != nil {
				return err
			}
			now := a.Now()
			return showAll(a, items, listing[api.WebhookDelivery]{
				titles: []string{"ID", "EVENT", "STATE", "ATTEMPTS", "STATUS", "ERROR", "AGE", "NEXT"},
				name:   func(d api.WebhookDelivery) string { return d.ID },
				row: func(d api.WebhookDelivery) []render.Cell {
					return []render.Cell{
						render.Text(d.ID), render.Text(d.Type), render.Text(d.State), render.Int(int64(d.Attempts)),
						given(int64(d.Status), render.Text(strconv.Itoa(d.Status))), render.Text(d.Error), render.Since(d.CreatedAt, now), render.Until(d.NextAttemptAt, now),
					}
				},
			})
		},
		ValidArgsFunction: a.firstArg(a.completeWebhooks),
	}
	cmd.Flags().IntVar(&page.Limit, "limit", 0, "so many at most")
	return cmd
}

func (a *app) webhookRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm WEBHOOK…",
		Aliases: []string{"delete", "remove"},
		Short:   "Have webhooks told nothing more",
		Args:    atLeastOne("WEBHOOK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.removeEach(args, func(id string) (removed, error) {
				return removed{ID: id}, c.DeleteWebhook(cmd.Context(), id)
			})
		},
		ValidArgsFunction: a.completeWebhooks,
	}
}

func (a *app) completeWebhooks(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := client.Collect(c.Webhooks(ctx, client.Page{Limit: maxOffers}))
		return describeEach(list, func(w api.Webhook) string { return w.ID + "\t" + w.URL }), err
	})
}
