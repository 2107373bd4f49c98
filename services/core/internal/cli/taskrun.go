package cli

import (
	"context"
	"encoding/json"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// checkID checks a flag that names something by ID.
func checkID(cmd *cobra.Command, flag, id string) error {
	if id == "" || domain.IsID(id) {
		return nil
	}
	return flagged(cmd, flag, wrongArgument("%q is not an ID", id))
}

// taskFlags say how a command is run as a task.
type taskFlags struct {
	vm    vmFlags
	cf    commandFlags
	files []string

	results  []string
	attempts int
	backoff  time.Duration
	after    []string
	failure  string
}

func (f *taskFlags) register(a *app, cmd *cobra.Command) {
	f.vm.register(a, cmd)
	f.cf.register(cmd)
	fl := cmd.Flags()
	fl.Lookup("name").Usage = "name for the task"
	fl.Lookup("interactive").Usage = "read the command's whole input from stdin, 256 KiB at most"
	fl.Lookup("timeout").Usage = "end each attempt's command after so long, as 90s or 10m (default: 1h)"
	must(fl.MarkHidden("tty"))
	fl.StringArrayVar(&f.files, "file", nil, "file that the command finds, as LOCAL:PATH; 256 KiB in all (repeatable)")
	fl.StringArrayVar(&f.results, "result", nil, "path of a file that is kept; 256 KiB in all (repeatable)")
	fl.IntVar(&f.attempts, "attempts", 1, "how often it is tried while it fails")
	fl.Var((*durationFlag)(&f.backoff), "backoff", "pause before the second attempt, doubled for each further one (default: 1s)")
	fl.StringSliceVar(&f.after, "after", nil, "tasks that must have ended before")
	fl.StringVar(&f.failure, "after-failure", "", "when one of these has not succeeded: skip, fail or run (default: skip)")
	must(cmd.RegisterFlagCompletionFunc("after-failure", fixed("skip", "fail", "run")))
}

// request makes the request that creates a task.
func (f *taskFlags) request(a *app, cmd *cobra.Command, args []string) (api.CreateTask, error) {
	vm, err := f.vm.request(cmd)
	if err != nil {
		return api.CreateTask{}, err
	}
	if f.cf.tty {
		return api.CreateTask{}, usagef(cmd, "a task's command has no terminal")
	}
	start, err := f.cf.start(a, cmd, args, false)
	if err != nil {
		return api.CreateTask{}, err
	}
	req := api.CreateTask{
		Name: vm.Name, Command: start.Command, Results: f.results, MaxAttempts: f.attempts, BackoffMS: f.backoff.Milliseconds(),
		After: f.after, AfterFailure: f.failure,
	}
	vm.Name, vm.Env, req.Env = "", req.Env, nil // of everything in the VM
	req.VM = &vm
	if f.attempts < 1 || f.attempts > domain.MaxTaskAttempts {
		return req, flagged(cmd, "attempts", errors.New(errors.InvalidArgument, "1 to %d attempts are allowed", domain.MaxTaskAttempts))
	}
	for _, id := range f.after {
		if err := checkID(cmd, "after", id); err != nil {
			return req, err
		}
	}
	if f.failure != "" {
		if err := checkChoices(cmd, "after-failure", []string{f.failure}, []string{"skip", "fail", "run"}); err != nil {
			return req, err
		}
	}
	for _, text := range f.files {
		local, path, ok := strings.Cut(text, ":")
		if !ok || local == "" || path == "" {
			return req, flagged(cmd, "file", errors.New(errors.InvalidArgument, "%q is not LOCAL:PATH", text))
		}
		content, err := readBounded(cmd.Context(), local, domain.MaxTaskFileBytes)
		if err != nil {
			return req, flagged(cmd, "file", err)
		}
		req.Files = append(req.Files, api.TaskFile{Path: path, Content: content})
	}
	if f.cf.interactive {
		input, err := io.ReadAll(io.LimitReader(a.input(cmd.Context()), domain.MaxTaskStdin+1))
		if err != nil {
			return req, errors.Wrap(err, errors.Internal, "stdin cannot be read")
		}
		if len(input) > domain.MaxTaskStdin {
			return req, usagef(cmd, "stdin has more than %d bytes", domain.MaxTaskStdin)
		}
		req.Stdin = string(input)
	}
	return req, nil
}

// readBounded reads a file of the user's.
func readBounded(ctx context.Context, name string, limit int64) ([]byte, error) {
	f, err := openLocal(ctx, filepath.Clean(name))
	if err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "%s cannot be read", name)
	}
	defer func() { _ = f.Close() }()
	return readAtMost(f, name, limit)
}

// readAtMost reads what the user gives, whole or not at all.
func readAtMost(r io.Reader, name string, limit int64) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "%s cannot be read", name)
	}
	if int64(len(content)) > limit {
		return nil, errors.New(errors.TooLarge, "%s has more than %d bytes", name, limit)
	}
	return content, nil
}

