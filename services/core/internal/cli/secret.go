package cli

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
)

func (a *app) secretCommand() *cobra.Command {
	return group("secret", "Store secrets for VMs; nothing reads them back", a.secretListCommand(), a.secretSetCommand(), a.secretRemoveCommand())
}

func secretName(s api.Secret) string { return s.Name }

func (a *app) secretListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the names of stored secrets",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			items, err := c.Secrets(cmd.Context())
			if err != nil {
				return err
			}
			now := a.Now()
			return showAll(a, items, listing[api.Secret]{
				titles: []string{"NAME", "CREATED", "SET"},
				name:   secretName,
				row: func(s api.Secret) []render.Cell {
					return []render.Cell{render.Text(s.Name), render.Since(s.CreatedAt, now), render.Since(s.UpdatedAt, now)}
				},
			})
		},
	}
}

// secretSource is where a secret's value comes from.
type secretSource struct {
	file, variable, value string
	keepNewline           bool
}

func (a *app) secretSetCommand() *cobra.Command {
	var from secretSource
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Store a secret, in the place of an earlier one of that name",
		Long: `Stores a value that VMs can be given by its name. The value is read from stdin,
on a terminal by a prompt that does not show it. A line end at the end of the
value is not part of it.

The server keeps the value encrypted; no command reads it back.`,
		Example: `  aetherium secret set GITHUB_TOKEN
  aetherium secret set GITHUB_TOKEN --from-env GH_TOKEN
  aetherium secret set deploy-key --file ~/.ssh/id_ed25519
  pass show api | aetherium secret set API_KEY`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := domain.ValidateSecretName("name", args[0]); err != nil {
				return secretUsage(cmd, "NAME", err)
			}
			value, err := from.read(cmd, a, args[0])
			if err != nil {
				return err
			}
			if err := domain.ValidateSecretValue("value", value); err != nil {
				return secretUsage(cmd, "the secret", err)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			s, err := c.SetSecret(cmd.Context(), args[0], value)
			if err != nil {
				return err
			}
			return showDone(a, []api.Secret{s}, secretName)
		},
		ValidArgsFunction: a.firstArg(a.completeSecrets),
	}
	f := cmd.Flags()
	f.StringVarP(&from.file, "file", "f", "", "read the value from a file")
	f.StringVar(&from.variable, "from-env", "", "take the value of this environment variable")
	f.StringVar(&from.value, "value", "", "the value itself; others on this host can see it in the process list: prefer the others")
	f.BoolVar(&from.keepNewline, "keep-newline", false, "a line end at the end of the value is part of it")
	return cmd
}

// secretUsage says what is wrong with a name or value, without repeating a value.
func secretUsage(cmd *cobra.Command, what string, err error) error {
	e := *errors.Public(err)
	e.Message = what + ": " + e.Message
	return usage(cmd, &e)
}

func (s *secretSource) read(cmd *cobra.Command, a *app, name string) (string, error) {
	fl, given := cmd.Flags(), 0
	for _, flag := range []string{"file", "from-env", "value"} {
		if fl.Changed(flag) {
			given++
		}
	}
	switch {
	case given > 1:
		return "", usagef(cmd, "--file, --from-env and --value exclude each other")
	case fl.Changed("value"):
		return s.value, nil
	case fl.Changed("from-env"):
		v, there := a.Getenv(s.variable)
		if !there {
			return "", usage(cmd, errors.New(errors.InvalidArgument, "--from-env: there is no %s in the environment", s.variable).WithHint("export %s first", s.variable))
		}
		return v, nil
	case fl.Changed("file"):
		f, err := openLocal(cmd.Context(), s.file)
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }()
		return s.all(f)
	case a.term != nil:
		return a.askSecret(cmd.Context(), "value of "+name+": ")
	}
	return s.all(a.input(cmd.Context()))
}

// all reads a value that is bounded as the server bounds it.
func (s *secretSource) all(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, domain.MaxSecretBytes+3)) // one more than a line end
	if err != nil {
		return "", err
	}
	value := string(b)
	if !s.keepNewline {
		value = strings.TrimSuffix(strings.TrimSuffix(value, "\n"), "\r")
	}
	return value, nil
}

// askSecret prompts for a line that the terminal does not show.
func (a *app) askSecret(ctx context.Context, prompt string) (string, error) {
	type answer struct {
		line string
		err  error
	}
	done := make(chan answer, 1) // a read that nothing can end may outlive us
	a.term.Go(func() {
		line, err := a.term.ReadSecret(a.Stderr, prompt)
		done <- answer{line, err}
	})
	select {
	case got := <-done:
		if errors.Is(got.err, io.EOF) {
			return "", errors.New(errors.InvalidArgument, "no value was given; nothing is changed")
		}
		return got.line, got.err
	case <-ctx.Done():
		a.term.Restore()
		return "", context.Cause(ctx)
	}
}

func (a *app) secretRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME…",
		Aliases: []string{"delete", "remove"},
		Short:   "Delete stored secrets",
		Args:    atLeastOne("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range args {
				if err := domain.ValidateSecretName("name", name); err != nil {
					return secretUsage(cmd, "NAME", err)
				}
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.removeEach(args, func(name string) (removed, error) {
				return removed{Name: name}, c.DeleteSecret(cmd.Context(), name)
			})
		},
		ValidArgsFunction: a.completeSecrets,
	}
}
