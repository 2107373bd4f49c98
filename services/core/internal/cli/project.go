package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

func (a *app) projectCommand() *cobra.Command {
	return group("project", "Make and remove projects, for administrators",
		a.projectListCommand(), a.projectCreateCommand(), a.projectShowCommand(), a.projectRenameCommand(), a.projectRemoveCommand())
}

func projectName(p api.Project) string { return p.Name }

func (a *app) projectListCommand() *cobra.Command {
	return listCommand(a, "List projects", (*client.Client).Projects, func(now time.Time) listing[api.Project] {
		return listing[api.Project]{
			titles: []string{"NAME", "ID", "AGE"},
			name:   projectName,
			row: func(p api.Project) []render.Cell {
				return []render.Cell{render.Text(p.Name), render.Text(p.ID), render.Since(p.CreatedAt, now)}
			},
		}
	})
}

func (a *app) projectCreateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "create NAME",
		Short: "Make a project",
		Long: `Makes a project: a tenant with VMs, templates, secrets, members and keys of its
own. An administrator works in it by --project, and makes its first key so.`,
		Example: `  aetherium project create web
  aetherium --project web key create web --scope manage`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := domain.ValidateName("name", args[0]); err != nil {
				return secretUsage(cmd, "NAME", err)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			p, err := c.CreateProject(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return showDone(a, []api.Project{p}, projectName)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (a *app) projectShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show PROJECT",
		Short: "Show a project",
		Args:  exactly("PROJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			p, err := c.Project(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return showOne(a, p, p.Name, [][2]string{{"Name", p.Name}, {"ID", p.ID}, {"Made", at(&p.CreatedAt)}})
		},
		ValidArgsFunction: a.firstArg(a.completeProjects),
	}
}

func (a *app) projectRenameCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rename PROJECT NAME",
		Short: "Give a project another name",
		Args:  exactly("PROJECT", "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := domain.ValidateName("name", args[1]); err != nil {
				return secretUsage(cmd, "NAME", err)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			p, err := c.RenameProject(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return showDone(a, []api.Project{p}, projectName)
		},
		ValidArgsFunction: a.firstArg(a.completeProjects),
	}
}

func (a *app) projectRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm PROJECT…",
		Aliases: []string{"delete", "remove"},
		Short:   "Delete projects with everything of theirs but VMs, which must be gone",
		Args:    atLeastOne("PROJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.removeEach(args, func(name string) (removed, error) {
				return removed{Name: name}, c.DeleteProject(cmd.Context(), name)
			})
		},
		ValidArgsFunction: a.completeProjects,
	}
}

// roleWords are the roles in a project.
func roleWords() []string {
	return []string{string(domain.RoleViewer), string(domain.RoleDeveloper), string(domain.RoleMaintainer)}
}

func (a *app) memberCommand() *cobra.Command {
	return group("member", "Give users roles in the project", a.memberListCommand(), a.memberSetCommand(), a.memberRemoveCommand())
}

func memberName(m api.Member) string { return m.Name }

func (a *app) memberListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the members of the project",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			items, err := c.Members(cmd.Context())
			if err != nil {
				return err
			}
			now := a.Now()
			return showAll(a, items, listing[api.Member]{
				titles: []string{"USER", "ROLE", "STATE", "SINCE", "GIVEN BY"},
				name:   memberName,
				row: func(m api.Member) []render.Cell {
					state := "active"
					if m.Disabled {
						state = "disabled"
					}
					return []render.Cell{render.Text(m.Name), render.Text(m.Role), render.Text(state), render.Since(m.CreatedAt, now), render.Text(m.Source)}
				},
			})
		},
	}
}

func (a *app) memberSetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "set USER viewer|developer|maintainer",
		Short: "Give a user a role in the project",
		Long: `Gives a user a role in the project, in the place of the one that the user has. A
viewer sees (scope read), a developer makes VMs and works in them (run), a
maintainer changes templates, secrets, members and keys (manage).`,
		Args: exactly("USER", "ROLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkWord(cmd, "ROLE", args[1], roleWords()); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			m, err := c.SetMember(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return showDone(a, []api.Member{m}, memberName)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			switch len(args) {
			case 0:
				return a.completeUsers(cmd, args, toComplete)
			case 1:
				return roleWords(), cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

func (a *app) memberRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm USER…",
		Aliases: []string{"delete", "remove"},
		Short:   "End users' memberships in the project, and their keys for it",
		Args:    atLeastOne("USER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.removeEach(args, func(name string) (removed, error) {
				return removed{Name: name}, c.RemoveMember(cmd.Context(), name)
			})
		},
		ValidArgsFunction: a.completeMembers,
	}
}
