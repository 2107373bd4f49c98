package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// checkWord refuses an argument that is none of a few words.
func checkWord(cmd *cobra.Command, name, value string, words []string) error {
	if slices.Contains(words, value) {
		return nil
	}
	last := len(words) - 1
	return usage(cmd, wrongArgument(name+": %q is not one of its values", value).WithHint("%s or %s", strings.Join(words[:last], ", "), words[last]))
}

func (a *app) userCommand() *cobra.Command {
	return group("user", "Make, change and disable users, for administrators",
		a.userListCommand(), a.userCreateCommand(), a.userShowCommand(), a.userSetCommand(),
		a.userSwitchCommand("enable", "Let users in again", false), a.userSwitchCommand("disable", "End at once what users, their keys and tokens may do", true),
		a.userRemoveCommand())
}

func userName(u api.User) string { return u.Name }

func userState(u api.User) string {
	if u.DisabledAt != nil {
		return "disabled"
	}
	return "active"
}

func (a *app) userListCommand() *cobra.Command {
	return listCommand(a, "List users", (*client.Client).Users, func(now time.Time) listing[api.User] {
		return listing[api.User]{
			titles: []string{"NAME", "ID", "STATE", "ADMIN", "ISSUER", "AGE"},
			name:   userName,
			row: func(u api.User) []render.Cell {
				admin := ""
				if u.Admin {
					admin = "yes"
				}
				return []render.Cell{
					render.Text(u.Name), render.Text(u.ID), render.Text(userState(u)), render.Text(admin), render.Text(u.Issuer), render.Since(u.CreatedAt, now),
				}
			},
		}
	})
}

func (a *app) userCreateCommand() *cobra.Command {
	var req api.CreateUser
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a user",
		Long: `Makes a user, by a name or an email address, who belongs to no project yet. The
user is let in by a key that is made for the user, or by an identity provider:
by issuer and subject, or by the email address where the provider is trusted
with its domain.`,
		Example: `  aetherium user create alice@example.com
  aetherium --project web member set alice@example.com developer
  aetherium --project web key create alice --user alice@example.com`,
		Args: exactly("USER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (req.Issuer == "") != (req.Subject == "") {
				return usagef(cmd, "--issuer and --subject belong together")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			req.Name = args[0]
			u, err := c.CreateUser(cmd.Context(), req)
			if err != nil {
				return err
			}
			return showDone(a, []api.User{u}, userName)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.BoolVar(&req.Admin, "admin", false, "the user may do everything, in every project")
	f.StringVar(&req.Issuer, "issuer", "", "identity provider that knows the user")
	f.StringVar(&req.Subject, "subject", "", "who the user is there")
	return cmd
}

func (a *app) userShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show USER",
		Short: "Show a user",
		Args:  exactly("USER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			u, err := c.User(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			admin := ""
			switch {
			case u.AdminBy != "":
				admin = "yes, by " + u.AdminBy
			case u.Admin:
				admin = "yes"
			}
			return showOne(a, u, u.Name, [][2]string{
				{"Name", u.Name}, {"ID", u.ID}, {"State", userState(u)}, {"Administrator", admin}, {"Issuer", u.Issuer}, {"Subject", u.Subject},
				{"Made", at(&u.CreatedAt)}, {"Changed", at(&u.UpdatedAt)}, {"Disabled", at(u.DisabledAt)},
			})
		},
		ValidArgsFunction: a.firstArg(a.completeUsers),
	}
}

func (a *app) userSetCommand() *cobra.Command {
	var name, issuer, subject string
	var admin bool
	cmd := &cobra.Command{
		Use:   "set USER",
		Short: "Change a user",
		Example: `  aetherium user set alice --name alice@example.com
  aetherium user set alice --admin=false
  aetherium user set alice --issuer https://id.example --subject 42`,
		Args: exactly("USER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var req api.PatchUser
			f := cmd.Flags()
			if f.Changed("name") {
				req.Name = &name
			}
			if f.Changed("admin") {
				req.Admin = &admin
			}
			if f.Changed("issuer") != f.Changed("subject") {
				return usagef(cmd, "--issuer and --subject belong together")
			}
			if f.Changed("issuer") {
				req.Issuer, req.Subject = &issuer, &subject
			}
			if req == (api.PatchUser{}) {
				return usagef(cmd, "say what changes, such as --admin")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			u, err := c.PatchUser(cmd.Context(), args[0], req)
			if err != nil {
				return err
			}
			return showDone(a, []api.User{u}, userName)
		},
		ValidArgsFunction: a.firstArg(a.completeUsers),
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "another name or email address")
	f.BoolVar(&admin, "admin", false, "the user may do everything, in every project")
	f.StringVar(&issuer, "issuer", "", "identity provider that knows the user; empty, with an empty subject: none")
	f.StringVar(&subject, "subject", "", "who the user is there")
	return cmd
}

// userSwitchCommand disables or enables users.
func (a *app) userSwitchCommand(use, short string, disabled bool) *cobra.Command {
	return &cobra.Command{
		Use:   use + " USER…",
		Short: short,
		Args:  atLeastOne("USER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var done []api.User
			for _, name := range args {
				u, err := c.PatchUser(cmd.Context(), name, api.PatchUser{Disabled: &disabled})
				if err != nil {
					return err
				}
				done = append(done, u)
			}
			return showDone(a, done, userName)
		},
		ValidArgsFunction: a.completeUsers,
	}
}

func (a *app) userRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm USER…",
		Aliases: []string{"delete", "remove"},
		Short:   "Delete users; their keys and memberships end",
		Args:    atLeastOne("USER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.removeEach(args, func(name string) (removed, error) {
				return removed{Name: name}, c.DeleteUser(cmd.Context(), name)
			})
		},
		ValidArgsFunction: a.completeUsers,
	}
}
