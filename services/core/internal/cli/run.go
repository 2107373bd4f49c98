package cli

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/cli/units"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

const (
	// outlive is how much longer than its command a VM of run may live: should
	// nobody be left to remove it, its deadline does.
	outlive = time.Minute
	// abandoned is how long a VM of run may be without any command: should
	// we be killed before we remove it, it does not stay. It is running no
	// command for some milliseconds only otherwise.
	abandoned = time.Minute
	// removeTime bounds the removal of a VM on the way out.
	removeTime = 15 * time.Second
)

func (a *app) runCommand() *cobra.Command {
	var vm vmFlags
	var cf commandFlags
	var keep bool
	cmd := &cobra.Command{
		Use:   "run [options] -- CMD [ARG…]",
		Short: "Run a command in a VM of its own",
		Long: `Creates a VM, runs the command in it with live output, and removes the VM,
whatever happens. Exits as the command does.

Stdin is passed where it is a pipe or a file, and with -i always. Signals go
on to the command; the third ctrl-C gives up on it. With -it the keys
ctrl-p ctrl-q detach; the VM is then kept.`,
		Example: `  aetherium run -- python3 -c 'print(6*7)'
  tar c . | aetherium run --network none -- tar t
  aetherium run --secret TOKEN --memory 1GiB --timeout 10m -- ./job.sh
  aetherium run -it -- bash`,
		Args: leading("CMD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := commandArgs(cmd, args)
			if err != nil {
				return err
			}
			return a.runInNewVM(cmd, args, &vm, &cf, keep)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	vm.register(a, cmd)
	cf.register(cmd)
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the VM")
	return cmd
}

func (a *app) runInNewVM(cmd *cobra.Command, args []string, vf *vmFlags, cf *commandFlags, keep bool) error {
	ctx := cmd.Context()
	req, err := vf.request(cmd)
	if err != nil {
		return err
	}
	// stdin of a pipe or file is passed without asking.
	stdin := cf.interactive || (!cmd.Flags().Changed("interactive") && isData(a.Stdin))
	start, err := cf.start(a, cmd, args, stdin)
	if err != nil {
		return err
	}
	if req.Env, start.Env = start.Env, nil; start.PTY != nil && req.Env["TERM"] != "" {
		start.Env = map[string]string{"TERM": req.Env["TERM"]} // of this terminal, not of the VM
		delete(req.Env, "TERM")
	}
	if !keep {
		req.IdleTimeoutMS = abandoned.Milliseconds()
		if cf.timeout > 0 {
			ms := (cf.timeout + outlive).Milliseconds()
			req.TimeoutMS = &ms
		}
	}
	c, err := a.client()
	if err != nil {
		return &exit{exitRunFailed, err}
	}
	made := &temporary{app: a, client: c, key: domain.NewID().String(), req: req}
	vm, err := c.CreateVMOnce(ctx, made.key, req)
	made.id = vm.ID
	if err != nil {
		made.remove(ctx)
		return &exit{exitRunFailed, err}
	}
	s := &session{app: a, stdin: stdin, pty: cf.tty, whole: true}
	out, err := s.run(ctx, 0, func(ctx context.Context, o client.StreamOptions) (*client.Stream, error) {
		return c.Start(ctx, vm.ID, start, o)
	})
	detached := err == nil && out.exit == nil
	if !keep && !detached {
		made.remove(ctx)
	}
	if err != nil {
		return err
	}
	if detached && !keep {
		made.keep(ctx)
	}
	if keep || detached {
		a.say("the VM is kept: %s (aetherium vm rm %s)", vmName(vm), vmName(vm))
	}
	return s.code(out, cf.timeout)
}

// temporary is a VM that is removed on the way out.
type temporary struct {
	*app
	client *client.Client
	key    string
	req    api.CreateVM
	id     string // empty: the answer to its creation did not arrive
}

// keep has the VM stay after all.
func (t *temporary) keep(ctx context.Context) {
	never := int64(0)
	if _, err := t.client.PatchVM(ctx, t.id, api.PatchVM{TimeoutMS: &never, IdleTimeoutMS: &never}); err != nil {
		t.say("the VM %s ends %s after its last command", t.id, units.Duration(abandoned))
		t.tell(err)
	}
}

// remove removes the VM, also when ctx has ended and when its ID never
// arrived: the same key then finds the VM, if there is one.
func (t *temporary) remove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	if t.id == "" {
		// The very same request: with a difference the key would not find it. It
		// need not be ready to be removed, and may take long to be: tools.
		id, err := t.client.FindVMOnce(ctx, t.key, t.req)
		switch {
		case err == nil:
			t.id = id
		case ctx.Err() != nil || client.IsUnreachable(err):
			t.say("should a VM have been made, it ends by itself after %s", units.Duration(abandoned))
			return
		default:
			return // nor was one made
		}
	}
	gone := func(err error) bool { return errors.HasCode(err, errors.NotFound) || errors.HasCode(err, errors.Gone) }
	switch err := t.client.DropVM(ctx, t.id); {
	case gone(err):
		return
	case err != nil:
		t.say("the VM %s could not be removed", t.id)
		t.tell(err)
		return
	}
	if len(t.req.Volumes) == 0 {
		return
	}
	// The next command may want them.
	if _, err := t.client.DeleteVM(ctx, t.id); err != nil && !gone(err) {
		t.say("the VM %s is being removed, and has its volumes until it is gone", t.id)
	}
}

// isData reports whether stdin holds data that is meant to be passed: a pipe,
// a socket or a file, but not a terminal or /dev/null.
func isData(stdin any) bool {
	f, ok := stdin.(*os.File)
	if !ok {
		return stdin != nil
	}
	info, err := f.Stat()
	return err == nil && (info.Mode().IsRegular() || info.Mode()&(os.ModeNamedPipe|os.ModeSocket) != 0)
}
