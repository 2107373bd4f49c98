package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

const deadJobs = "dead"

var jobStates = []string{"scheduled", "waiting", "running", deadJobs}

func (a *app) queueCommand() *cobra.Command {
	return group("queue", "See the server's jobs, for administrators",
		a.queueStatusCommand(), a.queueListCommand(), a.queueDeadCommand(), a.queueRetryCommand(), a.queueRemoveCommand())
}

func (a *app) queueStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Count the jobs by state",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			q, err := c.Queue(cmd.Context())
			if err != nil {
				return err
			}
			return showOne(a, q, "", [][2]string{
				{"Scheduled", strconv.Itoa(q.Scheduled)}, {"Waiting", strconv.Itoa(q.Waiting)}, {"Running", strconv.Itoa(q.Running)}, {"Dead", strconv.Itoa(q.Dead)},
			})
		},
	}
}

func (a *app) queueListCommand() *cobra.Command {
	var state string
	var limit int
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the jobs",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkFirst(checkLimit(cmd, limit), checkChoices(cmd, "state", given1(state), jobStates)); err != nil {
				return err
			}
			return a.showJobs(cmd.Context(), state, limit)
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "only this state")
	jobLimit(cmd, &limit)
	must(cmd.RegisterFlagCompletionFunc("state", fixed(jobStates...)))
	return cmd
}

func (a *app) queueDeadCommand() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "dead",
		Short: "List the jobs that were given up, newest first",
		Long: `Lists the jobs that were given up, with why. They stay until they are retried or
removed; of more than 10000 the oldest go.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkLimit(cmd, limit); err != nil {
				return err
			}
			return a.showJobs(cmd.Context(), deadJobs, limit)
		},
	}
	jobLimit(cmd, &limit)
	return cmd
}

func jobLimit(cmd *cobra.Command, limit *int) {
	cmd.Flags().IntVar(limit, "limit", 100, "so many at most, up to 1000")
}

func (a *app) showJobs(ctx context.Context, state string, limit int) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	items, err := c.Jobs(ctx, state, limit)
	if err != nil {
		return err
	}
	now := a.Now()
	return showAll(a, items, listing[api.Job]{
		titles: []string{"ID", "KIND", "STATE", "SUBJECT", "PROJECT", "ATTEMPT", "SINCE", "ERROR"},
		name:   func(j api.Job) string { return j.ID },
		row: func(j api.Job) []render.Cell {
			return []render.Cell{
				render.Text(j.ID), render.Text(j.Kind), render.Text(j.State), render.Text(j.Subject), render.Text(j.ProjectID),
				render.Int(int64(j.Attempt)), render.Since(j.At, now), render.Text(j.Error),
			}
		},
	})
}

func (a *app) queueRetryCommand() *cobra.Command {
	return a.deadCommand("retry JOB…", "Let dead jobs run again", (*client.Client).RetryJob)
}

func (a *app) queueRemoveCommand() *cobra.Command {
	cmd := a.deadCommand("rm JOB…", "Forget dead jobs", (*client.Client).DeleteJob)
	cmd.Aliases = []string{"delete", "remove"}
	return cmd
}

// deadCommand does something with dead jobs.
func (a *app) deadCommand(use, short string, do func(*client.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  atLeastOne("JOB"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.removeEach(args, func(id string) (removed, error) {
				return removed{ID: id}, do(c, cmd.Context(), id)
			})
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
				list, err := c.Jobs(ctx, deadJobs, maxOffers)
				return describeEach(list, func(j api.Job) string { return j.ID + "\t" + strings.TrimSpace(j.Kind+" "+j.Subject) }), err
			})
		},
	}
}
