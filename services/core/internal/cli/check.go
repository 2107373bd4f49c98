package cli

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/cli/units"
)

// vmStates and taskStates are what --state takes.
var (
	vmStates = []string{
		string(domain.Pending), string(domain.Creating), string(domain.Starting), string(domain.Running), string(domain.Pausing),
		string(domain.Paused), string(domain.Resuming), string(domain.Stopping), string(domain.Stopped), string(domain.Deleting),
		string(domain.Deleted), string(domain.Failed), string(domain.Unreachable),
	}
	taskStates = []string{
		string(domain.TaskPending), string(domain.TaskRunning), string(domain.TaskSucceeded), string(domain.TaskFailed),
		string(domain.TaskCanceled),
	}
)

// argumentForms say what cannot be an argument, by its name in the usage
// line. The server would refuse it as well, but in the words of its API.
var argumentForms = map[string]func(string) *errors.Error{
	"VM": func(s string) *errors.Error {
		if isRef(s) {
			return nil
		}
		return wrongArgument("%q is not the name or ID of a VM", s).WithHint("`aetherium vm ls` lists VMs")
	},
	"VM or EXECUTION": func(s string) *errors.Error {
		if isRef(s) {
			return nil
		}
		return wrongArgument("%q is not a VM or an execution", s).WithHint("`aetherium vm ls` lists VMs")
	},
	"EXECUTION": func(s string) *errors.Error {
		if domain.IsID(s) {
			return nil
		}
		return wrongArgument("%q is not the ID of an execution", s).WithHint("aetherium logs --all VM lists a VM's")
	},
	"PROJECT": func(s string) *errors.Error {
		if isRef(s) {
			return nil
		}
		return wrongArgument("%q is not the name or ID of a project", s).WithHint("`aetherium project ls` lists projects")
	},
	"KEY": func(s string) *errors.Error {
		if isRef(s) {
			return nil
		}
		return wrongArgument("%q is not the ID or name of a key", s).WithHint("`aetherium key ls` lists keys")
	},
	"VOLUME": func(s string) *errors.Error {
		if isRef(s) {
			return nil
		}
		return wrongArgument("%q is not the name or ID of a volume", s).WithHint("`aetherium volume ls` lists volumes")
	},
	"USER": func(s string) *errors.Error {
		if domain.IsID(s) || domain.ValidateUserName("", strings.ToLower(s)) == nil {
			return nil
		}
		return wrongArgument("%q is not the name or ID of a user", s).WithHint("a name or an email address")
	},
	"JOB": func(s string) *errors.Error {
		if domain.IsID(s) {
			return nil
		}
		return wrongArgument("%q is not the ID of a job", s).WithHint("`aetherium queue ls` lists jobs")
	},
	"TOKEN": func(s string) *errors.Error {
		if domain.IsID(s) {
			return nil
		}
		return errors.New(errors.InvalidArgument, "it is not the ID of a join token").WithHint("`aetherium worker token ls` lists them; the token itself is not its ID")
	},
	"WEBHOOK": func(s string) *errors.Error {
		if domain.IsID(s) {
			return nil
		}
		return wrongArgument("%q is not the ID of a webhook", s).WithHint("`aetherium webhook ls` lists webhooks")
	},
	"GROUP": func(s string) *errors.Error {
		if domain.IsID(s) {
			return nil
		}
		return wrongArgument("%q is not the ID of a group of tasks", s).WithHint("`aetherium task group create` prints it")
	},
	"TASK": func(s string) *errors.Error {
		if domain.IsID(s) {
			return nil
		}
		return wrongArgument("%q is not the ID of a task", s).WithHint("`aetherium task ls` lists tasks")
	},
}

func wrongArgument(format string, s string) *errors.Error {
	const most = 64
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return errors.New(errors.InvalidArgument, format, s)
}

// isRef reports what can be a VM's name or its ID.
func isRef(s string) bool {
	return s != "" && (domain.IsID(s) || domain.ValidateName("", s) == nil)
}

// checkArgument tells what is wrong with an argument of the kind of name.
func checkArgument(cmd *cobra.Command, name, value string) error {
	if value == "" {
		return usagef(cmd, "%s is empty", name)
	}
	if form := argumentForms[name]; form != nil {
		if err := form(value); err != nil {
			return usage(cmd, err)
		}
	}
	return nil
}

