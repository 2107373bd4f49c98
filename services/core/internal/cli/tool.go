package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
)

func (a *app) toolCommand() *cobra.Command {
	return group("tool", "See, install and remove the tools that VMs can be given", a.toolListCommand(), a.toolInstallCommand(), a.toolRemoveCommand())
}

func toolRef(t api.Tool) string { return t.Name + "@" + t.Version }

func (a *app) toolListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the tools that are installed",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			items, err := c.Tools(cmd.Context())
			if err != nil {
				return err
			}
			now := a.Now()
			return showAll(a, items, listing[api.Tool]{
				titles: []string{"NAME", "VERSION", "SIZE", "VMS", "BY", "AGE"},
				name:   toolRef,
				row: func(t api.Tool) []render.Cell {
					return []render.Cell{
						render.Text(t.Name), render.Text(t.Version), render.Bytes(t.SizeBytes), render.Int(int64(t.VMs)),
						render.Text(t.Backend), render.Since(t.InstalledAt, now),
					}
				},
			})
		},
	}
}

func (a *app) toolInstallCommand() *cobra.Command {
	var detach bool
	cmd := &cobra.Command{
		Use:   "install TOOL…",
		Short: "Install tools, so that VMs find them there",
		Long: `Installs tools once for all VMs of the server and follows the log. VMs that are
created with --tool have what is missing installed as well.`,
		Example: `  aetherium tool install node@22 go@1.26
  aetherium tool install npm:prettier claude-code`,
		Args: atLeastOne("TOOL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFirst(flagged(cmd, "tool", domain.ValidateTools("tool", args))); err != nil {
				return err
			}
			ctx := cmd.Context()
			c, err := a.client()
			if err != nil {
				return err
			}
			task, err := c.InstallTools(ctx, args)
			if err != nil {
				return err
			}
			if detach {
				return showDone(a, []api.Task{task}, taskID)
			}
			// The log is for people; what programs read goes to stdout.
			if err := c.FollowInstallation(ctx, task.ID, cleanWriter{a.Stderr}); err != nil && !errors.HasCode(err, errors.NotFound) {
				a.say("the installation goes on: aetherium task get %s", task.ID)
				return err
			}
			if task, err = c.WaitTask(ctx, task.ID); err != nil {
				return err
			}
			return showDone(a, []api.Task{task}, func(api.Task) string { return strings.Join(args, " ") })
		},
	}
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "do not wait: print the task's ID")
	return cmd
}

func (a *app) toolRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm TOOL…",
		Aliases: []string{"delete", "remove"},
		Short:   "Remove installed tools that no VM has; without a version: all versions",
		Args:    atLeastOne("TOOL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.removeEach(args, func(name string) (removed, error) {
				t, err := domain.ParseTool("TOOL", name)
				if err != nil {
					return removed{}, usage(cmd, errors.Public(err))
				}
				id := t.Dir()
				if strings.HasSuffix(name, "@"+t.Version) {
					id += "@" + t.Version
				}
				return removed{Name: name}, c.RemoveTool(cmd.Context(), id)
			})
		},
	}
}
