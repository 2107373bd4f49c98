package cli

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

func (a *app) logsCommand() *cobra.Command {
	var follow, all bool
	var offset int64
	cmd := &cobra.Command{
		Use:   "logs [options] VM|EXECUTION",
		Short: "Show the output of an execution, or of a VM's newest one",
		Args:  exactly("VM or EXECUTION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case offset < 0:
				return usagef(cmd, "--offset: %d is negative", offset)
			case all && follow:
				return usagef(cmd, "--all and --follow exclude each other")
			case all && cmd.Flags().Changed("offset"):
				return usagef(cmd, "--all and --offset exclude each other: an offset is one in an execution's output")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			l := &logReader{app: a, c: c}
			if all {
				return l.every(cmd.Context(), args[0])
			}
			x, err := l.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if follow {
				return l.follow(cmd.Context(), x, offset)
			}
			return l.kept(cmd.Context(), x, offset)
		},
		ValidArgsFunction: a.firstArg(a.completeVMs()),
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on until the command ends")
	f.BoolVar(&all, "all", false, "every execution of the VM, oldest first")
	f.Int64Var(&offset, "offset", 0, "where to begin, in bytes of all output")
	return cmd
}

type logReader struct {
	*app
	c *client.Client
}

// find finds an execution by its ID, or a VM's newest.
func (l *logReader) find(ctx context.Context, name string) (api.Execution, error) {
	x, err := l.c.Execution(ctx, name)
	if !errors.HasCode(err, errors.NotFound) && !errors.HasCode(err, errors.InvalidArgument) {
		return x, err
	}
	list, err := client.Collect(l.c.Executions(ctx, name, client.ExecutionFilter{Page: client.Page{Limit: 1}, Incomplete: l.incomplete}))
	if err != nil {
		return x, err
	}
	if len(list) == 0 {
		return x, errors.New(errors.NotFound, "no command was run in %s yet", name).WithHint("aetherium exec %s -- CMD", name)
	}
	return list[0], nil
}

// incomplete warns that commands of the last moments may not be known.
func (l *logReader) incomplete(reason string) {
	l.say("commands of the last moments may be missing: %s", reason)
}

func (l *logReader) every(ctx context.Context, vm string) error {
	list, err := client.Collect(l.c.Executions(ctx, vm, client.ExecutionFilter{Page: client.Page{OldestFirst: true}, Incomplete: l.incomplete}))
	if err != nil {
		return err
	}
	for i, x := range list {
		if !l.asJSON() {
			gap := "\n"
			if i == 0 {
				gap = ""
			}
			if _, err := io.WriteString(l.Stderr, gap+"==> "+x.ID+" "+render.Clean(strings.Join(x.Args, " "))+" ("+ending(x)+") <==\n"); err != nil {
				return err
			}
		}
		if err := l.kept(ctx, x, 0); err != nil {
			return err
		}
	}
	return nil
}

// kept shows what there is.
func (l *logReader) kept(ctx context.Context, x api.Execution, offset int64) error {
	s := &session{app: l.app}
	for ev, err := range l.c.Output(ctx, x.ID, offset) {
		switch {
		case err != nil:
			return err
		case l.asJSON():
			err = render.JSONLine(l.Stdout, ev)
		case ev.Gap != nil:
			err = s.write(client.StreamEvent{Gap: ev.Gap})
		case ev.Stream == streamName(api.FrameStderr):
			_, err = l.Stderr.Write(ev.Data)
		default:
			_, err = l.Stdout.Write(ev.Data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// follow shows output until the command ends; signals end us alone.
func (l *logReader) follow(ctx context.Context, x api.Execution, offset int64) error {
	s := &session{app: l.app, ignoreSignals: true}
	_, err := s.run(ctx, offset, func(ctx context.Context, o client.StreamOptions) (*client.Stream, error) {
		return l.c.Attach(ctx, x.ID, o)
	})
	var failed *exit
	if errors.As(err, &failed) {
		return failed.err // there is no command's code to be told apart from
	}
	return err
}
