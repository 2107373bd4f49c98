package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/cli/units"
)

// Main runs the command line and returns the exit code.
func Main(ctx context.Context, args []string, h Host) int {
	a := newApp(h)
	defer a.term.Guard()
	defer a.term.Restore()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if h.Signals != nil {
		done := make(chan struct{})
		defer close(done)
		a.term.Go(func() { a.dispatch(ctx, cancel, done) })
	}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	a.term.Restore()
	return a.report(ctx, err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "aetherium",
		Short: "Machines for agents: create, run, copy, snapshot, fork",
		Long: `aetherium creates isolated machines in milliseconds and runs commands in them.

  aetherium run -- python3 -c 'print(6*7)'      a VM for one command
  vm=$(aetherium vm create -q)                   a VM to keep
  aetherium exec $vm -- make test
  aetherium cp ./src $vm:work
  aetherium vm fork $vm

Exit codes: run, exec, shell and attach exit as the command does, 128+n after
signal n. Of our own: 1 failed, 2 wrong usage, 130 interrupted; of those four
commands 125 failed, 126 the program cannot be executed, 127 there is none.

With -o json a command shows the API's own objects, described at URL/docs; a
command's output and events are a line of JSON each. Where stdout is no terminal
a table has no titles, its values are whole and a tab stands between them.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              cobra.ArbitraryArgs,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.checkGlobals(cmd) },
	}
	var showVersion bool
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if showVersion && len(args) == 0 {
			return a.showVersion()
		}
		return groupRun(cmd, args)
	}
	root.Flags().BoolVarP(&showVersion, "version", "v", false, "show the version of this command line")
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(flagError)
	f := root.PersistentFlags()
	f.StringVar(&a.flags.url, "url", "", "the server's URL (AETHERIUM_URL; default: the one running on this host)")
	f.StringVar(&a.flags.key, "key", "", "API key (AETHERIUM_API_KEY; others on this host can see a key given here: prefer the variable or --key-file)")
	f.StringVar(&a.flags.keyFile, "key-file", "", "file that holds the API key")
	f.StringVar(&a.flags.project, "project", "", "name or ID of the project to work in, where the key is good for several (AETHERIUM_PROJECT; default: the key's own)")
	f.StringVarP(&a.flags.output, "output", "o", "table", "how to show results: table, json or name")
	f.BoolVarP(&a.flags.quiet, "quiet", "q", false, "show names or IDs only")
	a.flags.patience = time.Minute
	f.Var((*durationFlag)(&a.flags.patience), "patience", "how long to wait for a server that was there and went away")
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run commands:"}, &cobra.Group{ID: "vm", Title: "Machines:"},
		&cobra.Group{ID: "see", Title: "See what happens:"}, &cobra.Group{ID: "access", Title: "Who may do what:"})
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("run", a.runCommand(), a.execCommand(), a.shellCommand(), a.attachCommand(), a.logsCommand())
	add("vm", a.vmCommand(), a.snapshotCommand(), a.volumeCommand(), a.templateCommand(), a.toolCommand(), a.secretCommand(), a.cpCommand(), a.portCommand(), a.egressCommand())
	add("see", a.topCommand(), a.eventsCommand(), a.webhookCommand(), a.taskCommand(), a.quotaCommand(), a.auditCommand(), a.archiveCommand(), a.queueCommand(), a.systemCommand(), a.workerCommand(), a.statusCommand(), a.doctorCommand())
	add("access", a.keyCommand(), a.projectCommand(), a.memberCommand(), a.userCommand(), a.tokenCommand(), a.whoamiCommand(), a.e2bCommand())
	root.AddCommand(a.versionCommand(), a.completionCommand())
	root.SetHelpCommand(helpCommand(root))
	must(root.RegisterFlagCompletionFunc("output", fixed("table", "json", "name")))
	must(root.RegisterFlagCompletionFunc("project", a.flagValues(a.completeProjects)))
	tidyUsage(root)
	return root
}

func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{Use: "help [command]", Short: "Help about a command", RunE: func(_ *cobra.Command, args []string) error {
		cmd, rest, err := root.Find(args)
		switch {
		case err != nil:
			return usagef(root, "%s", err)
		case len(rest) > 0 && cmd.HasSubCommands():
			return groupRun(cmd, rest) // which says that there is no such command
		}
		return cmd.Help()
	}}
}

// tidyUsage has every usage line say where the options go, once.
func tidyUsage(cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	if name, rest, _ := strings.Cut(cmd.Use, " "); !cmd.HasSubCommands() && !strings.HasPrefix(rest, "[options]") && cmd.Name() != "help" {
		cmd.Use = strings.TrimSpace(name + " [options] " + rest)
	}
	for _, c := range cmd.Commands() {
		tidyUsage(c)
	}
}

func (a *app) checkGlobals(cmd *cobra.Command) error {
	switch a.flags.output {
	case "json":
		if a.flags.quiet {
			return usagef(cmd, "--output json and --quiet exclude each other")
		}
		return nil
	case "table", "name":
		return nil
	}
	return usage(cmd, errors.New(errors.InvalidArgument, "--output: there is no format %q", a.flags.output).WithHint("table, json or name"))
}

// group makes a command that only holds others.
func group(use, short string, cmds ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: groupRun}
	c.AddCommand(cmds...)
	return c
}

func groupRun(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	e := errors.New(errors.InvalidArgument, "there is no command %q", strings.TrimSpace(strings.TrimPrefix(cmd.CommandPath(), "aetherium")+" "+args[0]))
	cmd.SuggestionsMinimumDistance = 2
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		e = e.WithHint("did you mean %q?", nearest(args[0], like))
	}
	return usage(cmd, e)
}

// nearest is the word of some that differs the least from another: in the letters
// to be put in, left out or changed (Levenshtein).
func nearest(to string, words []string) string {
	return slices.MinFunc(words, func(a, b string) int { return distance(to, a) - distance(to, b) })
}

func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0] // of the row above, one to the left
		row[0] = i + 1
		for j := range len(b) {
			change := before
			if a[i] != b[j] {
				change++
			}
			before = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// exactly asks for arguments by their names.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef(cmd, "%s is missing", names[len(args)])
		case len(args) > len(names):
			return usagef(cmd, "%q is one argument too many", args[len(names)])
		}
		for i, name := range names {
			if err := checkArgument(cmd, name, args[i]); err != nil {
				return err
			}
		}
		return nil
	}
}

func atLeastOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := leading(name)(cmd, args); err != nil {
			return err
		}
		for _, arg := range args[1:] {
			if err := checkArgument(cmd, name, arg); err != nil {
				return err
			}
		}
		return nil
	}
}

// leading asks for one argument; those behind it are a command's own.
func leading(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef(cmd, "%s is missing", name)
		}
		return checkArgument(cmd, name, args[0])
	}
}

// must panics on errors that only a mistake in this package can make.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// The flags with units. They are strings to pflag, so that help shows no type of ours.
type (
	bytesFlag    int64
	cpusFlag     int64
	durationFlag time.Duration
)

func (f *bytesFlag) Set(s string) (err error) { *(*int64)(f), err = units.ParseBytes(s); return err }
func (f *bytesFlag) Type() string             { return "size" }
func (f *bytesFlag) String() string {
	if *f == 0 {
		return ""
	}
	return strings.ReplaceAll(units.Bytes(int64(*f)), " ", "")
}

func (f *cpusFlag) Set(s string) (err error) { *(*int64)(f), err = units.ParseCPUs(s); return err }
func (f *cpusFlag) Type() string             { return "cores" }
func (f *cpusFlag) String() string {
	if *f == 0 {
		return ""
	}
	return units.CPUs(int64(*f))
}

func (f *durationFlag) Set(s string) (err error) {
	*(*time.Duration)(f), err = units.ParseDuration(s)
	return err
}
func (f *durationFlag) Type() string { return "duration" }
func (f *durationFlag) String() string {
	if *f == 0 {
		return ""
	}
	return units.Duration(time.Duration(*f))
}

// optionalDuration is a duration of which zero means something: nil is "not given".
type optionalDuration struct{ d *time.Duration }

func (f *optionalDuration) Set(s string) error {
	d, err := units.ParseDuration(s)
	f.d = &d
	return err
}
func (f *optionalDuration) Type() string { return "duration" }
func (f *optionalDuration) String() string {
	if f.d == nil {
		return ""
	}
	return fmt.Sprint(*f.d)
}

func (f *optionalDuration) ms() *int64 {
	if f.d == nil {
		return nil
	}
	ms := f.d.Milliseconds()
	return &ms
}