func (a *app) taskCreateCommand() *cobra.Command {
	var f taskFlags
	cmd := &cobra.Command{
		Use:   "create [options] -- CMD [ARG…]",
		Short: "Run a command in a VM of its own, without waiting for it",
		Long: `Stores a task and prints its ID. The server makes a VM, runs the command in it
once, keeps its output and result files, and removes the VM; also when it is
restarted meanwhile. With --attempts the command is run again, in a new VM, while
it fails.`,
		Example: `  aetherium task create --timeout 10m --result report.md -- ./job.sh
  aetherium task create -i --attempts 3 -- python3 -c 'print(input())' < prompt.txt
  aetherium task create --after TASK -- ./then.sh`,
		Args: leading("CMD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := commandArgs(cmd, args)
			if err != nil {
				return err
			}
			req, err := f.request(a, cmd, args)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			t, err := c.CreateTask(cmd.Context(), req)
			if err != nil {
				return err
			}
			return showDone(a, []api.Task{t}, taskID)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f.register(a, cmd)
	return cmd
}

func (a *app) taskLogsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs TASK",
		Short: "Print what a task's command wrote in its last attempt",
		Args:  exactly("TASK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return c.TaskOutput(cmd.Context(), args[0], follow, a.Stdout)
		},
		ValidArgsFunction: a.firstArg(a.completeTasks()),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "from its start until its end")
	return cmd
}

func (a *app) taskWaitCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "wait TASK…",
		Short:             "Wait until tasks have ended; exits with 1 unless all have succeeded",
		Args:              atLeastOne("TASK"),
		ValidArgsFunction: a.completeTasks("pending", "running"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var failed error
			var done []api.Task
			for _, id := range args {
				t, err := c.WaitTask(cmd.Context(), id)
				if t.ID == "" || cmd.Context().Err() != nil {
					return err
				}
				failed = errors.Join(failed, err)
				done = append(done, t)
			}
			if err := showDone(a, done, func(t api.Task) string { return t.ID + " " + t.State }); err != nil {
				return err
			}
			return failed
		},
	}
}

func (a *app) taskRetryCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "retry TASK",
		Short: "Run the command of a task that failed or was canceled once more",
		Args:  exactly("TASK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			t, err := c.RetryTask(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return showDone(a, []api.Task{t}, taskID)
		},
		ValidArgsFunction: a.firstArg(a.completeTasks("failed", "canceled")),
	}
}

func (a *app) taskGroupCommand() *cobra.Command {
	return group("group", "Make, see and cancel many tasks at once", a.taskGroupCreateCommand(), a.taskGroupGetCommand(), a.taskGroupCancelCommand())
}

func taskGroupID(g api.TaskGroup) string { return g.ID }

// maxGroupFile bounds a file of tasks.
const maxGroupFile = 16 << 20

func (a *app) taskGroupCreateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "create FILE",
		Short: "Make the tasks that a file describes, all of them or none",
		Long: `Makes up to 1000 tasks and prints the ID of their group. The file is JSON: an
object with tasks, each as POST /api/v1/tasks takes it. A dash is stdin.`,
		Example: `  aetherium task group create tasks.json
  jq -R '{args:["./job.sh"],stdin:.}' prompts.txt | jq -s '{tasks:.}' | aetherium task group create -`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var text []byte
			var err error
			if args[0] == "-" {
				text, err = readAtMost(a.input(cmd.Context()), "stdin", maxGroupFile)
			} else {
				text, err = readBounded(cmd.Context(), args[0], maxGroupFile)
			}
			if err != nil {
				return usage(cmd, errors.Public(err))
			}
			var req api.CreateTaskGroup
			dec := json.NewDecoder(strings.NewReader(string(text)))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&req); err != nil {
				return usagef(cmd, "%s does not describe tasks: %s", args[0], err.Error())
			}
			if len(req.Tasks) == 0 {
				return usagef(cmd, "%s describes no tasks", args[0])
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			g, err := c.CreateTaskGroup(cmd.Context(), req)
			if err != nil {
				return err
			}
			return showDone(a, []api.TaskGroup{g}, taskGroupID)
		},
	}
}

func (a *app) taskGroupGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get GROUP",
		Short: "Count a group's tasks by state",
		Args:  exactly("GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			g, err := c.TaskGroup(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			p := [][2]string{{"ID", g.ID}, {"Total", strconv.Itoa(g.Total)}}
			for _, state := range taskStates {
				p = append(p, [2]string{strings.ToUpper(state[:1]) + state[1:], strconv.Itoa(g.States[state])})
			}
			return showOne(a, g, g.ID, p)
		},
	}
}

func (a *app) taskGroupCancelCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cancel GROUP",
		Short: "Ask the tasks of a group to end",
		Args:  exactly("GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			g, err := c.CancelTaskGroup(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return showDone(a, []api.TaskGroup{g}, taskGroupID)
		},
	}
}
