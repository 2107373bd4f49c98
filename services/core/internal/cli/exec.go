package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

func (a *app) execCommand() *cobra.Command {
	var cf commandFlags
	var detach bool
	cmd := &cobra.Command{
		Use:   "exec [options] VM -- CMD [ARG…]",
		Short: "Run a command in a VM",
		Long: `Runs a command in a VM with live output and exits as it does. Signals go on to
the command. It survives us, the server and any broken connection; attach takes
it up again.`,
		Example: `  aetherium exec web -- git status
  aetherium exec -i web -- sh < script.sh
  aetherium exec -it web -- bash
  aetherium exec --detach web -- ./server`,
		Args: leading("VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			command, err := commandArgs(cmd, args[1:])
			if err != nil {
				return err
			}
			if detach {
				return a.execDetached(cmd, args[0], command, &cf)
			}
			return a.execAttached(cmd, args[0], command, &cf)
		},
		ValidArgsFunction: a.firstArg(a.completeVMs("running")),
	}
	cf.register(cmd)
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "do not wait: print the execution's ID")
	return cmd
}

func (a *app) execAttached(cmd *cobra.Command, vm string, command []string, cf *commandFlags) error {
	start, err := cf.start(a, cmd, command, cf.interactive)
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return &exit{exitRunFailed, err}
	}
	return a.runSession(cmd.Context(), &session{app: a, stdin: cf.interactive, pty: cf.tty, whole: true}, cf,
		func(ctx context.Context, o client.StreamOptions) (*client.Stream, error) {
			return c.Start(ctx, vm, start, o)
		})
}

// runSession runs the session of a command that outlives us.
func (a *app) runSession(ctx context.Context, s *session, cf *commandFlags, open opener) error {
	out, err := s.run(ctx, 0, open)
	if err == nil {
		return s.code(out, cf.timeout)
	}
	var stop interrupted
	if errors.As(err, &stop) && out.execution != "" {
		a.say("the command goes on: aetherium attach %s --offset %d", out.execution, out.offset)
	}
	return err
}

func (a *app) execDetached(cmd *cobra.Command, vm string, command []string, cf *commandFlags) error {
	if cf.interactive {
		return usage(cmd, errors.New(errors.InvalidArgument, "--detach and --interactive exclude each other").
			WithHint("detach first, then: aetherium attach EXECUTION"))
	}
	start, err := cf.start(a, cmd, command, false)
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return &exit{exitRunFailed, err}
	}
	x, err := c.StartExecution(cmd.Context(), vm, start)
	if err != nil {
		return startError(err)
	}
	return showDone(a, []api.Execution{x}, func(x api.Execution) string { return x.ID })
}

// loginShell runs the best shell that the VM has.
var loginShell = []string{"/bin/sh", "-c", "if command -v bash >/dev/null 2>&1; then exec bash -l; fi; exec sh -l"}

func (a *app) shellCommand() *cobra.Command {
	var cf commandFlags
	cmd := &cobra.Command{
		Use:   "shell [options] VM",
		Short: "Open a shell in a VM",
		Long: `Opens a login shell in a VM. The keys ctrl-p ctrl-q detach from it. Without a
terminal the shell reads its commands from stdin.`,
		Args: exactly("VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cf.interactive, cf.tty = true, a.term != nil
			return a.execAttached(cmd, args[0], loginShell, &cf)
		},
		ValidArgsFunction: a.firstArg(a.completeVMs("running")),
	}
	cf.register(cmd)
	cmd.Flags().SetInterspersed(true)
	for _, f := range []string{"interactive", "tty"} {
		must(cmd.Flags().MarkHidden(f))
	}
	return cmd
}

func (a *app) attachCommand() *cobra.Command {
	var offset int64
	var noStdin, noSignals bool
	cmd := &cobra.Command{
		Use:   "attach [options] EXECUTION",
		Short: "Attach to a command that runs, or ran, in a VM",
		Long: `Shows an execution's output from an offset, passes stdin and signals, and exits
as the command does. On a terminal the keys ctrl-p ctrl-q detach.`,
		Args: exactly("EXECUTION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if offset < 0 {
				return usagef(cmd, "--offset: %d is negative", offset)
			}
			c, err := a.client()
			if err != nil {
				return &exit{exitRunFailed, err}
			}
			x, err := c.Execution(cmd.Context(), args[0])
			if err != nil {
				return &exit{exitRunFailed, err}
			}
			ended := x.State == "exited" || x.State == "lost"
			s := &session{
				app: a, pty: x.PTY != nil, stdin: !noStdin && !ended && (x.Stdin || x.PTY != nil), ignoreSignals: noSignals || ended,
			}
			out, err := s.run(cmd.Context(), offset, func(ctx context.Context, o client.StreamOptions) (*client.Stream, error) {
				return c.Attach(ctx, x.ID, o)
			})
			if err != nil {
				return err
			}
			return s.code(out, time.Duration(x.TimeoutMS)*time.Millisecond)
		},
		ValidArgsFunction: a.firstArg(a.completeExecutions),
	}
	f := cmd.Flags()
	f.Int64Var(&offset, "offset", 0, "where to begin, in bytes of all output")
	f.BoolVar(&noStdin, "no-stdin", false, "do not pass stdin")
	f.BoolVar(&noSignals, "no-signals", false, "do not pass signals: ctrl-C leaves the command alone")
	return cmd
}
