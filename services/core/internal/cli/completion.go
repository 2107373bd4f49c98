package cli

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// completeTime is how long a user who pressed tab waits for the server.
const completeTime = time.Second

// completer offers values for an argument.
type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print what a shell needs to complete our commands",
		Long: `Prints a completion script. VMs, templates and the like are completed by name.

  bash  source <(aetherium completion bash)
  zsh   source <(aetherium completion zsh)
  fish  aetherium completion fish | source`,
		Args:      exactly("SHELL"),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.Stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.Stdout)
			case "fish":
				return root.GenFishCompletion(a.Stdout, true)
			}
			return usagef(cmd, "there is no completion for %q: bash, zsh or fish", args[0])
		},
	}
}

// fixed offers values that never change.
func fixed(values ...string) completer {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveNoFileComp
	}
}

// firstArg offers values for a command's first argument and nothing after it.
func (a *app) firstArg(c completer) completer {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c(cmd, args, toComplete)
	}
}

// flagValues offers for a flag what c offers for arguments.
func (a *app) flagValues(c completer) completer {
	return func(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		return c(cmd, nil, toComplete)
	}
}

// offer asks the server for values, each with a description behind a tab, and
// leaves out what stands on the command line already. A server that does not
// answer offers nothing: a tab is no place for errors.
func (a *app) offer(cmd *cobra.Command, args []string, ask func(context.Context, *client.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	a.flags.patience = completeTime
	c, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	values, err := ask(ctx, c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	taken := map[string]bool{}
	for _, arg := range args {
		taken[arg] = true
	}
	var out []string
	for _, v := range values {
		if name, _, _ := strings.Cut(v, "\t"); !taken[name] {
			out = append(out, v)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// maxOffers bounds a list to choose from.
const maxOffers = 200

func (a *app) completeVMs(states ...string) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
			vms, err := client.Collect(c.VMs(ctx, client.VMFilter{States: states, Page: client.Page{Limit: maxOffers}}))
			return describeEach(vms, func(vm api.VM) string { return vmName(vm) + "\t" + vm.State + ", " + vm.Template }), err
		})
	}
}

func (a *app) completeTemplates(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := client.Collect(c.Templates(ctx, client.Page{Limit: maxOffers}))
		return describeEach(list, func(t api.Template) string { return t.Name + "\ttemplate" }), err
	})
}

func (a *app) completeSnapshots(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := client.Collect(c.Snapshots(ctx, "", client.Page{Limit: maxOffers}))
		return describeEach(list, func(s api.Snapshot) string { return s.ID + "\t" + s.Name }), err
	})
}

func (a *app) completeVolumes(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := client.Collect(c.Volumes(ctx, client.Page{Limit: maxOffers}))
		return describeEach(list, func(v api.Volume) string { return v.Name + "\tvolume" }), err
	})
}

func (a *app) completeTasks(states ...string) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
			list, err := client.Collect(c.Tasks(ctx, client.TaskFilter{States: states}, client.Page{Limit: maxOffers}))
			return describeEach(list, func(t api.Task) string { return t.ID + "\t" + t.Kind + ", " + t.State }), err
		})
	}
}

func (a *app) completeSecrets(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := c.Secrets(ctx)
		return describeEach(list[:min(len(list), maxOffers)], func(s api.Secret) string { return s.Name + "\tsecret" }), err
	})
}

func (a *app) completeKeys(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := client.Collect(c.Keys(ctx, client.Page{Limit: maxOffers}))
		var out []string
		for _, k := range list {
			if k.State == keyActive {
				out = append(out, k.ID+"\t"+k.Name+", "+k.Prefix+"…")
			}
		}
		return out, err
	})
}

func (a *app) completeProjects(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := client.Collect(c.Projects(ctx, client.Page{Limit: maxOffers}))
		return describeEach(list, func(p api.Project) string { return p.Name + "\tproject" }), err
	})
}

func (a *app) completeUsers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := client.Collect(c.Users(ctx, client.Page{Limit: maxOffers}))
		return describeEach(list, func(u api.User) string { return u.Name + "\tuser" }), err
	})
}

func (a *app) completeMembers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := c.Members(ctx)
		return describeEach(list, func(m api.Member) string { return m.Name + "\t" + m.Role }), err
	})
}

// completeExecutions offers the executions that run in the running VMs.
func (a *app) completeExecutions(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
		vms, err := client.Collect(c.VMs(ctx, client.VMFilter{States: []string{"running"}, Page: client.Page{Limit: 20}}))
		if err != nil {
			return nil, err
		}
		var out []string
		for _, vm := range vms {
			list, err := client.Collect(c.Executions(ctx, vm.ID, client.ExecutionFilter{Page: client.Page{Limit: 20}, Incomplete: func(string) {}}))
			if err != nil {
				return out, err
			}
			for _, x := range list {
				if x.State == "running" {
					out = append(out, x.ID+"\t"+strings.Join(x.Args, " ")+" in "+vmName(vm))
				}
			}
		}
		return out, nil
	})
}

// completeCopy offers VMs, with their colon, beside the shell's own files.
func (a *app) completeCopy(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if strings.ContainsAny(toComplete, ":/") || strings.HasPrefix(toComplete, ".") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	names, _ := a.completeVMs("running")(cmd, nil, toComplete)
	return beforeColon(names)
}

// completeMount offers volumes, with their colon.
func (a *app) completeMount(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if strings.Contains(toComplete, ":") {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, _ := a.completeVolumes(cmd, nil, toComplete)
	return beforeColon(names)
}

// beforeColon offers names that go on behind a colon.
func beforeColon(names []string) ([]string, cobra.ShellCompDirective) {
	for i, n := range names {
		name, about, _ := strings.Cut(n, "\t")
		names[i] = name + ":\t" + about
	}
	return names, cobra.ShellCompDirectiveNoSpace
}

func describeEach[T any](items []T, describe func(T) string) []string {
	out := make([]string, len(items))
	for i, item := range items {
		out[i] = describe(item)
	}
	return out
}

func ending(x api.Execution) string {
	switch {
	case x.LostReason != "":
		return "lost: " + x.LostReason
	case x.ExitCode != nil:
		return "exited " + strconv.Itoa(*x.ExitCode)
	}
	return x.State
}