// flagged makes what the domain says of a flag's value a usage error that
// names the flag.
func flagged(cmd *cobra.Command, flag string, err error) error {
	var e *errors.Error
	if !errors.As(err, &e) {
		return err
	}
	named := *e
	named.Message = "--" + flag + ": " + e.Message
	return usage(cmd, &named)
}

// envError is flagged for environment variables.
func envError(cmd *cobra.Command, err error) error {
	var e *errors.Error
	if errors.As(err, &e) && e.Hint == "" {
		err = e.WithHint("letters, digits and underscores make a name, at most 128; all variables together are bounded as well")
	}
	return flagged(cmd, "env", err)
}

// checkFirst returns the first error of several checks.
func checkFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkChoices refuses values that are none of a flag's.
func checkChoices(cmd *cobra.Command, flag string, given, choices []string) error {
	for _, s := range given {
		if !slices.Contains(choices, s) {
			last := len(choices) - 1
			return flagged(cmd, flag, wrongArgument("%q is not one of its values", s).
				WithHint("%s or %s", strings.Join(choices[:last], ", "), choices[last]))
		}
	}
	return nil
}

func checkLimit(cmd *cobra.Command, limit int) error {
	if limit < 0 {
		return usagef(cmd, "--limit: %d is negative", limit)
	}
	return nil
}

// checkResources refuses what no VM can have; zeros are the server's defaults.
func checkResources(cmd *cobra.Command, r api.Resources) error {
	memory := "memory"
	if cmd.Flags().Lookup("vm-memory") != nil {
		memory = "vm-memory" // where --memory means another thing
	}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	for _, c := range []struct {
		flag           string
		have, min, max int64
		show           func(int64) string
	}{
		{memory, r.MemoryBytes, domain.MinMemoryBytes, domain.MaxMemoryBytes, units.Bytes},
		{"disk", r.DiskBytes, domain.MinDiskBytes, domain.MaxDiskBytes, units.Bytes},
		{"pids", r.PIDs, domain.MinPIDs, domain.MaxPIDs, number},
	} {
		if (c.have != 0 || cmd.Flags().Changed(c.flag)) && (c.have < c.min || c.have > c.max) {
			return usage(cmd, errors.New(errors.InvalidArgument, "--%s: %s is out of range", c.flag, c.show(c.have)).
				WithHint("between %s and %s", c.show(c.min), c.show(c.max)))
		}
	}
	return nil
}

func checkAtMost(cmd *cobra.Command, flag string, d, most time.Duration) error {
	if d <= most {
		return nil
	}
	return usage(cmd, errors.New(errors.InvalidArgument, "--%s: %s is out of range", flag, units.Duration(d)).
		WithHint("at most %s", units.Duration(most)))
}

// checkSpan refuses a time that was given and is out of range, zero too where it
// would stand for a default.
func checkSpan(cmd *cobra.Command, flag string, d, least, most time.Duration) error {
	if !cmd.Flags().Changed(flag) || d >= least && d <= most {
		return nil
	}
	return usage(cmd, errors.New(errors.InvalidArgument, "--%s: %s is out of range", flag, units.Duration(d)).
		WithHint("between %s and %s", units.Duration(least), units.Duration(most)))
}

// checkTemplateName refuses what a template cannot be called.
func checkTemplateName(cmd *cobra.Command, name string) error {
	if domain.ValidateTemplateRef("name", name) == nil && !strings.Contains(name, ":") {
		return nil
	}
	return usage(cmd, wrongArgument("%q is not the name of a template", name).
		WithHint("a-z, 0-9, dots, dashes, underscores and slashes; --tag gives it tags"))
}

// sourceError names the flag of a template's source that is wrong.
func sourceError(cmd *cobra.Command, err *errors.Error) error {
	if flag, ok := strings.CutPrefix(err.Field, "source."); ok && cmd.Flags().Lookup(flag) != nil {
		err.Hint = ""
		return flagged(cmd, flag, err)
	}
	return usage(cmd, err)
}
