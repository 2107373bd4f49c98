package cli

import (
	"cmp"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

func (a *app) taskCommand() *cobra.Command {
	return group("task", "Run commands as tasks, and see and cancel tasks", a.taskCreateCommand(), a.taskListCommand(), a.taskGetCommand(), a.taskLogsCommand(),
		a.taskWaitCommand(), a.taskRetryCommand(), a.taskCancelCommand(), a.taskGroupCommand())
}

func taskID(t api.Task) string { return t.ID }

func (a *app) taskListCommand() *cobra.Command {
	var f client.TaskFilter
	var page client.Page
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List tasks",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkFirst(checkLimit(cmd, page.Limit), checkChoices(cmd, "state", f.States, taskStates), checkID(cmd, "group", f.Group)); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			items, err := client.Collect(c.Tasks(cmd.Context(), f, page))
			if err != nil {
				return err
			}
			now := a.Now()
			return showAll(a, items, listing[api.Task]{
				titles: []string{"ID", "KIND", "STATE", "SUBJECT", "ATTEMPTS", "AGE", "ERROR"},
				name:   taskID,
				row: func(t api.Task) []render.Cell {
					problem := ""
					if t.Error != nil {
						problem = t.Error.Message
					}
					return []render.Cell{
						render.Text(t.ID), render.Text(t.Kind), render.Text(t.State), render.Text(cmp.Or(t.Subject, t.Name)),
						render.Int(int64(t.Attempts)), render.Since(t.CreatedAt, now), render.Text(problem),
					}
				},
			})
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&f.States, "state", nil, "only these states")
	fl.StringVar(&f.Kind, "kind", "", "only this kind, such as run or template.build")
	fl.StringVar(&f.Group, "group", "", "only tasks of this group")
	fl.IntVar(&page.Limit, "limit", 0, "so many at most")
	must(cmd.RegisterFlagCompletionFunc("state", fixed(taskStates...)))
	must(cmd.RegisterFlagCompletionFunc("kind", fixed("run", "template.build", "tools.install", "vm.create")))
	return cmd
}

func (a *app) taskGetCommand() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "get TASK",
		Short: "Show a task",
		Args:  exactly("TASK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if wait {
				if t, err := c.WaitTask(cmd.Context(), args[0]); err != nil && t.ID == "" {
					return err
				} // that it failed is what is shown
			}
			t, err := c.Task(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			p := [][2]string{
				{"ID", t.ID}, {"Kind", t.Kind}, {"State", t.State}, {"Subject", t.Subject},
				{"Attempts", strconv.Itoa(t.Attempts) + " of " + strconv.Itoa(t.MaxAttempts)},
				{"Created", t.CreatedAt.UTC().Format(time.RFC3339)},
			}
			for _, more := range [][2]string{{"Name", t.Name}, {"Group", t.GroupID}, {"Step", t.Step}, {"VM", t.VMID}, {"Execution", t.ExecutionID}} {
				if more[1] != "" {
					p = append(p, more)
				}
			}
			if t.EndedAt != nil {
				p = append(p, [2]string{"Ended", t.EndedAt.UTC().Format(time.RFC3339)})
			}
			if t.Error != nil {
				p = append(p, [2]string{"Error", t.Error.Message + " (" + t.Error.Code + ")"})
			}
			return showOne(a, t, t.ID, append(p, [2]string{"Result", string(t.Result)}))
		},
		ValidArgsFunction: a.firstArg(a.completeTasks()),
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it has ended")
	return cmd
}

func (a *app) taskCancelCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cancel TASK",
		Short: "Ask a task to end",
		Args:  exactly("TASK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			t, err := c.CancelTask(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return showDone(a, []api.Task{t}, taskID)
		},
		ValidArgsFunction: a.firstArg(a.completeTasks("pending", "running")),
	}
}
