package cli

import (
	"bufio"
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// commandFlags say how a command is run in a VM.
type commandFlags struct {
	envFlags
	user        string
	workdir     string
	timeout     time.Duration
	interactive bool
	tty         bool
}

func (f *commandFlags) register(cmd *cobra.Command) {
	f.envFlags.register(cmd)
	fl := cmd.Flags()
	fl.StringVarP(&f.user, "user", "u", "", "OS user in the VM (default: the VM's)")
	fl.StringVarP(&f.workdir, "workdir", "w", "", "directory to run in (default: the user's home)")
	fl.StringVar(&f.workdir, "cwd", "", "same as --workdir")
	must(fl.MarkHidden("cwd"))
	fl.Var((*durationFlag)(&f.timeout), "timeout", "end the command after so long, as 90s or 10m (default: never)")
	fl.BoolVarP(&f.interactive, "interactive", "i", false, "pass stdin")
	fl.BoolVarP(&f.tty, "tty", "t", false, "run it on a terminal")
	fl.SetInterspersed(false)
}

// start makes the request that starts a command.
func (f *commandFlags) start(a *app, cmd *cobra.Command, args []string, stdin bool) (api.StartExecution, error) {
	env, err := f.environment(a, cmd)
	if err != nil {
		return api.StartExecution{}, err
	}
	if err := domain.ValidateUser("user", f.user); err != nil {
		return api.StartExecution{}, flagged(cmd, "user", err)
	}
	req := api.StartExecution{
		ID: domain.NewID().String(),
		Command: api.Command{
			Args: args, Env: env, Cwd: f.workdir, User: f.user, TimeoutMS: f.timeout.Milliseconds(),
		},
		Stdin: stdin,
	}
	if f.tty {
		size := a.size()
		req.PTY = &size
		if term := a.env("TERM"); term != "" && a.term != nil && req.Env["TERM"] == "" {
			if req.Env == nil {
				req.Env = map[string]string{}
			}
			req.Env["TERM"] = term
		}
	}
	return req, nil
}

// commandArgs takes the command after "VM [flags] --" or "VM" apart. Flags may
// stand on either side of the VM; behind the command's name they are its own.
func commandArgs(cmd *cobra.Command, args []string) ([]string, error) {
	if len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "--" {
		dash := 0
		for dash < len(args) && args[dash] != "--" {
			dash++
		}
		if dash == len(args) {
			return nil, usage(cmd, errors.New(errors.InvalidArgument, "%q stands where the command is expected", args[0]).
				WithHint("put -- before the command, or options before the VM"))
		}
		if err := cmd.Flags().Parse(args[:dash]); err != nil {
			return nil, flagError(cmd, err)
		}
		if stray := cmd.Flags().Args(); len(stray) > 0 {
			return nil, usagef(cmd, "%q is one argument too many", stray[0])
		}
		args = args[dash:]
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 || args[0] == "" {
		return nil, usagef(cmd, "CMD is missing")
	}
	return args, nil
}

// envFlags are environment variables for a VM or a command.
type envFlags struct {
	env     []string
	envFile string
	secrets []string
}

func (f *envFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVarP(&f.env, "env", "e", nil, "environment variable as K=V, or K to pass this one's value (repeatable)")
	fl.StringVar(&f.envFile, "env-file", "", "file of K=V lines")
	fl.StringArrayVar(&f.secrets, "secret", nil, "environment variable K whose value is taken from the present environment, where no process list shows it (repeatable)")
}

func (f *envFlags) environment(a *app, cmd *cobra.Command) (map[string]string, error) {
	var env map[string]string
	set := func(k, v string) {
		if env == nil {
			env = map[string]string{}
		}
		env[k] = v
	}
	if f.envFile != "" {
		if err := readEnvFile(cmd.Context(), f.envFile, set); err != nil {
			return nil, err
		}
	}
	for _, e := range f.env {
		k, v, given := strings.Cut(e, "=")
		if k == "" {
			return nil, usagef(cmd, "--env: %q has no name", e)
		}
		if !given {
			if v, given = a.Getenv(k); !given {
				continue // as docker and env(1) have it
			}
		}
		set(k, v)
	}
	for _, k := range f.secrets {
		v, given := a.Getenv(k)
		switch {
		case strings.Contains(k, "="):
			// The value is not repeated here: it is meant to be secret.
			return nil, usage(cmd, errors.New(errors.InvalidArgument, "--secret: a name is expected, not a value").
				WithHint("export the variable and give its name: a value would be in the process list"))
		case !given:
			return nil, usage(cmd, errors.New(errors.InvalidArgument, "--secret: there is no %s in the environment", k).WithHint("export %s first", k))
		}
		set(k, v)
	}
	if err := domain.ValidateEnv("env", env); err != nil {
		return nil, envError(cmd, err)
	}
	return env, nil
}

func readEnvFile(ctx context.Context, name string, set func(k, v string)) error {
	f, err := openLocal(ctx, name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, domain.MaxEnvBytes)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if !ok || k == "" {
			return errors.New(errors.InvalidArgument, "%s, line %d: K=V is expected", name, n)
		}
		if err := domain.ValidateEnv("env", map[string]string{k: v}); err != nil {
			return errors.New(errors.InvalidArgument, "%s, line %d: %s", name, n, errors.Public(err).Message)
		}
		set(k, v)
	}
	return lines.Err()
}

// pairs reads K=V arguments.
func pairs(cmd *cobra.Command, flag string, args []string) (map[string]string, error) {
	var m map[string]string
	for _, arg := range args {
		k, v, ok := strings.Cut(arg, "=")
		if !ok || k == "" {
			return nil, usagef(cmd, "--%s: K=V is expected, not %q", flag, arg)
		}
		if m == nil {
			m = map[string]string{}
		}
		m[k] = v
	}
	return m, nil
}
